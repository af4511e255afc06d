"""What can be told of sensors without a model: state, rate and losses; a function of (frames, now)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.core.clock import NS_PER_S, node_time
from runtime.core.health import HealthLimits, HealthMonitor, State
from runtime.core.order import Place, StreamOrder
from runtime.rig import Rig, SensorSpec
from runtime.wire import Frame, HealthEvent, Reason, WireError, decode_frame
from runtime.wire.topics import FRAME_PREFIX


@dataclass(frozen=True, slots=True)
class SensorDigest:
    """What came of one sensor in a stretch of time.

    Attributes:
        modality: whose.
        state: health at its end.
        reason: the rule behind the state; empty while live.
        samples: how many came.
        rate_hz: samples per second of the stretch.
        promised_hz: samples per second that the rig promises.
        lost: messages that their numbers say were sent and did not come.
        refused: messages that are not this sensor's as the rig describes it.
    """

    modality: str
    state: State
    reason: str
    samples: int
    rate_hz: float
    promised_hz: float
    lost: int
    refused: int

    @property
    def problem(self) -> str:
        """What a person should know, in a few words; empty where all is well."""
        if self.state is not State.LIVE:
            return f"{self.state.value}: {self.reason}"
        if self.refused:
            return f"{self.refused} messages refused"
        if self.lost:
            return f"{self.lost} messages lost"
        if abs(self.rate_hz / self.promised_hz - 1) > 0.1:
            return f"{self.rate_hz:.4g} Hz where the rig promises {self.promised_hz:.4g} Hz"
        return ""


class _Watched:
    """One sensor: its order, its health and its counts since the last digest."""

    def __init__(self, rig: Rig, sensor: SensorSpec, start_ns: int) -> None:
        self.sensor = sensor
        self.health = HealthMonitor(
            HealthLimits.of(rig.health, sensor, sensor.period_s, sensor.period_s), start_ns
        )
        self.order = StreamOrder()
        self.samples = self.refused = self.lost_before = 0
        self._payload = b""

    def receive(self, frame: Frame, now_ns: int) -> None:
        sensor, shape = self.sensor, frame.samples.shape
        if shape[1:] != sensor.sample_shape:
            raise WireError(Reason.WRONG_SHAPE, f"samples of shape {sensor.sample_shape}", shape)
        if frame.samples.dtype.name != sensor.dtype:
            raise WireError(Reason.WRONG_DTYPE, sensor.dtype, frame.samples.dtype.name)
        if frame.unit != sensor.unit:
            raise WireError(Reason.WRONG_UNIT, sensor.unit, frame.unit)
        if frame.samples.dtype.kind == "f" and not np.isfinite(frame.samples).all():
            self.health.not_finite(now_ns, "NaN or infinite samples")
            raise WireError(Reason.NOT_FINITE, "finite samples", "NaN or infinite ones")
        captured_ns = node_time(frame.capture_ns, frame.clock)
        place = self.order.place(frame.sequence, captured_ns)
        if place in (Place.DUPLICATE, Place.OUT_OF_ORDER, Place.BACKWARD):
            raise WireError(Reason.OUT_OF_ORDER, f"a message after {self.order.sequence}", frame.sequence)
        self.order.accept(place, frame.sequence, captured_ns)
        payload = frame.samples.tobytes()
        self.health.message(now_ns, captured_ns, identical=payload == self._payload)
        self.health.evidence(captured_ns)
        self._payload = payload
        self.samples += len(frame.samples)


class RecordingMonitor:
    """Health and counts of all sensors of a rig; content checks need a trained model and are not among them."""

    def __init__(self, rig: Rig, start_ns: int) -> None:
        """Begin with every sensor waiting.

        Args:
            rig: whose sensors.
            start_ns: now.
        """
        self._rig = rig
        self._watched = {s.modality: _Watched(rig, s, start_ns) for s in rig.sensors}
        self._since_ns = start_ns
        self.foreign = 0
        """Messages of another rig or of a sensor that this rig does not have."""

    def receive(self, parts: Sequence[Any], now_ns: int) -> str:
        """Take in one message of the frames' socket.

        Returns:
            Its sensor; empty where that cannot be told, or the message is not this sensor's as the rig describes it.
        """
        topic = bytes(parts[0][:512]) if parts else b""
        modality = topic.rsplit(b"/", 1)[-1].decode("ascii", "replace")
        if (
            not topic.startswith(FRAME_PREFIX + f"{self._rig.name}/".encode())
            or modality not in self._watched
        ):
            self.foreign += 1
            return ""
        watched = self._watched[modality]
        try:
            watched.receive(decode_frame(parts), now_ns)
        except WireError as e:
            watched.refused += 1
            if e.reason is not Reason.NOT_FINITE:
                watched.health.refused(now_ns, str(e))
            return ""
        return modality

    def check(self, now_ns: int) -> list[HealthEvent]:
        """Judge every sensor; gives the changes of state since the last call."""
        told = []
        for modality, watched in self._watched.items():
            watched.health.check(now_ns)
            told += [
                HealthEvent(self._rig.name, modality, c.at_ns, c.previous, c.state, c.reason, c.detail)
                for c in watched.health.changes()
            ]
        return told

    def digest(self, now_ns: int) -> list[SensorDigest]:
        """What came since the last digest, sensor by sensor."""
        seconds = max(1, now_ns - self._since_ns) / NS_PER_S
        found = []
        for modality, watched in self._watched.items():
            lost = watched.order.lost - watched.lost_before
            found.append(
                SensorDigest(
                    modality,
                    watched.health.state,
                    watched.health.reason,
                    watched.samples,
                    watched.samples / seconds,
                    watched.sensor.rate_hz,
                    lost,
                    watched.refused,
                )
            )
            watched.samples = watched.refused = 0
            watched.lost_before = watched.order.lost
        self._since_ns = now_ns
        return found
