"""The pipeline: everything a node decides about one rig, as a function of (messages, now); no socket, no engine.

The caller's loop: give every waiting message to :meth:`Pipeline.receive`; encode what :meth:`Pipeline.due_windows`
gives and pass the result to :meth:`Pipeline.store_evidence`; when :meth:`Pipeline.tick` gives a plan, fuse and publish
it; publish :meth:`Pipeline.events`; wait for messages until :meth:`Pipeline.wake_ns`. All times are int nanoseconds on
the node's clock. Drain the socket before ``tick``: a sensor is silent if nothing of it was received, and a message that
waits in a socket was not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import Manifest
from runtime.core.accounting import Ledger, sum_counters
from runtime.core.agreement import AgreementMonitor, CrossCheck
from runtime.core.clock import nanoseconds
from runtime.core.fusion import FusionInput, fill
from runtime.core.health import State
from runtime.core.schedule import tick_schedule
from runtime.core.stream import DueWindow, ModalityStream
from runtime.core.tick_plan import ModalityStatus, TickPlan
from runtime.rig import FillPolicy, Rig, check_rig_feeds_bundle, check_same_windows
from runtime.wire import FRAME_PREFIX, Frame, FrameDecoder, HealthEvent, Limits, Reason, WireError

__all__ = [
    "DueWindow",
    "FusionInput",
    "ModalityStatus",
    "Pipeline",
    "Received",
    "Rejected",
    "State",
    "TickPlan",
]

_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Received:
    """An accepted message."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refused message, already counted.

    Attributes:
        reason: the closed reason.
        expected: what would have been right.
        came: what came, shortened and printable.
        modality: whose counters it went to; None if it belongs to no modality of the rig.
    """

    reason: Reason
    expected: str
    came: str
    modality: str | None


class Pipeline:
    """Messages in, windows and tick plans out.

    Args:
        rig: what the sensors deliver, and the policies.
        manifest: what the model needs, and the thresholds of the content checks.
        start_ns: now; the first tick is due one period later.
        compare: further fill policies; every plan has an input for each of them.
        limits: larger messages are refused.

    Raises:
        RigError: the rig cannot feed the bundle.
    """

    def __init__(
        self,
        rig: Rig,
        manifest: Manifest,
        start_ns: int,
        *,
        compare: Sequence[FillPolicy] = (),
        limits: Limits = _DEFAULT_LIMITS,
    ) -> None:
        check_rig_feeds_bundle(rig, manifest)
        self.rig = rig
        self._decoder = FrameDecoder(limits)
        self._compare = tuple(compare)
        self._schedule = tick_schedule(rig.tick, start_ns)
        self._tick_triggers = frozenset(rig.tick.on or rig.modality_names)
        self._window_ns: dict[str, int] = {}
        self._streams = {
            sensor.modality: ModalityStream(
                sensor,
                manifest.modality(sensor.modality),
                rig.health,
                manifest.health_thresholds.get(sensor.modality, {}),
                start_ns,
            )
            for sensor in rig.sensors
        }
        self._unattributed = Ledger()
        self._topics = {FRAME_PREFIX + f"{rig.name}/{m}".encode(): m for m in self._streams}
        self._blank: dict[str, npt.NDArray[np.float32]] = {}
        self._agreement = self._new_agreement(manifest)
        # The caller drains it on every turn; bounded in case it does not.
        self._events: deque[HealthEvent] = deque(maxlen=1024)

    def receive(self, parts: Sequence[Any], now_ns: int) -> Received | Rejected:
        """Receive one message: decode, validate and buffer it, and note what it means for the sensor's health.

        Args:
            parts: topic, header, payload as they came from the socket.
            now_ns: when they came.

        Returns:
            whether it was accepted. A bad message raises nothing: it is counted, and affects no other modality.
        """
        modality = self._modality_of(parts)
        stream = self._streams[modality] if modality is not None else None
        ledger = stream.ledger if stream is not None else self._unattributed
        ledger.arrive()
        try:
            frame = self._decoder.decode(parts)
            if frame.rig != self.rig.name:
                raise WireError(Reason.WRONG_RIG, f"rig {self.rig.name!r}", frame.rig)
            if stream is None:
                raise WireError(Reason.UNKNOWN_MODALITY, f"one of {list(self._streams)}", frame.modality)
            stream.receive(frame, now_ns)
        except WireError as e:
            ledger.drop(e.reason)
            if stream is not None and modality is not None:
                if e.reason is not Reason.NOT_FINITE:
                    stream.health.refused(now_ns, str(e))
                # At once: a fault may be over before the next tick, and must be published all the same.
                self._judge(modality, stream, now_ns)
            return Rejected(e.reason, e.expected, e.came, modality)
        return Received(frame)

    @property
    def is_behind(self) -> bool:
        """Whether the newest message of a live sensor came late; after a stall, newer ones should follow."""
        return any(stream.health.is_behind for stream in self._streams.values())

    @property
    def has_due_windows(self) -> bool:
        """Whether :meth:`due_windows` would cut any."""
        return any(stream.buffer.is_due for stream in self._streams.values())

    def due_windows(self, now_ns: int) -> list[DueWindow]:
        """The newest window of every modality that reached its next hop and passed its content checks.

        A window that fails makes its modality ``corrupt`` and is not given out. If one passes, the modality is not
        judged by the age of its evidence so far, which is old after a stall and about to be replaced.
        """
        due = []
        for name, stream in self._streams.items():
            if stream.buffer.is_due:
                window = stream.due_window()
                if window is not None:
                    due.append(window)
                    self._window_ns[name] = now_ns
                self._judge(name, stream, now_ns, renewed=window is not None)
        return due

    def store_evidence(self, modality: str, evidence: npt.NDArray[np.float32], capture_ns: int) -> None:
        """Store the evidence that the engine made of a due window.

        Args:
            modality: of the window.
            evidence: (evidence_size,) float32. If it is not finite it counts as :meth:`encode_failed`.
            capture_ns: of the window.

        Raises:
            ValueError: the shape is not the manifest's: a fault of the caller, not of a sensor.
        """
        stream = self._streams[modality]
        checked = self._checked(modality, evidence)
        if not np.isfinite(checked).all():
            stream.health.encode_failed("evidence is not finite")
            return
        stream.evidence, stream.evidence_ns = checked, capture_ns
        stream.health.evidence(capture_ns)
        if modality in self._tick_triggers:
            self._schedule.arrived(self._window_ns.get(modality, 0))

    def encode_failed(self, modality: str, now_ns: int, detail: str) -> None:
        """The engine failed on a due window: ``missing`` (reason ``encode_failed``) until new evidence is stored."""
        stream = self._streams[modality]
        stream.health.encode_failed(detail)
        self._judge(modality, stream, now_ns)

    def set_blank_evidence(self, modality: str, evidence: npt.NDArray[np.float32]) -> None:
        """Set the evidence of an all-zero window; once per modality, if policy ``zero`` is used or compared."""
        self._blank[modality] = self._checked(modality, evidence)

    def replace_bundle(self, manifest: Manifest) -> list[DueWindow]:
        """Change to another bundle; health, buffers and counters stay.

        Evidence is discarded, blank evidence too: set that again if it is needed.

        Returns:
            the windows to encode again and store before the next tick.

        Raises:
            RigError: the bundle takes other windows than the one before it.
        """
        check_rig_feeds_bundle(self.rig, manifest)
        for name, stream in self._streams.items():
            check_same_windows(stream.spec, manifest.modality(name))
        for stream in self._streams.values():
            stream.health.disagreement(None)
        self._blank.clear()
        self._agreement = self._new_agreement(manifest)
        windows = (
            stream.replace_bundle(manifest.modality(name), manifest.health_thresholds.get(name, {}))
            for name, stream in self._streams.items()
        )
        return [window for window in windows if window is not None]

    def check(self, now_ns: int) -> None:
        """Judge every modality at ``now``, as :meth:`tick` does as well."""
        for name, stream in self._streams.items():
            self._judge(name, stream, now_ns)

    def tick(self, now_ns: int) -> TickPlan | None:
        """Judge every modality, and plan the tick that is due; None if none is.

        A tick more than one period late is skipped and counted as missed; the newest due one takes its place.
        """
        self.check(now_ns)
        due = self._schedule.due(now_ns)
        if due is None:
            return None
        live = {name: s.health.state is State.LIVE for name, s in self._streams.items()}
        main = self._fill(self.rig.fill, live)
        weights = main.presence.tolist()
        captures = [s.evidence_ns for n, s in self._streams.items() if live[n] and s.evidence_ns is not None]
        return TickPlan(
            number=due.number,
            deadline_ns=due.deadline_ns,
            input=main,
            alternatives={policy: self._fill(policy, live) for policy in self._compare},
            modalities={
                name: ModalityStatus(
                    state=s.health.state,
                    reason=s.health.reason,
                    age_ns=None if s.evidence_ns is None else now_ns - s.evidence_ns,
                    weight=weights[i],
                    imputed=name in main.imputed,
                )
                for i, (name, s) in enumerate(self._streams.items())
            },
            capture_ns=max(captures, default=None),
            cross_checks=self._cross_checks(due.deadline_ns, live),
        )

    def store_cross_checks(
        self, plan: TickPlan, probabilities: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    ) -> None:
        """Keep what fusion made of a plan's cross-checks; a sensor they show to be implausible is judged so next time.

        Args:
            plan: the last one that :meth:`tick` gave.
            probabilities: modality -> class probabilities from that modality alone, and from the others.
        """
        if self._agreement is None or not plan.cross_checks:
            return
        self._agreement.store(plan.deadline_ns, probabilities)
        for name, stream in self._streams.items():
            stream.health.disagreement(self._agreement.detail(name))

    def tick_failed(self) -> None:
        """The engine failed on the plan that :meth:`tick` gave last; the tick counts as failed, not as published."""
        self._schedule.failed += 1
        self._schedule.published -= 1

    def wake_ns(self, now_ns: int) -> int:
        """When the caller must call :meth:`tick` at the latest; not before ``now``.

        That is the next tick's deadline, or earlier if a sensor's silence becomes ``missing`` before it, so that the
        change is published when it happens and not up to a tick later.
        """
        wake = self._schedule.next_deadline_ns
        for stream in self._streams.values():
            silence = stream.health.next_silence_ns
            if silence is not None and silence < wake:
                wake = silence
        return max(now_ns, wake)

    def events(self) -> list[HealthEvent]:
        """Changes of state since the last call, oldest first; at most the newest 1024."""
        events = list(self._events)
        self._events.clear()
        return events

    def state(self, modality: str) -> State:
        """The state of one modality as last judged."""
        return self._streams[modality].health.state

    def latest_window(self, modality: str) -> DueWindow | None:
        """The last window given out for encoding; ``best/<m>`` is measured from it while the modality is live."""
        return self._streams[modality].latest

    def counters(self) -> dict[str, Any]:
        """Where everything went, ready for JSON.

        Returns:
            ``received``, ``used``, ``pending``, ``dropped`` {reason: n}, ``unaccounted``, ``lost``, ``restarts``,
            ``clock_reanchored``, ``windows`` {encoded, superseded, corrupt}, ``ticks`` {published, missed,
            failed} in total; ``modalities`` the same per modality, without ticks; ``unattributed`` the messages
            that belong to no modality. :mod:`runtime.core.accounting` explains the words.
        """
        modalities = {name: s.counters() for name, s in self._streams.items()}
        unattributed = self._unattributed.counters()
        total = sum_counters((*modalities.values(), unattributed))
        ticks = {
            "published": self._schedule.published,
            "missed": self._schedule.missed,
            "failed": self._schedule.failed,
        }
        return total | {"ticks": ticks, "modalities": modalities, "unattributed": unattributed}

    def _modality_of(self, parts: Sequence[Any]) -> str | None:
        """Whose counters a message belongs to, by its topic alone, so that a bad header is attributed as well."""
        if not parts or len(parts[0]) > 512:
            return None
        return self._topics.get(bytes(parts[0]))

    def _judge(self, name: str, stream: ModalityStream, now_ns: int, *, renewed: bool = False) -> None:
        before = stream.health.state
        if stream.health.check(now_ns, renewed=renewed) is before:
            return
        for c in stream.health.changes():
            self._events.append(
                HealthEvent(self.rig.name, name, c.at_ns, c.previous.value, c.state.value, c.reason, c.detail)
            )

    def _new_agreement(self, manifest: Manifest) -> AgreementMonitor | None:
        odds = self.rig.health.implausible_odds
        if odds is None:
            return None
        windows_s = [(m.window + m.hop) / m.rate_hz for m in manifest.modalities]
        return AgreementMonitor(self.rig.modality_names, odds, nanoseconds(max(windows_s)))

    def _cross_checks(self, now_ns: int, live: Mapping[str, bool]) -> Mapping[str, CrossCheck]:
        if self._agreement is None:
            return {}
        healthy = {
            name: live[name] or s.health.state is State.IMPLAUSIBLE for name, s in self._streams.items()
        }
        return self._agreement.cross_checks(now_ns, live, healthy, self._evidence())

    def _fill(self, policy: FillPolicy, live: Mapping[str, bool]) -> FusionInput:
        return fill(policy, self.rig.modality_names, live, self._evidence(), self._blank)

    def _evidence(self) -> dict[str, npt.NDArray[np.float32]]:
        return {name: s.evidence for name, s in self._streams.items() if s.evidence is not None}

    def _checked(self, modality: str, evidence: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        size = self._streams[modality].spec.evidence_size
        if evidence.shape != (size,):
            raise ValueError(f"evidence of {modality!r}: expected shape ({size},), got {evidence.shape}")
        return np.asarray(evidence, np.float32)
