"""The journal of a rig: every input of its pipeline, in order, for whoever subscribes; recordings are made of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from engines.bundle import Manifest
from runtime.rig import FillPolicy, Rig
from runtime.transport.sockets import DecisionSender
from runtime.wire import JournalEntry, encode_entry
from runtime.wire.journal import Call


class Journal:
    """Publishes one entry per call of a pipeline while somebody subscribes to ``journal/``.

    Whoever calls the pipeline reports each call here, after it returned and in the same order
    (:class:`~runtime.node.hosting.HostedRig`); the pipeline does not know. Calls are counted from the first one,
    whether anybody subscribes or not, so a reader can tell whether it has all of them.
    """

    def __init__(
        self,
        sender: DecisionSender,
        rig: Rig,
        manifest: Manifest,
        start_ns: int,
        *,
        backend: str,
        compare: Sequence[FillPolicy] = (),
    ) -> None:
        """Begin a run.

        Args:
            sender: publishes the entries.
            rig: the pipeline's.
            manifest: of the bundle that the pipeline starts with.
            start_ns: when the pipeline started, node clock.
            backend: of the session.
            compare: fill policies that the pipeline compares.
        """
        self._sender = sender
        self._order = 0
        self._numbers: Counter[Call] = Counter()
        self._frames: dict[str, int] = {}
        self._now_ns = start_ns
        self._settings = {
            "rig": rig.model_dump(mode="json"),
            "bundle": manifest.hash,
            "bundle_name": manifest.name,
            "backend": backend,
            "start_ns": start_ns,
            "wall_ns": time.time_ns() - (time.monotonic_ns() - start_ns),
            "compare": list(compare),
        }

    def begin(self, now_ns: int) -> None:
        """Publish the settings of the run; to be called whenever somebody subscribes to the journal."""
        entry = JournalEntry("begin", self._order, now_ns, settings=self._settings)
        self._sender.send(encode_entry(entry))

    def frame(self, parts: Sequence[Any], now_ns: int, modality: str) -> None:
        """The pipeline received a message.

        Args:
            parts: of the message, as they came.
            now_ns: when it came, node clock.
            modality: whose it is; empty where that cannot be told.
        """
        order, number = self._order, self._frames.get(modality, 0)
        self._order, self._frames[modality] = order + 1, number + 1
        self._now_ns = now_ns
        if self._sender.journaled:
            entry = JournalEntry("frame", order, now_ns, number, modality, parts=tuple(parts))
            self._sender.send(encode_entry(entry))

    def windows(self, now_ns: int) -> None:
        """The pipeline was asked for due windows, and at least one modality had one."""
        self._add("windows", now_ns)

    def evidence(self, modality: str, capture_ns: int) -> None:
        """The pipeline stored the evidence of a window. The evidence is left out: encoding makes it again."""
        self._add("evidence", self._now_ns, modality=modality, capture_ns=capture_ns)

    def encode_failed(self, modality: str, now_ns: int, detail: str) -> None:
        """The pipeline was told that the engine failed on a window."""
        self._add("encode_failed", now_ns, modality=modality, detail=detail)

    def bundle(self, manifest: Manifest, now_ns: int, backend: str) -> None:
        """The pipeline changed to another bundle; later ``begin`` entries name this one."""
        bundle = {"bundle": manifest.hash, "bundle_name": manifest.name, "backend": backend}
        self._settings |= bundle
        self._add("bundle", now_ns, settings=bundle)

    def tick(self, now_ns: int) -> None:
        """The pipeline was asked for a tick, whether one was due or only silence was judged."""
        self._add("tick", now_ns)

    def _add(self, call: Call, at_ns: int, *, modality: str = "", **fields: Any) -> None:
        order, number = self._order, self._numbers[call]
        self._order += 1
        self._numbers[call] += 1
        self._now_ns = at_ns
        if self._sender.journaled:
            entry = JournalEntry(call, order, at_ns, number, modality, **fields)
            self._sender.send(encode_entry(entry))
