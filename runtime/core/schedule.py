"""When a decision is due: a steady rate without drift, and an honest count of what was missed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DueTick:
    """A tick whose deadline has come."""

    number: int
    deadline_ns: int


class TickSchedule:
    """Ticks at a fixed rate: tick n is due at ``start + (n + 1) / rate``, computed from n, so nothing adds up.

    A tick that is asked for more than one period after its deadline is not made up for: it counts as missed, and the
    newest one that is due takes its place.
    """

    def __init__(self, rate_hz: float, start_ns: int) -> None:
        # Millihertz keeps the arithmetic in integers: exact for any number of ticks.
        self._millihertz = max(1, round(rate_hz * 1000))
        self._start_ns = start_ns
        self._next = 0
        self.published = 0
        self.missed = 0

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

    def due(self, now_ns: int) -> DueTick | None:
        """The tick to publish now, or None; the same tick is never given twice."""
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
