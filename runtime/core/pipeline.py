"""API published first; bodies follow in the next commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import Manifest
from runtime.rig import FillPolicy, Rig
from runtime.wire import Frame, HealthEvent, Limits, Reason


class State(StrEnum):  # moves to runtime/core/health.py
    """Health of one modality. Only ``live`` is present in the mask."""

    WAITING = "waiting"  # before its first trusted window, within the first-frame grace: absent, but no fault
    LIVE = "live"
    LATE = "late"
    MISSING = "missing"
    FROZEN = "frozen"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Received:
    """An accepted message."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refused message, already counted. ``modality`` is None when it could not be told."""

    reason: Reason
    expected: str
    came: str
    modality: str | None


@dataclass(frozen=True, slots=True)
class DueWindow:
    """A window to encode.

    Attributes:
        modality: whose.
        window: (*window_shape) in the raw dtype; a copy, never changed afterwards.
        capture_ns: capture time of its newest sample, node clock.
    """

    modality: str
    window: npt.NDArray[Any]
    capture_ns: int


@dataclass(frozen=True, slots=True)
class ModalityStatus:
    """One modality at a tick."""

    state: State
    reason: str
    age_ns: int | None  # since capture of the newest evidence; None before the first
    weight: float  # the presence value given to fuse


@dataclass(frozen=True, slots=True)
class FusionInput:  # moves to runtime/core/fusion.py
    """What one call of ``Session.fuse`` gets (add the batch axis).

    Attributes:
        presence: (M,) float32, 0 or 1, in the order of the rig.
        evidence: modality -> (E,) float32; a key is missing where nothing is known (fuse takes zeros).
        imputed: modalities for which the decision stands on the model's estimate.
    """

    presence: npt.NDArray[np.float32]
    evidence: Mapping[str, npt.NDArray[np.float32]]
    imputed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TickPlan:
    """One tick to fuse and publish."""

    number: int
    deadline_ns: int
    input: FusionInput  # under the rig's fill policy
    alternatives: Mapping[str, FusionInput]  # policy -> input, for the policies in ``compare``
    modalities: Mapping[str, ModalityStatus]
    capture_ns: int | None  # newest contributing capture time, node clock


class Pipeline:
    """Everything the node decides, as a function of (messages, now); no sockets, no sleeping, no engine.

    The shell's loop: ``receive`` every waiting message; encode what ``due_windows`` gives and ``store_evidence``;
    ``tick``: if it gives a plan, fuse and publish; publish ``events()``; wait for messages until ``wake_ns``.
    All times are int nanoseconds on the node's clock. Drain the socket before ``tick``: silence is judged on
    arrival, so a message still waiting in the socket has not arrived.
    """

    def __init__(
        self, rig: Rig, manifest: Manifest, start_ns: int, *, compare: Sequence[FillPolicy] = (), limits: Limits = Limits()
    ) -> None:
        """Check that the rig feeds the bundle (RigError) and preallocate; the first tick is due at start + period."""
        raise NotImplementedError

    def receive(self, parts: Sequence[Any], now_ns: int) -> Received | Rejected:
        """Take one message: decode, validate, buffer, judge. Never raises on input; every refusal is counted."""
        raise NotImplementedError

    def due_windows(self, now_ns: int) -> list[DueWindow]:
        """The newest window of every modality that has reached its next hop and passed its content checks."""
        raise NotImplementedError

    def store_evidence(self, modality: str, evidence: npt.NDArray[np.float32], capture_ns: int) -> None:
        """Keep the evidence (E,) of a due window; ``capture_ns`` is the window's. Evidence that is not finite
        counts as ``encode_failed``."""
        raise NotImplementedError

    def encode_failed(self, modality: str, now_ns: int, detail: str) -> None:
        """The engine failed on a due window: the modality is ``missing`` (reason ``encode_failed``) until new evidence."""
        raise NotImplementedError

    def set_blank_evidence(self, modality: str, evidence: npt.NDArray[np.float32]) -> None:
        """Evidence (E,) of an all-zero window, for policy ``zero``; call once per modality before the first tick if
        ``rig.fill`` or ``compare`` has ``zero``."""
        raise NotImplementedError

    def check(self, now_ns: int) -> None:
        """Judge silence and age now; ``tick`` does it too."""
        raise NotImplementedError

    def tick(self, now_ns: int) -> TickPlan | None:
        """The plan of the tick that is due, or None. A deadline more than one period late is skipped and counted missed."""
        raise NotImplementedError

    def wake_ns(self, now_ns: int) -> int:
        """When the shell must call ``tick`` at the latest: the next tick deadline."""
        raise NotImplementedError

    def events(self) -> list[HealthEvent]:
        """State changes since the last call, oldest first."""
        raise NotImplementedError

    def state(self, modality: str) -> State:
        """The state of one modality as last judged."""
        raise NotImplementedError

    def latest_window(self, modality: str) -> DueWindow | None:
        """The last window that was given out for encoding; for the measured part of ``best/<m>``."""
        raise NotImplementedError

    def counters(self) -> dict[str, Any]:
        """JSON-ready: {"received", "used", "pending", "dropped": {reason: n}, "unaccounted", "lost", "restarts",
        "windows": {"encoded", "superseded", "corrupt"}, "ticks": {"published", "missed"}, "modalities": {m: same}}."""
        raise NotImplementedError
