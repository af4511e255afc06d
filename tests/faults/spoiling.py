"""Faults of messages, each with its memory: what is sent, what of it is accepted, what is counted.

:class:`SpoilingSensors` plays them in real time; the tests in virtual time play them, and more, to every sensor.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from runtime.rig import Rig, SensorSpec
from runtime.transport.bounded_socket import MAX_PARTS
from runtime.transport.sockets import FrameSender
from runtime.wire import encode_frame

FAULTY_MESSAGES = 39
"""In real time so many messages of RGB, 1.3 s, go through the fault."""

MS = 1_000_000
HOUR_NS = 3600 * 10**9
RECOVER_FRAMES = 3
FROZEN_FRAMES = 5

Samples = npt.NDArray[Any]
Parts = list[Any]


@dataclass
class Message:
    """What a sensor is about to send; a fault may change anything in it but the number.

    Attributes:
        number: of the message, from 0.
        at_ns: now.
        samples: (chunk, *sample_shape).
        capture_ns: as it will say.
        sequence: as it will say.
    """

    number: int
    at_ns: int
    samples: Samples
    capture_ns: int
    sequence: int


Encode = Callable[[Message], Parts]
Change = Callable[[Parts, random.Random], Parts]


class Spoiling:
    """A fault of the transport with its memory; this one is none.

    Attributes:
        injected: by the name of the node's counter that must show it.
        stretches: the accepted messages of the spoilt sensor, split where no window may bridge: how many, and the
            reason under which those of them that came into no window are dropped. The first goes on from before the
            fault, the last goes on after it, and may be negative: so many good messages after the fault are refused.
        surplus: messages with numbers of their own that it adds to each.
        tolerated: so many messages with its content in a window pass the checks; None if all do.
        is_seen: the sensor itself sees what is sent, wrong as that is.
    """

    surplus = 0
    tolerated: int | None = None
    is_seen = False

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.stretches: list[tuple[int, str]] = [(0, "broken_window")]

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        """What is sent in the place of a message while the fault lasts."""
        self.accepted()
        yield encode(message)

    def after(self) -> Iterable[Parts]:
        """What is sent once it is over, before the good message that comes next."""
        return ()

    def accepted(self, count: int = 1) -> None:
        """Messages will be accepted."""
        self.stretches[-1] = (self.stretches[-1][0] + count, self.stretches[-1][1])

    def breaks(self, reason: str = "broken_window") -> None:
        """No window may bridge from what came to what comes."""
        self.stretches[-1] = (self.stretches[-1][0], reason)
        self.stretches.append((0, "broken_window"))


class Drop(Spoiling):
    """Messages are lost: every ``every``-th, or with a probability, but at most so many in a row or in all."""

    def __init__(
        self, every: int = 1, probability: float = 1.0, in_a_row: float = np.inf, in_all: float = np.inf
    ) -> None:
        super().__init__()
        self._every, self._probability = every, probability
        self._in_a_row, self._in_all = in_a_row, in_all
        self._row = 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        may = self._row < self._in_a_row and self.injected["lost"] < self._in_all
        if may and message.number % self._every == 0 and chance.random() < self._probability:
            self._row += 1
            self.injected["lost"] += 1
            self.breaks()
        else:
            self._row = 0
            self.accepted()
            yield encode(message)


def drop(share: float) -> Drop:
    """Messages are lost with a probability."""
    return Drop(probability=share)


class Delay(Spoiling):
    """Messages come so much later than they should, in order; the last ones come with the first good one."""

    def __init__(self, sensor: SensorSpec, seconds: float) -> None:
        super().__init__()
        self._periods = round(seconds / sensor.period_s)
        self._is_image = sensor.chunk == 1
        self._waiting: deque[Parts] = deque()

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        self.accepted()
        self._waiting.append(encode(message))
        if len(self._waiting) > self._periods:
            yield self._waiting.popleft()

    def after(self) -> Iterable[Parts]:
        # All but the newest of the pictures that come at once are overtaken; the next window has room for chunks.
        if self._is_image:
            self.injected["superseded"] += len(self._waiting)
        yield from self._waiting


class Flood(Spoiling):
    """A sensor at many times its rate; every message with its own number, stamp and samples."""

    def __init__(self, sensor: SensorSpec, times: int) -> None:
        super().__init__()
        self.surplus = times - 1
        self._is_image = sensor.chunk == 1

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        # Of pictures that come at once the newest is taken; so many chunks are no more than one window, which has all.
        if self._is_image:
            self.injected["superseded"] += self.surplus
        self.accepted(1 + self.surplus)
        for i in range(1 + self.surplus):
            samples = message.samples.copy()
            samples.reshape(-1)[0] = i
            capture_ns = message.capture_ns - self.surplus + i
            yield encode(Message(message.number, message.at_ns, samples, capture_ns, message.sequence + i))


class Freeze(Spoiling):
    """The samples of the first message again and again, under new numbers and stamps."""

    is_seen = True

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._first: Samples | None = None

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        self._first = message.samples if self._first is None else self._first
        message.samples = self._first
        self._count += 1
        # What came before the fifth of a run was a message like any other.
        if self._count < FROZEN_FRAMES:
            self.accepted()
        else:
            self.breaks("frozen")
            self.injected["frozen"] += 1
        yield encode(message)


class SetClock(Spoiling):
    """The clock is set by so much and, when the fault is over, to rights; the third wrong stamp is followed."""

    def __init__(self, by_ns: int) -> None:
        super().__init__()
        self._by_ns, self._count = by_ns, 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        message.capture_ns += self._by_ns
        self._count += 1
        if self._count == RECOVER_FRAMES:
            self.injected.update(future=2, backward=2, restarts=2, clock_reanchored=2)
            self.breaks()
        if self._count >= RECOVER_FRAMES:
            self.accepted()
        yield encode(message)

    def after(self) -> Iterable[Parts]:
        self.breaks()
        self.accepted(1 - RECOVER_FRAMES)
        return ()


class Spoil(Spoiling):
    """Messages are changed after they were encoded, one way after the other; each is refused for the reason given."""

    def __init__(self, *changes: tuple[Change, str]) -> None:
        super().__init__()
        self._changes, self._count = changes, 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        change, reason = self._changes[self._count % len(self._changes)]
        self._count += 1
        self.injected.update({reason: 1, "lost": 1})
        self.breaks()
        yield change(encode(message), chance)


def change_header(**changes: object) -> Change:
    def change(parts: Parts, chance: random.Random) -> Parts:
        return [parts[0], msgpack.packb(header_of(parts) | changes), parts[2]]

    return change


def noise_header(parts: Parts, chance: random.Random) -> Parts:
    return [parts[0], chance.randbytes(len(parts[1])), parts[2]]


def another_shape(parts: Parts, chance: random.Random) -> Parts:
    return change_header(shape=[*header_of(parts)["shape"], 1])(parts, chance)


def header_of(parts: Parts) -> dict[str, Any]:
    """The header of an encoded message, to be changed and packed again."""
    header: dict[str, Any] = msgpack.unpackb(parts[1])
    return header


REFUSALS: dict[str, tuple[Change, str]] = {
    "header of noise": (noise_header, "bad_header"),
    "header cut short": (lambda p, _: [p[0], p[1][:-7], p[2]], "bad_header"),
    "header too long": (change_header(more="x" * 5000), "oversized"),
    "payload cut short": (lambda p, _: [*p[:2], p[2][:-1]], "payload_length"),
    "payload lacks": (lambda p, _: p[:2], "bad_parts"),
    "payload oversize": (lambda p, _: [*p[:2], bytes((4 << 20) + 1)], "oversized"),
    "one part too many": (lambda p, _: [*p, b""], "bad_parts"),
    "parts without end": (lambda p, _: [*p, *[b"x"] * 9 * MAX_PARTS], "bad_parts"),
    "another shape": (another_shape, "wrong_shape"),
}


class SpoilingSensors(threading.Thread):
    """RGB and depth from a thread with connections of their own; RGB goes through a fault when told to.

    Attributes:
        sent: messages of RGB handed to the socket since the start.
        ended_ns: when the last message of the fault was sent; 0 before.
        held_up_s: the most that this thread itself was late: on a starved machine states change for that alone.
    """

    def __init__(self, rig: Rig, endpoint: str, fault: Spoiling, *, seed: int) -> None:
        super().__init__()
        self.sent = 0
        self.ended_ns = 0
        self.held_up_s = 0.0
        self._rig, self._endpoint, self._fault = rig, endpoint, fault
        self._chance = random.Random(seed)
        self._pictures = np.random.default_rng(seed)
        self._begin, self._stop_asked = threading.Event(), threading.Event()
        self._faulty, self._surplus = 0, 0

    def begin_fault(self) -> None:
        """From the next message on."""
        self._begin.set()

    def run(self) -> None:
        """Publish until stopped; both sensors keep an absolute beat of 30 Hz."""
        with FrameSender(self._endpoint) as rgb, FrameSender(self._endpoint) as depth:
            beat = time.monotonic()
            number = 0
            while not self._stop_asked.wait(max(0.0, beat - time.monotonic())):
                self.held_up_s = max(self.held_up_s, time.monotonic() - beat)
                beat = max(beat + 1 / 30, time.monotonic() - 0.1)
                depth.send(self._encode("depth", self._take("depth", 500, 1500, number)))
                for parts in self._spoilt(self._take("rgb", 0, 256, number)):
                    rgb.send(parts)
                    self.sent += 1
                number += 1

    def stop(self) -> None:
        """End the thread and close its sockets."""
        self._stop_asked.set()
        self.join(10)
        assert not self.is_alive()

    def __enter__(self) -> SpoilingSensors:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spoilt(self, message: Message) -> Iterable[Parts]:
        """What becomes of a message of RGB."""
        message.sequence += self._surplus
        if self._begin.is_set() and self._faulty < FAULTY_MESSAGES:
            self._faulty += 1
            self._surplus += self._fault.surplus
            yield from self._fault.spoil(message, lambda m: self._encode("rgb", m), self._chance)
            return
        if self._faulty and not self.ended_ns:
            yield from self._fault.after()
            self.ended_ns = time.monotonic_ns()
        yield self._encode("rgb", message)

    def _take(self, modality: str, low: int, high: int, number: int) -> Message:
        sensor = self._rig.sensor(modality)
        samples = self._pictures.integers(low, high, (1, *sensor.sample_shape)).astype(sensor.dtype)
        now = time.monotonic_ns()
        return Message(number, now, samples, now, number)

    def _encode(self, modality: str, message: Message) -> Parts:
        return encode_frame(
            self._rig.name,
            modality,
            message.sequence,
            message.samples,
            capture_ns=message.capture_ns,
            unit=self._rig.sensor(modality).unit,
        )
