"""When a decision is due: at a steady rate without drift, or as data arrives; and how many were missed."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.rig import TickPolicy


@dataclass(frozen=True, slots=True)
class DueTick:
    """A tick whose deadline has come."""

    number: int
    deadline_ns: int


class TickSchedule:
    """Ticks at a fixed rate: tick n is due at ``start + (n + 1) / rate``, computed from n, so no error accumulates.

    A tick that is asked for more than one period after its deadline counts as missed; the newest due one takes its
    place.
    """

    def __init__(self, rate_hz: float, start_ns: int) -> None:
        # Millihertz keeps the arithmetic in integers: exact for any number of ticks.
        self._millihertz = _millihertz(rate_hz)
        self._start_ns = start_ns
        self._next = 0
        self.published = 0
        self.missed = 0
        self.failed = 0

    @property
    def period_ns(self) -> int:
        """Nanoseconds between ticks, rounded down."""
        return 10**12 // self._millihertz

    def deadline_ns(self, number: int) -> int:
        """When tick ``number`` is due."""
        return self._start_ns + (number + 1) * 10**12 // self._millihertz

    @property
    def next_deadline_ns(self) -> int:
        """When the next tick is due."""
        return self.deadline_ns(self._next)

    def arrived(self, at_ns: int) -> None:
        """Evidence of a new window was stored; a steady rate ignores it."""

    def due(self, now_ns: int) -> DueTick | None:
        """The tick to publish now, or None; gives each tick once."""
        if now_ns < self.next_deadline_ns:
            return None
        # Jump close to the newest due tick by division, then step: a pause of hours costs no loop of hours.
        first = max(self._next, (now_ns - self._start_ns) * self._millihertz // 10**12 - 3)
        while now_ns - self.deadline_ns(first) > self.period_ns:
            first += 1
        self.missed += first - self._next
        self._next = first + 1
        self.published += 1
        return DueTick(first, self.deadline_ns(first))


class ArrivalSchedule:
    """A tick for every new window, and at the latest one period after the tick before.

    A tick is due when its window is complete, so its lateness is the time that encoding and fusing took. Ticks are
    missed only by whole periods: if one is asked for later than a period after the last, each further period counts.
    """

    def __init__(self, rate_hz: float, start_ns: int) -> None:
        self.period_ns = 10**12 // _millihertz(rate_hz)
        self._last_ns = start_ns
        self._arrived_ns: int | None = None
        self._next = 0
        self.published = 0
        self.missed = 0
        self.failed = 0

    @property
    def next_deadline_ns(self) -> int:
        """When the next tick is due, unless a window arrives before."""
        latest_ns = self._last_ns + self.period_ns
        return latest_ns if self._arrived_ns is None else min(self._arrived_ns, latest_ns)

    def arrived(self, at_ns: int) -> None:
        """Evidence of a window that was complete at ``at_ns`` was stored; of several before a tick the first counts."""
        if self._arrived_ns is None:
            self._arrived_ns = max(at_ns, self._last_ns)

    def due(self, now_ns: int) -> DueTick | None:
        """The tick to publish now, or None; gives each tick once."""
        deadline = self.next_deadline_ns
        if now_ns < deadline:
            return None
        latest_ns = self._last_ns + self.period_ns
        if now_ns >= latest_ns:
            missed = (now_ns - latest_ns - 1) // self.period_ns if now_ns > latest_ns else 0
            deadline = latest_ns + missed * self.period_ns
            self.missed += missed
            self._next += missed
        self.published += 1
        self._next, self._arrived_ns, self._last_ns = self._next + 1, None, deadline
        return DueTick(self._next - 1, deadline)


def tick_schedule(tick: TickPolicy, start_ns: int) -> TickSchedule | ArrivalSchedule:
    """The schedule that a rig's tick policy asks for."""
    kind = ArrivalSchedule if tick.policy == "arrival" else TickSchedule
    return kind(tick.rate_hz, start_ns)


def _millihertz(rate_hz: float) -> int:
    return max(1, round(rate_hz * 1000))
