"""The faults of messages, each with what it should do to the sensor it happens to: one line of the table each."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgpack
from virtual_run import MS, Encode, Message, Parts, Samples, Spoiling, header_of

from runtime.transport.sockets import MAX_PARTS

HOUR_NS = 3600 * 10**9


class Drop(Spoiling):
    """Messages are lost: every ``every``-th, or with a probability."""

    def __init__(self, every: int = 1, probability: float = 1.0) -> None:
        super().__init__()
        self._every, self._probability = every, probability

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        if message.number % self._every == 0 and chance.random() < self._probability:
            self.injected["lost"] += 1
        else:
            yield encode(message)


class Delay(Spoiling):
    """Messages come some periods later than they should, in order; the last ones come with the first good one."""

    def __init__(self, periods: int) -> None:
        super().__init__()
        self._periods = periods
        self._waiting: deque[Parts] = deque()

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        self._waiting.append(encode(message))
        if len(self._waiting) > self._periods:
            yield self._waiting.popleft()

    def after(self) -> Iterable[Parts]:
        # All but the newest of those that come at once are overtaken before they are encoded.
        self.injected["superseded"] += len(self._waiting)
        yield from self._waiting


class Reorder(Spoiling):
    """Of every two messages the later one comes first."""

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


class Duplicate(Spoiling):
    """Every message comes several times."""

    def __init__(self, times: int = 2) -> None:
        super().__init__()
        self._times = times

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        self.injected["duplicate"] += self._times - 1
        for _ in range(self._times):
            yield encode(message)


class Freeze(Spoiling):
    """The samples of the first message again and again, under new numbers and stamps."""

    def __init__(self, tolerated: int) -> None:
        super().__init__()
        self._tolerated, self._count = tolerated, 0
        self._first: Samples | None = None

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        self._first = message.samples if self._first is None else self._first
        message.samples = self._first
        self._count += 1
        # What came before the fifth of a run was a picture like any other.
        self.injected["frozen"] += int(self._count > self._tolerated)
        yield encode(message)


class Restamp(Spoiling):
    """The stamps are a function of the number of the spoilt message and of the true time."""

    def __init__(self, stamp_ns: Callable[[int, int], int], **injected: int) -> None:
        super().__init__()
        self._stamp_ns, self._count = stamp_ns, 0
        self.injected.update(injected)

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        message.capture_ns = self._stamp_ns(self._count, message.capture_ns)
        self._count += 1
        yield encode(message)


class Spoil(Spoiling):
    """Every message is changed after it was encoded; each is refused, for one reason if one is given."""

    def __init__(self, change: Callable[[Parts, random.Random], Parts], reason: str | None) -> None:
        super().__init__()
        self._change, self._reason = change, reason

    def spoil(self, message: Message, encode: Encode, chance: random.Random) -> Iterable[Parts]:
        if self._reason is not None:
            self.injected.update({self._reason: 1, "lost": 1})
        yield self._change(encode(message), chance)


def _header(**changes: object) -> Callable[[Parts, random.Random], Parts]:
    def change(parts: Parts, chance: random.Random) -> Parts:
        return [parts[0], msgpack.packb(header_of(parts) | changes), parts[2]]

    return change


def _noise_header(parts: Parts, chance: random.Random) -> Parts:
    return [parts[0], chance.randbytes(len(parts[1])), parts[2]]


def _flip_bit(part: int) -> Callable[[Parts, random.Random], Parts]:
    """One bit anywhere in a part is another one: what gets through is judged as what it now says."""

    def change(parts: Parts, chance: random.Random) -> Parts:
        spoilt = bytearray(parts[part])
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        return [*parts[:part], bytes(spoilt), *parts[part + 1 :]]

    return change


@dataclass(frozen=True)
class Fault:
    """One line of the table.

    Attributes:
        name: of the case.
        make: the fault, made anew for each run.
        states: what the spoilt sensor goes through once it is live, as ``state:reason``; None where the seed decides.
        counted: further counters of the spoilt sensor that must be exactly so.
        steps: how many messages are spoilt.
    """

    name: str
    make: Callable[[], Spoiling]
    states: tuple[str, ...] | None
    counted: dict[str, int] = field(default_factory=dict)
    steps: int = 20


SILENT = ("missing:silence", "live")
REFUSED = ("missing:refused", "live")

FAULTS = (
    Fault("none", Spoiling, ()),
    Fault("drop one in two", lambda: Drop(every=2), ()),
    Fault("drop some", lambda: Drop(probability=0.3), None),
    Fault("drop all", Drop, SILENT),
    Fault("delay within budget", lambda: Delay(2), ()),
    Fault("delay beyond budget", lambda: Delay(12), ("missing:silence", "late:capture_age", "live")),
    Fault("reorder", Reorder, ()),
    Fault("duplicate", Duplicate, ()),
    Fault("freeze", lambda: Freeze(4), ("frozen:identical", "live")),
    Fault(
        "clock an hour ahead",
        lambda: Restamp(lambda n, t: t + HOUR_NS, future=2, backward=2),
        ("bad_clock:future", "live", "bad_clock:backward", "live"),
        counted={"clock_reanchored": 2},
    ),
    Fault(
        "clock an hour back",
        lambda: Restamp(lambda n, t: t - HOUR_NS // 5, backward=2, future=2),
        ("bad_clock:backward", "live", "bad_clock:future", "live"),
        counted={"clock_reanchored": 2},
    ),
    Fault("clock drifts ahead", lambda: Restamp(lambda n, t: t + n * 4 * MS), None),
    Fault("clock drifts back", lambda: Restamp(lambda n, t: t - n * 20 * MS), None),
    Fault("header of noise", lambda: Spoil(_noise_header, "bad_header"), REFUSED),
    Fault("header cut short", lambda: Spoil(lambda p, _: [p[0], p[1][:-7], p[2]], "bad_header"), REFUSED),
    Fault("header too long", lambda: Spoil(_header(more="x" * 5000), "oversized"), REFUSED),
    Fault("a bit of the header", lambda: Spoil(_flip_bit(1), None), None),
    Fault("a bit of the topic", lambda: Spoil(_flip_bit(0), None), None),
    Fault("a bit of the payload", lambda: Spoil(_flip_bit(2), None), ()),
    Fault("payload cut short", lambda: Spoil(lambda p, _: [*p[:2], p[2][:-1]], "payload_length"), REFUSED),
    Fault("payload lacks", lambda: Spoil(lambda p, _: p[:2], "bad_parts"), REFUSED),
    Fault("one part too many", lambda: Spoil(lambda p, _: [*p, b""], "bad_parts"), REFUSED),
    Fault("parts without end", lambda: Spoil(lambda p, _: [*p, *[b"x"] * 9 * MAX_PARTS], "bad_parts"), REFUSED),
    Fault("payload oversize", lambda: Spoil(lambda p, _: [*p[:2], bytes(5 << 20)], "oversized"), REFUSED, steps=8),
    Fault("another shape", lambda: Spoil(_header(shape=[1, 64, 32, 6]), "wrong_shape"), REFUSED),
)  # fmt: skip
