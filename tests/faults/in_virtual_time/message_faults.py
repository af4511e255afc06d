"""Faults of messages in virtual time, each with its memory: what is sent, what of it is accepted, what is counted."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

import msgpack
import numpy as np
from virtual_run import MS, Encode, Message, Parts, Samples, Spoiling, header_of

from runtime.rig import Sensor

FUTURE_TOLERANCE_NS = 50 * MS
RECOVER_FRAMES = 3
FROZEN_FRAMES = 5
Change = Callable[[Parts, random.Random], Parts]


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


class Delay(Spoiling):
    """Messages come so much later than they should, in order; the last ones come with the first good one."""

    def __init__(self, sensor: Sensor, seconds: float) -> None:
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


class Reorder(Spoiling):
    """Of every two messages the later one comes first; for an even number of messages."""

    def __init__(self) -> None:
        super().__init__()
        self._held: Parts | None = None

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        if self._held is None:
            self._held = encode(message)
            return
        yield encode(message)
        yield self._held
        self._held = None
        # The older one was never accepted: it is refused, and missing in the order.
        self.injected.update(out_of_order=1, lost=1)
        self.breaks()
        self.accepted()


class Duplicate(Spoiling):
    """Every message comes twice."""

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        self.injected["duplicate"] += 1
        self.accepted()
        yield encode(message)
        yield encode(message)


class Flood(Spoiling):
    """A sensor at many times its rate; every message with its own number, stamp and samples."""

    def __init__(self, sensor: Sensor, times: int) -> None:
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


class SingleWrongStamps(Spoiling):
    """Every third stamp is an hour ahead."""

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        if message.number % 3:
            self.accepted()
        else:
            message.capture_ns += 3600 * 10**9
            self.injected.update(future=1, lost=1)
            self.breaks()
        yield encode(message)


class FastClock(Spoiling):
    """A clock that runs fast by a share: whenever it is too far ahead, the third such stamp is followed."""

    def __init__(self, sensor: Sensor, share: float) -> None:
        super().__init__()
        self._gain_ns = round(share * sensor.period_s * 1e9)
        self._count, self._ahead_ns, self._wrong = 0, 0, 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        message.capture_ns += self._count * self._gain_ns
        self._count += 1
        # As far as the node sees it, which follows by what the stamp is ahead.
        if self._ahead_ns > FUTURE_TOLERANCE_NS:
            self._wrong += 1
            if self._wrong < RECOVER_FRAMES:
                self.injected["future"] += 1
            else:
                self.injected.update(restarts=1, clock_reanchored=1)
                self._ahead_ns, self._wrong = 0, 0
                self.breaks()
        if not self._wrong:
            self.accepted()
        self._ahead_ns += self._gain_ns
        yield encode(message)

    def after(self) -> Iterable[Parts]:
        # It was ahead by several periods, so that three good stamps are before what was accepted last.
        self.injected.update(backward=RECOVER_FRAMES - 1, restarts=1, clock_reanchored=1)
        self.breaks()
        self.accepted(1 - RECOVER_FRAMES)
        return ()


class SlowClock(Spoiling):
    """A clock that runs slow by a share, and jumps to rights when the fault is over."""

    def __init__(self, sensor: Sensor, share: float) -> None:
        super().__init__()
        self._loss_ns, self._count = round(share * sensor.period_s * 1e9), 0

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        message.capture_ns -= self._count * self._loss_ns
        self._count += 1
        self.accepted()
        yield encode(message)

    def after(self) -> Iterable[Parts]:
        # By its stamps, samples are missing there.
        self.breaks()
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


class FlipBit(Spoiling):
    """One bit anywhere in a part is another one: what gets through is judged as what it now says."""

    def __init__(self, part: int) -> None:
        super().__init__()
        self._part = part

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        parts = encode(message)
        spoilt = bytearray(parts[self._part])
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        parts[self._part] = bytes(spoilt)
        self.accepted()
        yield parts


class LoseTopic(FlipBit):
    """A bit of the topic: nobody can tell whose the message is, and its sensor is silent."""

    def __init__(self) -> None:
        super().__init__(0)

    def accepted(self, count: int = 1) -> None:
        self.injected.update(nowhere=count, lost=count)
        self.breaks()


def change_header(**changes: object) -> Change:
    def change(parts: Parts, chance: random.Random) -> Parts:
        return [parts[0], msgpack.packb(header_of(parts) | changes), parts[2]]

    return change


def noise_header(parts: Parts, chance: random.Random) -> Parts:
    return [parts[0], chance.randbytes(len(parts[1])), parts[2]]


def another_shape(parts: Parts, chance: random.Random) -> Parts:
    return change_header(shape=[*header_of(parts)["shape"], 1])(parts, chance)
