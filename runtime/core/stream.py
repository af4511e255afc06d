"""One modality of the pipeline: its order, buffer, health and ledger, and the rules that connect them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import ModalitySpec
from runtime.core import quality
from runtime.core.accounting import Ledger
from runtime.core.clock import NS_PER_S, ahead_of, nanoseconds, node_time
from runtime.core.clock_guard import ClockGuard
from runtime.core.health import HealthLimits, HealthMonitor
from runtime.core.order import Place, StreamOrder
from runtime.core.windows import WindowBuffer
from runtime.rig import HealthPolicy, SensorSpec
from runtime.wire import Frame, Reason, WireError

_BEGINNING_BYTES = 4096
"""Of a message larger than this, only the beginning is compared first with the message before."""

_LONGEST_CHUNKS = 4
"""A message may be this many times the rig's chunk (or one window) before it is refused as wrongly shaped."""


@dataclass(frozen=True, slots=True)
class DueWindow:
    """A window to encode.

    Attributes:
        modality: whose window it is.
        window: (*window_shape) in the raw dtype; never changes.
        capture_ns: capture time of its newest sample, node clock.
    """

    modality: str
    window: npt.NDArray[Any]
    capture_ns: int


class ModalityStream:
    """The pipeline's state of one modality.

    Args:
        sensor: what is delivered, by the rig.
        spec: what the model needs, by the bundle.
        policy: the rig's health policy.
        thresholds: the bundle's content checks of this modality.
        start_ns: when the pipeline started.
    """

    def __init__(
        self,
        sensor: SensorSpec,
        spec: ModalitySpec,
        policy: HealthPolicy,
        thresholds: dict[str, float],
        start_ns: int,
    ) -> None:
        self.spec = spec
        self.ledger = Ledger()
        self.order = StreamOrder()
        limits = HealthLimits.of(policy, sensor, spec.window / spec.rate_hz, spec.hop / spec.rate_hz)
        self.health = HealthMonitor(limits, start_ns)
        longest = max(_LONGEST_CHUNKS * sensor.chunk, spec.window)
        self.buffer = WindowBuffer(spec, longest)
        self.evidence: npt.NDArray[np.float32] | None = None
        self.evidence_ns: int | None = None
        self.latest: DueWindow | None = None
        self.windows = {"encoded": 0, "superseded": 0, Reason.CORRUPT.value: 0}
        self._thresholds = thresholds
        self._tolerance_ns = nanoseconds(policy.future_tolerance_s)
        self._certain_ns = nanoseconds(policy.clock_uncertainty_s)
        period_ns = nanoseconds(sensor.period_s)
        self.clock_guard = ClockGuard(policy.recover_frames, limits.late_ns, period_ns)
        self._dtype = np.dtype(spec.dtype)
        self._is_float = self._dtype.kind == "f"
        # A stamp may be this much later than expected before samples count as lost.
        self._jitter_ns = 2 * period_ns
        self._samples_before: npt.NDArray[Any] | None = None
        self._beginning = b""

    def receive(self, frame: Frame, now_ns: int) -> None:
        """Validate and buffer one decoded message; the ledger has already counted its arrival.

        Raises:
            WireError: refused; only counters and health have changed.
        """
        self._refuse_form(frame)
        captured_ns, place = self._placed(frame, now_ns)
        if place is Place.DUPLICATE:
            raise WireError(
                Reason.DUPLICATE, f"a sequence after {self.order.sequence}", f"{frame.sequence} again"
            )
        if place is Place.OUT_OF_ORDER:
            raise WireError(
                Reason.OUT_OF_ORDER,
                f"sequence after {self.order.sequence}, captured after {self.order.capture_ns} ns",
                f"sequence {frame.sequence}, captured at {captured_ns} ns",
            )
        # Counted, because numpy's all() takes three times as long, and this runs for every message.
        count = frame.samples.size - np.count_nonzero(np.isfinite(frame.samples)) if self._is_float else 0
        if count:
            self._skip(frame, captured_ns, place)
            self.health.not_finite(now_ns, f"{count} of {frame.samples.size} samples")
            raise WireError(
                Reason.NOT_FINITE, "finite samples", f"{count} of {frame.samples.size} NaN or infinite"
            )
        self._accept(frame, captured_ns, now_ns, place)

    def due_window(self) -> DueWindow | None:
        """The newest window if there is a new one and it passes the content checks; one that fails is counted."""
        cut = self.buffer.cut()
        if cut is None:
            return None
        self.windows["superseded"] += cut.superseded
        measures = quality.measure(self.spec.kind, cut.window)
        failed = quality.judge(self.spec.kind, measures, self._thresholds)
        if failed is not None:
            self.windows[Reason.CORRUPT.value] += 1
            self.health.window(failed, _failure(failed, measures, self._thresholds))
            self.ledger.window_refused(cut.start, cut.end)
            self.ledger.expire(self.buffer.oldest)
            return None
        self.windows["encoded"] += 1
        self.health.window(None)
        self.ledger.window_used(cut.start, cut.end)
        self.ledger.expire(self.buffer.oldest)
        self.latest = DueWindow(self.spec.name, cut.window, cut.capture_ns)
        return self.latest

    def counters(self) -> dict[str, Any]:
        """Where this modality's messages and windows went, ready for JSON."""
        return self.ledger.counters() | {
            "lost": self.order.lost,
            "restarts": self.order.restarts,
            "clock_reanchored": self.clock_guard.reanchored,
            "windows": dict(self.windows),
        }

    def replace_bundle(self, spec: ModalitySpec, thresholds: dict[str, float]) -> DueWindow | None:
        """Change to another bundle that takes the same windows: use its content checks and discard the evidence.

        Returns:
            The window that the discarded evidence was made of, to encode again; None if there was no evidence.
        """
        self.spec, self._thresholds = spec, thresholds
        had_evidence, self.evidence = self.evidence is not None, None
        return self.latest if had_evidence else None

    def _refuse_form(self, frame: Frame) -> None:
        spec = self.spec
        if frame.samples.dtype != self._dtype:
            raise WireError(Reason.WRONG_DTYPE, spec.dtype, frame.samples.dtype.name)
        shape = frame.samples.shape
        if shape[1:] != spec.sample_shape or shape[0] > self.buffer.longest:
            form = ", ".join(["n", *map(str, spec.sample_shape)])
            raise WireError(Reason.WRONG_SHAPE, f"({form}) with n in 1..{self.buffer.longest}", shape)
        if frame.unit != spec.unit:
            raise WireError(Reason.WRONG_UNIT, f"unit {spec.unit!r}", frame.unit)

    def _placed(self, frame: Frame, now_ns: int) -> tuple[int, Place]:
        """The capture time on the node's clock and the place in the stream.

        Raises:
            WireError: the stamp is impossible, and the clock cannot be followed
                (:class:`~runtime.core.clock_guard.ClockGuard`).
        """
        captured_ns = node_time(frame.capture_ns, frame.clock) + self.clock_guard.correction_ns
        place = self.order.place(frame.sequence, captured_ns)
        fault = self._clock_fault(frame, captured_ns, now_ns, place)
        if fault is None:
            return captured_ns, place
        followed = self.clock_guard.refused(frame.sequence, captured_ns, now_ns)
        # One wrong stamp among good ones costs its message; a second in a row is a fault of the clock.
        if followed or self.clock_guard.suspects > 1:
            self.health.bad_clock(now_ns, fault.reason.value, str(fault))
        if not followed:
            raise fault
        captured_ns = node_time(frame.capture_ns, frame.clock) + self.clock_guard.correction_ns
        fault = self._clock_fault(frame, captured_ns, now_ns, Place.RESTART)
        if fault is not None:
            raise fault
        return captured_ns, Place.RESTART

    def _clock_fault(self, frame: Frame, captured_ns: int, now_ns: int, place: Place) -> WireError | None:
        """What proves a stamp wrong; None if nothing does."""
        if ahead_of(now_ns, captured_ns, self._tolerance_ns, frame.clock):
            return WireError(
                Reason.FUTURE,
                f"captured at most {self._tolerance_ns / NS_PER_S} s after now",
                f"{(captured_ns - now_ns) / NS_PER_S:.6f} s after now on clock {frame.clock.id!r}",
            )
        if place is Place.BACKWARD:
            return WireError(
                Reason.BACKWARD,
                f"captured after message {self.order.sequence}",
                f"message {frame.sequence} captured {(self.order.capture_ns - captured_ns) / NS_PER_S:.6f} s before "
                f"it on clock {frame.clock.id!r}",
            )
        return None

    def _accept(self, frame: Frame, captured_ns: int, now_ns: int, place: Place) -> None:
        samples = frame.samples
        if self._breaks(place, captured_ns, len(samples)):
            self._restart(Reason.BROKEN_WINDOW)
        self.order.accept(place, frame.sequence, captured_ns)
        self.clock_guard.accepted(captured_ns, now_ns)
        self.health.message(now_ns, captured_ns, identical=self._repeats(samples))
        if frame.clock.uncertainty_ns > self._certain_ns:
            self.health.bad_clock(
                now_ns, "uncertain", f"offset known to {frame.clock.uncertainty_ns / NS_PER_S:.3f} s"
            )
        if self.health.is_frozen:
            self._restart(Reason.FROZEN)
            self.ledger.drop(Reason.FROZEN)
            return
        self.ledger.accept(*self.buffer.append(samples, captured_ns))
        self.ledger.expire(self.buffer.oldest)

    def _repeats(self, samples: npt.NDArray[Any]) -> bool:
        """Whether a message repeats the one before it, in a way that a working sensor does not.

        Constant samples (digital silence, a flat electrode) repeat without the sensor being frozen; the content checks
        judge those. This does not apply to images.
        """
        # Two images of a working camera differ from the beginning; only if they do not, everything is compared.
        small = samples.nbytes <= _BEGINNING_BYTES
        beginning = samples.tobytes() if small else samples.reshape(-1)[: _BEGINNING_BYTES // 8].tobytes()
        same, self._beginning = beginning == self._beginning, beginning
        before, self._samples_before = self._samples_before, samples
        if not same or before is None or before.shape != samples.shape:
            return False
        if not small and samples.tobytes() != before.tobytes():
            return False
        return self.buffer.is_image or bool((samples != samples[0]).any())

    def _skip(self, frame: Frame, captured_ns: int, place: Place) -> None:
        """Skip a message in order whose samples cannot be used: it arrived, so it is not lost, but it leaves a gap."""
        self.order.accept(place, frame.sequence, captured_ns)
        if self.buffer.window > 1:
            self._restart(Reason.BROKEN_WINDOW)

    def _breaks(self, place: Place, captured_ns: int, count: int) -> bool:
        """Whether there is a gap between the last message and this one that no window may bridge."""
        if self.buffer.window == 1 or place is Place.FIRST:
            return False
        expected_ns = self.order.capture_ns + round(count * 1e9 / self.spec.rate_hz)
        return place is not Place.NEXT or captured_ns - expected_ns > self._jitter_ns

    def _restart(self, reason: Reason) -> None:
        self.buffer.restart()
        self.ledger.discard(reason)


def _failure(check: str, measures: dict[str, float], thresholds: dict[str, float]) -> str:
    measured, side = check.rsplit("_", 1)
    sign = ">" if side == "max" else "<"
    return f"{measured} {measures[measured]:.4g} {sign} {thresholds[check]:.4g}"
