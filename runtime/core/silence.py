"""How long a sensor may send nothing before it counts as silent: less for one whose messages come evenly."""

from __future__ import annotations

RECENT_MESSAGES = 32
"""The limit follows the gaps between the last 32 to 64 messages."""


class SilenceLimit:
    """The limit of one sensor, from the gaps between its recent messages.

    It is the longest recent gap plus one period, so that one lost message is no silence; never above ``most_ns`` and
    never below ``least_ns``. A sensor that has just started, or was silent, has no recent gaps: its limit is
    ``most_ns`` for the next :data:`RECENT_MESSAGES` messages.

    Attributes:
        ns: silence longer than this is ``missing``.
    """

    __slots__ = ("_count", "_least_ns", "_longest_ns", "_most_ns", "_period_ns", "ns")

    def __init__(self, most_ns: int, least_ns: int, period_ns: int) -> None:
        self._most_ns, self._least_ns, self._period_ns = most_ns, least_ns, period_ns
        self.ns = most_ns
        self._longest_ns = 0
        self._count = 0

    def gap(self, ns: int) -> None:
        """Fact: ``ns`` nanoseconds passed between two messages."""
        if ns > self._longest_ns:
            if ns > self._most_ns:
                self.ns, self._longest_ns, self._count = self._most_ns, 0, 0
                return
            self._longest_ns = ns
            self.ns = max(self.ns, self._within_bounds())
        self._count += 1
        if self._count == RECENT_MESSAGES:
            self.ns = self._within_bounds()
            self._longest_ns = self._count = 0

    def _within_bounds(self) -> int:
        return max(self._least_ns, min(self._longest_ns + self._period_ns, self._most_ns))
