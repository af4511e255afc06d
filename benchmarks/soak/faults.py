"""A sensor of a soak run: what it sends at each of its times, good messages with every fault in between.

Faults come in episodes, drawn from a shuffled deck so that all of them come equally often, with good messages between.
Every episode tells its :class:`~benchmarks.soak.ledger.SensorLedger` what the node must make of it. An episode
is written as a generator: each step is a time at which the sensor has a message to send, and gives what it sends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import msgpack
import numpy as np

from benchmarks.soak.ledger import SensorLedger
from benchmarks.soak.messages import Bank, MessageForm, Parts, Payload, packed
from runtime.rig import Rig, SensorSpec
from runtime.wire import Clock, Limits, Reason

NS = 1_000_000_000
_LIMITS = Limits()


class Act(Enum):
    """What a sensor does besides sending a message."""

    RECONNECT = "reconnect"
    """Close its connection and make another: its process was started again."""
    OVERFLOW = "overflow"
    """What follows in this step is sent faster than anybody can read, so that ZeroMQ's queues overflow."""


Step = tuple[Parts | Act, ...]

_WRONG_FIELDS: tuple[tuple[str, Any, Reason], ...] = (
    ("version", 2, Reason.WRONG_VERSION),
    ("encoding", "jpeg", Reason.WRONG_ENCODING),
    ("dtype", "float64", Reason.WRONG_DTYPE),
    ("unit", "furlong", Reason.WRONG_UNIT),
    ("sequence", -1, Reason.BAD_HEADER),
    ("sequence", "seven", Reason.BAD_HEADER),
    ("capture_ns", True, Reason.BAD_HEADER),
    ("clock", None, Reason.BAD_HEADER),
    ("shape", [], Reason.WRONG_SHAPE),
    ("shape", [1, 1, 1, 1, 1, 1, 1], Reason.WRONG_SHAPE),
    ("modality", "lidar", Reason.BAD_TOPIC),
)
"""Header keys, a value that is wrong, and the one reason for which a node must refuse it."""


