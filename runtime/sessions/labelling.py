"""Labelling while sensors are recorded: by keys, or from a program through :class:`Labeller`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from runtime.rig import Rig, load_rig
from runtime.transport.endpoints import default_endpoints
from runtime.transport.keys import Keys
from runtime.transport.sockets import FrameSender
from runtime.wire.labels import Label, encode_label


class KeyLabels:
    """A label per class that is switched on and off; at most one holds at a time. A function of (presses, now)."""

    def __init__(self, rig: str, author: str = "keys") -> None:
        """Begin with no label.

        Args:
            rig: whose session it is.
            author: who presses.
        """
        self._rig, self._author = rig, author
        self._number = 0
        self._open: Label | None = None

    @property
    def holding(self) -> str:
        """The class that holds now; empty if none does."""
        return "" if self._open is None else self._open.name

    def press(self, name: str, now_ns: int) -> list[Label]:
        """End the label that holds; begin one of another class. Gives the labels that changed."""
        told, before = self.end(now_ns), self._open
        held = told[0].name if told else ""
        assert before is None
        if name != held:
            self._open = Label(self._rig, name, now_ns, None, self._author, self._number)
            self._number += 1
            told.append(self._open)
        return told

    def end(self, now_ns: int) -> list[Label]:
        """End the label that holds, if one does."""
        held, self._open = self._open, None
        if held is None:
            return []
        return [
            Label(held.rig, held.name, held.onset_ns, max(now_ns, held.onset_ns), held.author, held.number)
        ]


class Labeller:
    """Publishes labels from a program to whatever records a rig; a context manager, for one thread.

    Publishing never waits; a label that nobody hears is gone::

        with Labeller("my-rig.yaml", author="experiment") as labeller:
            with labeller.label("squeeze"):
                show_the_instruction()
    """

    def __init__(
        self,
        rig: Rig | str | Path,
        author: str = "program",
        *,
        endpoint: str | None = None,
        keys: Keys | None = None,
        patience_s: float = 0.2,
    ) -> None:
        """Connect.

        Args:
            rig: a rig, the name of a shipped one, or the path of a YAML file.
            author: who labels; two programs need two names.
            endpoint: the frames endpoint of the recorder or node; the rig's default if not given.
            keys: own pair and the node's public key; needed on another machine.
            patience_s: how long to wait for the connection, so that the first label is not lost.

        Raises:
            RigError: no such rig.
            EndpointError: an endpoint that is not allowed, or keys that cannot be used.
        """
        self._rig = rig if isinstance(rig, Rig) else load_rig(rig)
        self._labels = KeyLabels(self._rig.name, author)
        self._sender = FrameSender(endpoint or default_endpoints(self._rig.name).frames, keys=keys)
        time.sleep(patience_s)

    def begin(self, name: str) -> None:
        """A class holds from now on; the one before ends."""
        if name != self._labels.holding:
            self._send(self._labels.press(name, time.monotonic_ns()))

    def end(self) -> None:
        """The class that holds ends now."""
        self._send(self._labels.end(time.monotonic_ns()))

    @contextmanager
    def label(self, name: str) -> Iterator[None]:
        """A class holds while the block runs."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()

    def close(self) -> None:
        """End the label that holds and disconnect; may be called again."""
        if self._labels.holding:
            self.end()
            time.sleep(0.05)  # a socket that is closed drops what has not left it yet
        self._sender.close()

    def _send(self, labels: list[Label]) -> None:
        for label in labels:
            self._sender.send(encode_label(label))

    def __enter__(self) -> Self:
        """The labeller itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self.close()
