"""Health of one modality: may a tick trust it, and if not, why?

A state machine over facts with their times. Facts come from outside (a message came, a window was judged, evidence was
stored); :meth:`HealthMonitor.check` turns them and ``now`` into a state. Faults act at once. The return to ``live``
has two conditions: ``recover_frames`` good messages in a row, and evidence from a window that was cut after the
fault. Windows never bridge a gap and never pass with bad content, so that evidence is made of good samples only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from runtime.core.clock import NS_PER_S, nanoseconds
from runtime.core.silence import SilenceLimit
from runtime.rig import HealthPolicy, SensorSpec


class State(StrEnum):
    """Health of one modality; only ``live`` is present in the mask."""

    WAITING = "waiting"
    """Before its first trusted window, within the grace for starting: absent, but not faulty."""
    LIVE = "live"
    LATE = "late"
    """Data arrives, but is too old."""
    MISSING = "missing"
    """No data."""
    FROZEN = "frozen"
    """The same data again and again."""
    CORRUPT = "corrupt"
    """Data that fails a content check."""
    BAD_CLOCK = "bad_clock"
    """Data whose time is unknown: its stamps are impossible, or the clock's offset is too uncertain."""
    IMPLAUSIBLE = "implausible"
    """Healthy data that contradicts all the other sensors."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """The rules of one modality in nanoseconds and counts.

    Attributes:
        silence_ns: silence longer than this is ``missing``: max(silence_periods x message period, floor).
        even_silence_ns: the lowest limit, for a sensor whose messages come evenly
            (:class:`~runtime.core.silence.SilenceLimit`).
        period_ns: between two messages.
        first_frame_ns: grace from the start to the first message.
        first_window_ns: grace from the start to the first trusted window.
        late_ns: a message older than this on arrival is late.
        stale_ns: evidence older than this at a tick is late.
        frozen_frames: this many identical messages in a row are ``frozen``.
        recover_frames: this many good messages in a row are needed for ``live``.
    """

    silence_ns: int
    even_silence_ns: int
    period_ns: int
    first_frame_ns: int
    first_window_ns: int
    late_ns: int
    stale_ns: int
    frozen_frames: int
    recover_frames: int

    @classmethod
    def of(cls, policy: HealthPolicy, sensor: SensorSpec, window_s: float, hop_s: float) -> HealthLimits:
        """The limits that a rig's policy sets for one sensor with windows of ``window_s``, one every ``hop_s``."""
        silence_s = max(policy.silence_periods * sensor.period_s, policy.silence_floor_s)
        return cls(
            silence_ns=nanoseconds(silence_s),
            even_silence_ns=nanoseconds(silence_s * policy.even_share),
            period_ns=nanoseconds(sensor.period_s),
            first_frame_ns=nanoseconds(policy.first_frame_grace_s),
            # A slow sensor's first window ends this long after its first frame; a hop more, to cut and encode it.
            first_window_ns=nanoseconds(policy.first_frame_grace_s + window_s + hop_s + silence_s),
            late_ns=nanoseconds(policy.late_s),
            # Evidence ages by a hop between two windows; and a silent sensor must be missing before it is late.
            stale_ns=nanoseconds(max(policy.late_s, silence_s) + hop_s + sensor.period_s),
            frozen_frames=policy.frozen_frames,
            recover_frames=policy.recover_frames,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state."""

    at_ns: int
    previous: State
    state: State
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Verdict:
    state: State
    reason: str = ""
    detail: str = ""


_HEALTHY = _Verdict(State.LIVE)


class HealthMonitor:
    """The state of one modality as a function of (facts, now).

    Attributes:
        state: as last judged.
        reason: the rule behind it; empty while live.
    """

    def __init__(self, limits: HealthLimits, start_ns: int) -> None:
        self.limits = limits
        self.state = State.WAITING
        self.reason = "no_frame"
        self._start_ns = start_ns
        self._arrival_ns: int | None = None
        self._silence = SilenceLimit(limits.silence_ns, limits.even_silence_ns, limits.period_ns)
        self._age_ns = 0
        self._captured_ns = start_ns
        self._identical = 1
        self._good = 0
        self._content: tuple[str, str] | None = None
        self._engine: str | None = None
        self._refusal: tuple[int, str] | None = None
        self._clock: tuple[str, str] | None = None
        self._disagreement: str | None = None
        self._evidence_ns: int | None = None
        self._trusted = False
        self._fault_ns: int | None = None
        self._changes: list[Change] = []

    @property
    def is_frozen(self) -> bool:
        """Whether enough of the latest messages were identical to call the sensor frozen."""
        return self._identical >= self.limits.frozen_frames

    @property
    def is_behind(self) -> bool:
        """Whether the sensor is live although its latest message was late on arrival."""
        return self.state is State.LIVE and self._age_ns > self.limits.late_ns

    @property
    def next_silence_ns(self) -> int | None:
        """When silence will become ``missing`` unless a message comes first; None if it cannot or already is."""
        if self._arrival_ns is None or self.state is State.MISSING:
            return None
        return self._arrival_ns + self._silence.ns + 1

    def message(self, now_ns: int, captured_ns: int, *, identical: bool) -> None:
        """Fact: an acceptable message arrived; ``identical`` to the one before it or not."""
        self._note_arrival(now_ns)
        self._age_ns, self._captured_ns = now_ns - captured_ns, captured_ns
        self._clock = None
        self._identical = self._identical + 1 if identical else 1
        if self.is_frozen:
            # What was found before concerns samples that no window contains any more; forget it.
            self._content = None
        spoiled = self.is_frozen or self._age_ns > self.limits.late_ns
        self._good = 0 if spoiled else self._good + 1

    def not_finite(self, now_ns: int, detail: str) -> None:
        """Fact: a message came with NaN or infinity in it. It is a sign of life, but not data."""
        self._note_arrival(now_ns)
        self._good = 0
        self._content = ("not_finite", detail)

    def bad_clock(self, now_ns: int, reason: str, detail: str) -> None:
        """Fact: a message came whose time is unknown; this holds until a message with a possible stamp comes."""
        self._note_arrival(now_ns)
        self._good = 0
        self._clock = (reason, detail)

    def refused(self, now_ns: int, detail: str) -> None:
        """Fact: a message of this modality was refused for its form. It is no sign of life of the sensor."""
        self._refusal = (now_ns, detail)

    def window(self, failed_check: str | None, detail: str = "") -> None:
        """Fact: a new window was checked; ``failed_check`` names the check that it failed, None if it passed."""
        if failed_check is None:
            self._content = None
        else:
            self._content = (failed_check, detail)
            self._good = 0

    def evidence(self, captured_ns: int) -> None:
        """Fact: a window that passed was encoded; ``captured_ns`` is the capture time of its newest sample."""
        self._evidence_ns = captured_ns
        self._engine = None
        # A window that the engine was encoding when the fault was found comes from before the fault.
        self._trusted = self._fault_ns is None or captured_ns > self._fault_ns

    def encode_failed(self, detail: str) -> None:
        """Fact: the engine failed on this modality's window."""
        self._engine = detail

    def disagreement(self, detail: str | None) -> None:
        """Fact: how the sensor disagrees with the others (:mod:`runtime.core.agreement`); None if it does not."""
        self._disagreement = detail

    def check(self, now_ns: int, *, renewed: bool = False) -> State:
        """Judge the facts at ``now``; a change of state is kept for :meth:`changes`.

        Args:
            now_ns: now.
            renewed: a new window is being encoded, so the age of the evidence so far does not count.
        """
        verdict = self._judge(now_ns, renewed=renewed)
        if verdict.state is State.LIVE and self.state is not State.LIVE:
            if not (self._trusted and self._good >= self.limits.recover_frames):
                # The old fault stays until the sensor meets both conditions for its return.
                return self.state
            self._enter(now_ns, State.LIVE, "started" if self.state is State.WAITING else "recovered", "")
        elif verdict.state is not self.state:
            self._enter(now_ns, verdict.state, verdict.reason, verdict.detail)
        elif verdict.state is State.WAITING:
            self.reason = verdict.reason
        return self.state

    def changes(self) -> list[Change]:
        """Changes since the last call, oldest first."""
        changes, self._changes = self._changes, []
        return changes

    def _note_arrival(self, now_ns: int) -> None:
        if self._arrival_ns is not None:
            self._silence.gap(now_ns - self._arrival_ns)
        self._arrival_ns = now_ns

    def _enter(self, now_ns: int, state: State, reason: str, detail: str) -> None:
        self._changes.append(Change(now_ns, self.state, state, reason, detail))
        self.state = state
        self.reason = "" if state is State.LIVE else reason
        if state is not State.LIVE:
            # Evidence from before the fault says nothing about the sensor after it.
            self._trusted = False
            # A stamp may be a little ahead of the node's clock; all that came before the fault counts as before it.
            self._fault_ns = max(now_ns, self._captured_ns)

    def _judge(self, now_ns: int, *, renewed: bool) -> _Verdict:
        limits = self.limits
        waited_ns = now_ns - self._start_ns
        if self._arrival_ns is None:
            if waited_ns <= limits.first_frame_ns:
                return _Verdict(State.WAITING, "no_frame")
            return self._silent(now_ns, "no_frame", f"none in {_seconds(waited_ns)}")
        silence_ns = now_ns - self._arrival_ns
        if silence_ns > self._silence.ns:
            return self._silent(now_ns, "silence", f"no message for {_seconds(silence_ns)}")
        if self.is_frozen:
            return _Verdict(State.FROZEN, "identical", f"{self._identical} identical messages")
        if self._clock is not None:
            return _Verdict(State.BAD_CLOCK, *self._clock)
        if self._content is not None:
            return _Verdict(State.CORRUPT, *self._content)
        if self._engine is not None:
            return _Verdict(State.MISSING, "encode_failed", self._engine)
        if self._age_ns > limits.late_ns:
            return _Verdict(
                State.LATE, "capture_age", f"{_seconds(self._age_ns)} > {_seconds(limits.late_ns)} on arrival"
            )
        if self._disagreement is not None:
            return _Verdict(State.IMPLAUSIBLE, "disagreement", self._disagreement)
        return self._judge_evidence(now_ns, waited_ns, renewed=renewed)

    def _judge_evidence(self, now_ns: int, waited_ns: int, *, renewed: bool) -> _Verdict:
        limits = self.limits
        if self._evidence_ns is None:
            if self.state is not State.WAITING:
                return _HEALTHY
            if waited_ns <= limits.first_window_ns:
                return _Verdict(State.WAITING, "no_window")
            return _Verdict(State.MISSING, "no_window", f"no trusted window in {_seconds(waited_ns)}")
        stale_ns = now_ns - self._evidence_ns
        if self._trusted and not renewed and stale_ns > limits.stale_ns:
            return _Verdict(
                State.LATE, "evidence_age", f"{_seconds(stale_ns)} > {_seconds(limits.stale_ns)} at the tick"
            )
        return _HEALTHY

    def _silent(self, now_ns: int, reason: str, detail: str) -> _Verdict:
        """Missing; the reason is ``refused`` instead of silence if messages came lately and all were refused."""
        self._good = 0
        if self._refusal is not None and now_ns - self._refusal[0] <= self.limits.silence_ns:
            return _Verdict(State.MISSING, "refused", self._refusal[1])
        return _Verdict(State.MISSING, reason, detail)


def _seconds(ns: int) -> str:
    return f"{ns / NS_PER_S:.3f} s"