class SoakSensor:
    """One sensor, as a function of the time: :meth:`until` gives what it sends.

    Attributes:
        ledger: what it sent and what must become of that.
        nowhere: reason -> messages it sent that belong to no modality of the rig.
    """

    def __init__(
        self,
        rig: Rig,
        sensor: SensorSpec,
        bank: Bank,
        start_ns: int,
        *,
        seed: int,
        calm_s: float,
        longest_step: int,
    ) -> None:
        """Begin with good messages.

        Args:
            rig: that it belongs to.
            sensor: which one of it.
            bank: its payloads.
            start_ns: its first message is captured one period later.
            seed: of the order and the lengths of the faults.
            calm_s: good messages between two faults, in seconds on average.
            longest_step: of messages that may be sent at once without being lost.
        """
        self.ledger = SensorLedger(rig.health.frozen_frames)
        self.nowhere: Counter[Reason] = Counter()
        self._rig, self._sensor, self._bank = rig, sensor, bank
        self._form = MessageForm(rig, sensor)
        self._random = np.random.default_rng([seed, rig.modality_names.index(sensor.modality)])
        self._start_ns, self._calm_s, self._longest_step = start_ns, calm_s, longest_step
        self._index = 0
        self._sequence = 0
        self._capture_ns = self._captured(0)
        self._calming = self._in_episode = False
        self._turn = 0
        self._last = bank.good[-1]
        self._deck: list[tuple[str, Callable[[], Iterator[Step]]]] = []
        self._steps = self._play()

    def until(self, now_ns: int) -> Iterator[Step]:
        """What it sends of messages captured until now, in order."""
        while self._capture_ns <= now_ns:
            yield next(self._steps)
            self._index += 1
            self._capture_ns = self._captured(self._index)

    def calm_down(self) -> None:
        """No fault begins from now on."""
        self._calming = True

    @property
    def topic(self) -> bytes:
        """Of its messages."""
        return self._form.topic

    @property
    def is_calm(self) -> bool:
        """Whether no fault is under way."""
        return self._calming and not self._in_episode

    def _captured(self, index: int) -> int:
        return self._start_ns + round((index + 1) * self._sensor.chunk * NS / self._sensor.rate_hz)

    def _play(self) -> Iterator[Step]:
        while True:
            calm = max(5.0, self._random.exponential(self._calm_s) / self._sensor.period_s)
            for _ in range(round(min(calm, 5 * self._calm_s / self._sensor.period_s))):
                yield (self._good(),)
            if not self._calming:
                self._in_episode = True
                yield from self._episode()
                self._in_episode = False

    def _episode(self) -> Iterator[Step]:
        if not self._deck:
            kinds = list(self._kinds().items())
            self._deck = [kinds[i] for i in self._random.permutation(len(kinds))]
        kind, steps = self._deck.pop()
        self.ledger.injected[kind] += 1
        yield from steps()

    def _kinds(self) -> Mapping[str, Callable[[], Iterator[Step]]]:
        kinds: dict[str, Callable[[], Iterator[Step]]] = {
            "drop": self._drop,
            "duplicate": self._duplicate,
            "flood": self._flood,
            "reorder": self._reorder,
            "garbled header": self._garbled_header,
            "truncated header": self._truncated_header,
            "wrong field": self._wrong_field,
            "noisy payload": self._noisy_payload,
            "truncated payload": self._truncated_payload,
            "wrong count of parts": self._wrong_parts,
            "oversized": self._oversized,
            "astray": self._astray,
            "freeze": self._freeze,
            "clock step": self._clock_step,
            "clock drift": self._clock_drift,
            "clock of its own": self._own_clock,
            "silence": self._silence,
            "pause": self._pause,
            "burst": self._burst,
            "restart": self._restart,
            "new process": self._new_process,
        }
        for kind in self._bank.spoilt:
            kinds[kind] = lambda kind=kind: self._spoilt(kind)  # type: ignore[misc]
        if self._bank.not_finite:
            kinds["not finite"] = self._not_finite
        if self._sensor.kind not in ("rgb", "depth"):
            kinds["queue overflow"] = self._overflow
        return kinds

    # What is sent

    def _payload(self) -> Payload:
        self._turn = (self._turn + 1) % len(self._bank.good)
        return self._bank.good[self._turn]

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _message(self, payload: Payload, *, offset_ns: int = 0) -> Parts:
        """The next message; what becomes of it is for the caller to say."""
        header = self._form.header(self._number(), self._capture_ns + offset_ns)
        return self._form.topic, header, payload.data

    def _good(self, payload: Payload | None = None, *, offset_ns: int = 0) -> Parts:
        """The next message, to be accepted."""
        self._last = payload = payload or self._payload()
        self.ledger.accept(self._sequence, payload)
        return self._message(payload, offset_ns=offset_ns)

    def _refused(self, reason: Reason, *parts: bytes) -> Step:
        """A message that must be refused and says nothing of the stream but that its number is gone."""
        self.ledger.dropped[reason] += 1
        return (parts,)

    def _messages(self, shortest_s: float, longest_s: float) -> range:
        """The messages of a duration drawn at random; at least one."""
        return range(max(1, round(self._random.uniform(shortest_s, longest_s) / self._sensor.period_s)))

    def _whole(self, low: int, high: int) -> int:
        return int(self._random.integers(low, high + 1))

    # Faults of single messages

    def _drop(self) -> Iterator[Step]:
        for _ in range(self._whole(1, 5)):
            self._number()
            yield ()

    def _duplicate(self) -> Iterator[Step]:
        message = self._good()
        self.ledger.dropped[Reason.DUPLICATE] += 1
        yield message, message

    def _flood(self) -> Iterator[Step]:
        message, count = self._good(), self._whole(20, self._longest_step)
        self.ledger.dropped[Reason.DUPLICATE] += count - 1
        yield (message,) * count

    def _reorder(self) -> Iterator[Step]:
        late = self._message(self._payload())
        yield ()
        self.ledger.dropped[Reason.OUT_OF_ORDER] += 1
        yield self._good(), late

    def _garbled_header(self) -> Iterator[Step]:
        topic, _, data = self._message(self._payload())
        self.ledger.garbled += 1
        yield ((topic, self._random.bytes(self._whole(1, 200)), data),)

    def _truncated_header(self) -> Iterator[Step]:
        topic, header, data = self._message(self._payload())
        yield self._refused(Reason.BAD_HEADER, topic, header[: self._whole(0, len(header) - 1)], data)

    def _wrong_field(self) -> Iterator[Step]:
        for key, value, reason in _WRONG_FIELDS:
            topic, header, data = self._message(self._payload())
            yield self._refused(reason, topic, msgpack.packb(msgpack.unpackb(header) | {key: value}), data)

    def _noisy_payload(self) -> Iterator[Step]:
        bits = self._random.bytes(len(self._bank.good[0].data))
        samples = np.frombuffer(bits, self._sensor.dtype).reshape(-1, *self._sensor.sample_shape)
        payload = Payload.of(samples, is_image=self._sensor.kind in ("rgb", "depth"))
        if payload.finite:
            yield (self._good(payload),)
        else:
            self.ledger.refuse_in_order(self._sequence, Reason.NOT_FINITE)
            yield (self._message(payload),)

    def _truncated_payload(self) -> Iterator[Step]:
        topic, header, data = self._message(self._payload())
        yield self._refused(Reason.PAYLOAD_LENGTH, topic, header, data[: self._whole(0, len(data) - 1)])

    def _wrong_parts(self) -> Iterator[Step]:
        for count in (1, 2, 4, 9, 12):
            parts = self._message(self._payload())
            yield self._refused(Reason.BAD_PARTS, *(parts * 4)[:count])

    def _oversized(self) -> Iterator[Step]:
        topic, header, data = self._message(self._payload())
        yield self._refused(Reason.OVERSIZED, topic, header + bytes(_LIMITS.header_bytes), data)
        topic, header, _ = self._message(self._payload())
        yield self._refused(Reason.OVERSIZED, topic, header, bytes(_LIMITS.payload_bytes + 1))

    def _astray(self) -> Iterator[Step]:
        """Beside good messages some that belong elsewhere."""
        for name, change, reason in (
            (f"elsewhere/{self._sensor.modality}", {"rig": "elsewhere"}, Reason.WRONG_RIG),
            (f"{self._rig.name}/lidar", {"modality": "lidar"}, Reason.UNKNOWN_MODALITY),
            (f"{self._rig.name}/{self._sensor.modality}2", {}, Reason.BAD_TOPIC),
            ("x" * 600, {}, Reason.BAD_TOPIC),
        ):
            good = _, header, data = self._good()
            self.nowhere[reason] += 1
            yield good, (f"frame/{name}".encode(), msgpack.packb(msgpack.unpackb(header) | change), data)

    # Faults that last

    def _not_finite(self) -> Iterator[Step]:
        for i in range(self._whole(1, 8)):
            payload = self._bank.not_finite[i % len(self._bank.not_finite)]
            self.ledger.refuse_in_order(self._sequence, Reason.NOT_FINITE)
            yield (self._message(payload),)

    def _spoilt(self, kind: str) -> Iterator[Step]:
        payloads = self._bank.spoilt[kind]
        for i in self._messages(0.2, 1.5):
            yield (self._good(payloads[i % len(payloads)]),)

    def _freeze(self) -> Iterator[Step]:
        last = self._last
        for _ in range(self._whole(1, 30)):
            yield (self._good(last),)

    def _clock_step(self) -> Iterator[Step]:
        """The clock is set, the node follows; later it is set right again, and the node follows."""
        step_ns = round(self._random.uniform(0.3, 20.0) * NS) * (1 if self._random.random() < 0.5 else -1)
        yield from self._set_clock(step_ns, Reason.FUTURE if step_ns > 0 else Reason.BACKWARD)
        for _ in self._messages(0.2, 2.0):
            yield (self._good(offset_ns=step_ns),)
        yield from self._set_clock(0, Reason.BACKWARD if step_ns > 0 else Reason.FUTURE)

    def _set_clock(self, offset_ns: int, reason: Reason) -> Iterator[Step]:
        """The first messages of a clock that was set: refused until as many agree as the rig wants for a recovery."""
        for _ in range(self._rig.health.recover_frames - 1):
            self.ledger.dropped[reason] += 1
            yield (self._message(self._payload(), offset_ns=offset_ns),)
        self.ledger.restart()
        self.ledger.reanchored += 1
        yield (self._good(offset_ns=offset_ns),)

    def _clock_drift(self) -> Iterator[Step]:
        """A clock that runs fast (or slow) by up to 500 millionths, then back: nothing may be lost by that."""
        rate = self._random.uniform(-500e-6, 500e-6)
        count = len(self._messages(0.5, 3.0))
        for i in (*range(count), *range(count, 0, -1)):
            yield (self._good(offset_ns=round(i * rate * self._sensor.period_s * NS)),)

    def _own_clock(self) -> Iterator[Step]:
        """A clock far from the node's that drifts, and says so in every header; now and then it is not sure enough."""
        offset_ns = self._whole(-NS // 2, 10**15)
        uncertainty_ns = (1_000_000, 200_000_000)[self.ledger.injected["clock of its own"] % 2]
        for i in self._messages(0.5, 2.0):
            ahead_ns = offset_ns + round(i * 200e-6 * self._sensor.period_s * NS)
            clock, payload = Clock("own", ahead_ns, uncertainty_ns), self._payload()
            self.ledger.accept(self._sequence, payload)
            self._last = payload
            captured_ns = self._capture_ns + ahead_ns
            yield (packed(self._rig, self._sensor, self._number(), captured_ns, payload, clock),)

    def _silence(self) -> Iterator[Step]:
        for _ in self._messages(0.15, 1.0):
            self._number()
            yield ()

    def _pause(self) -> Iterator[Step]:
        """Silence of a sensor that had nothing to say: its numbers go on without a gap."""
        for _ in self._messages(0.15, 1.0):
            yield ()

    def _burst(self) -> Iterator[Step]:
        held: list[Parts] = []
        for _ in self._messages(0.05, 0.6)[: self._longest_step]:
            held.append(self._good())
            yield ()
        held.append(self._good())
        yield tuple(held)

    def _restart(self) -> Iterator[Step]:
        self._sequence = 0
        self.ledger.restart()
        yield (self._good(),)

    def _new_process(self) -> Iterator[Step]:
        yield (Act.RECONNECT,)
        yield from self._restart()

    def _overflow(self) -> Iterator[Step]:
        """Thousands of messages at once: what ZeroMQ's queues cannot hold is lost, and the numbers tell of it."""
        count = 4000
        step_ns = max(1, (self._capture_ns - self._captured(self._index - 1)) // (count + 1))
        flood = [self._good(offset_ns=(i - count) * step_ns) for i in range(count)]
        yield (Act.OVERFLOW, *flood)
