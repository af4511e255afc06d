"""Compares a sensor's stamps with arrival times: detects a clock that was set, and follows it after a few messages.

Two things prove a stamp wrong: it lies in the future, or it is older than the stamp of an earlier message. A single
wrong stamp is refused and forgotten. Several wrong stamps in a row that agree *among themselves* (sequence numbers go
up by one, and the stamps are as far apart as the arrivals) mean that the clock itself was set. Stamps are then
corrected so that messages take as long to arrive as they did before, and the stream continues. Without the correction,
a sensor whose clock was set back by an hour would be refused for an hour.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_SLACK_NS = 50_000_000
"""Stamps of a steady clock keep pace with arrivals to within this time or two message periods, whichever is longer."""
_BASELINE_MESSAGES = 32
"""The expected delay of a message is the shortest delay among this many good messages before it."""


@dataclass(frozen=True, slots=True)
class _Suspect:
    sequence: int
    captured_ns: int
    arrived_ns: int
    least_delay_ns: int
    count: int


class ClockGuard:
    """The clock of one modality: which correction its stamps need.

    Attributes:
        correction_ns: added to every stamp, after the sensor's own offset.
        reanchored: how often the correction changed.
    """

    def __init__(self, agreeing: int, late_ns: int, period_ns: int) -> None:
        """Begin by trusting the clock.

        Args:
            agreeing: how many wrong stamps in a row, agreeing among themselves, prove that the clock was set.
            late_ns: a message older than this is late; stamps that need no correction are not.
            period_ns: between two messages.
        """
        self.correction_ns = 0
        self.reanchored = 0
        self._agreeing = agreeing
        self._late_ns = late_ns
        self._slack_ns = max(_SLACK_NS, 2 * period_ns)
        self._delays: deque[int] = deque(maxlen=_BASELINE_MESSAGES)
        self._suspect: _Suspect | None = None

    @property
    def suspects(self) -> int:
        """Wrong stamps in a row."""
        return self._suspect.count if self._suspect is not None else 0

    def accepted(self, captured_ns: int, now_ns: int) -> None:
        """A message with a possible stamp (corrected) came."""
        self._suspect = None
        self._delays.append(max(0, now_ns - captured_ns))

    def refused(self, sequence: int, captured_ns: int, now_ns: int) -> bool:
        """A message with an impossible stamp (corrected) came.

        Returns:
            True if the clock was set and is now followed; with the new correction the stamp is good. A clock that never
            gave a possible stamp is not followed, because the delay of its messages is unknown.
        """
        last, delay = self._suspect, now_ns - captured_ns
        agrees = (
            last is not None
            and sequence == last.sequence + 1
            and captured_ns > last.captured_ns
            and abs((captured_ns - last.captured_ns) - (now_ns - last.arrived_ns)) <= self._slack_ns
        )
        if last is not None and agrees:
            delay = min(delay, last.least_delay_ns)
        count = last.count + 1 if last is not None and agrees else 1
        self._suspect = _Suspect(sequence, captured_ns, now_ns, delay, count)
        if count < self._agreeing or not self._delays:
            return False
        uncorrected_ns = delay + self.correction_ns
        plausible = -self._slack_ns <= uncorrected_ns <= self._late_ns and self.correction_ns != 0
        self.correction_ns = 0 if plausible else self.correction_ns + delay - min(self._delays)
        self.reanchored += 1
        self._suspect = None
        return True
