"""Changing to another bundle while a node runs: a thread opens and warms it up, and it takes over between two ticks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.bundle import BundleError, Manifest
from engines.errors import EngineError
from engines.opening import open_session
from engines.session import Session
from runtime.node.decisions import blank_evidence
from runtime.node.hosting import check_rigs
from runtime.rig import Rig, RigError, check_same_windows
from runtime.transport.control import Command, ControlServer


@dataclass(frozen=True)
class Successor:
    """A session that is ready to take over.

    Attributes:
        session: warm.
        blank: modality -> evidence of an all-zero window; empty where nobody needs it.
    """

    session: Session
    blank: dict[str, npt.NDArray[np.float32]]


class _Loader:
    """Opens one session in a thread, so that ticks go on meanwhile."""

    def __init__(self, path: Path, check: Callable[[Manifest], None], *, with_blank: bool) -> None:
        self._path, self._check, self._with_blank = path, check, with_blank
        self.successor: Successor | None = None
        self.failure = ""
        self._thread = threading.Thread(target=self._load, name="session loader", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def _load(self) -> None:
        session: Session | None = None
        try:
            session = open_session(self._path)
            self._check(session.manifest)
            session.warm_up()
            blank = blank_evidence(session) if self._with_blank else {}
            self.successor = Successor(session, blank)
        except (EngineError, BundleError, RigError, OSError, MemoryError) as e:
            self.failure = str(e) or type(e).__name__
            if session is not None:
                session.close()

    def close(self) -> None:
        self._thread.join()
        if self.successor is not None:
            self.successor.session.close()


class BundleSwap:
    """One swap at a time: a command starts it, the node adopts the session between two ticks, the command is answered.

    Call in this order: :meth:`start`, :meth:`poll` until it gives a session, :meth:`adopted`.
    """

    def __init__(
        self, rigs: Sequence[Rig], *, with_blank: bool, on_failure: Callable[[str, str], None]
    ) -> None:
        """Nothing to swap yet.

        Args:
            rigs: of the node; another bundle must fit them all.
            with_blank: encode blank windows as well.
            on_failure: gets the path and the reason of a bundle that is not taken over.
        """
        self._rigs, self._with_blank, self._on_failure = rigs, with_blank, on_failure
        self._loader: _Loader | None = None
        self._command: Command | None = None
        self._control: ControlServer | None = None
        self._adopted: Successor | None = None

    def start(self, command: Command, control: ControlServer, current: Manifest) -> None:
        """Start to open the bundle that a command names; refused while another one is being opened.

        Args:
            command: as it came.
            control: where it is answered.
            current: manifest of the bundle at work.
        """
        if self._loader is not None:
            control.refuse(command, "another bundle is being opened; ask again when that is done")
            return

        def check(manifest: Manifest) -> None:
            check_rigs(self._rigs, manifest)
            for modality in current.modalities:
                check_same_windows(modality, manifest.modality(modality.name))

        self._command, self._control = command, control
        self._loader = _Loader(Path(command.request.path), check, with_blank=self._with_blank)

    def poll(self) -> Successor | None:
        """The session that is to take over now; None if there is none.

        If the bundle could not be opened, whoever asked for it and ``on_failure`` get the reason.
        """
        if self._loader is None or not self._loader.is_done:
            return None
        loader, self._loader = self._loader, None
        if loader.successor is None and self._control is not None and self._command is not None:
            self._on_failure(self._command.request.path, loader.failure)
            self._control.refuse(self._command, loader.failure)
        return loader.successor

    def adopted(self, successor: Successor) -> None:
        """It took over: answer the command, and close the session before it, unless that is the caller's own."""
        if self._control is not None and self._command is not None:
            self._control.done(self._command, successor.session.bundle_hash)
        if self._adopted is not None:
            self._adopted.session.close()
        self._adopted = successor

    def close(self) -> None:
        """Close what was opened here; may be called again."""
        if self._loader is not None:
            self._loader.close()
        if self._adopted is not None:
            self._adopted.session.close()
        self._loader = self._adopted = None
