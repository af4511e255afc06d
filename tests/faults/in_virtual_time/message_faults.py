"""The faults of messages that are played in virtual time only."""

from __future__ import annotations

import random
from collections.abc import Iterable

from spoiling import HOUR_NS, MS, RECOVER_FRAMES, Encode, Message, Parts, Spoiling

from runtime.rig import SensorSpec

FUTURE_TOLERANCE_NS = 50 * MS


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


class SingleWrongStamps(Spoiling):
    """Every third stamp is an hour ahead."""

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        if message.number % 3:
            self.accepted()
        else:
            message.capture_ns += HOUR_NS
            self.injected.update(future=1, lost=1)
            self.breaks()
        yield encode(message)


class FastClock(Spoiling):
    """A clock that runs fast by a share: whenever it is too far ahead, the third such stamp is followed."""

    def __init__(self, sensor: SensorSpec, share: float) -> None:
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

    def __init__(self, sensor: SensorSpec, share: float) -> None:
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
