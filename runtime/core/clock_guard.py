"""A sensor's stamps against arrival: a clock that jumped is noticed, and after a few messages followed.

Two things prove a stamp wrong: it lies in the future, or it is older than the stamp of an earlier message. A single
wrong stamp is refused and forgotten. Several in a row that agree *among themselves* (numbers up by one, as much time
between them as between their arrivals) mean that the clock itself was set: stamps are then corrected so that messages
take as long to arrive as they did before, and the stream goes on. Without that, a clock set back by an hour would have
its sensor refused for an hour.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_SLACK_NS = 50_000_000
"""Stamps of a steady clock follow their arrivals this closely, or within two message periods."""
_BASELINE_MESSAGES = 32
"""The shortest delay of so many good messages is what the next ones are taken to need."""


@dataclass(frozen=True, slots=True)
class _Suspect:
    sequence: int
    captured_ns: int
    arrived_ns: int
    least_delay_ns: int
    count: int


class ClockGuard:
    """What one modality's clock has done so far.

    Attributes:
        correction_ns: added to every stamp, after the sensor's own offset.
        reanchored: how often the correction was changed.
    """

    def __init__(self, agreeing: int, late_ns: int, period_ns: int) -> None:
        """Begin trusting.

        Args:
            agreeing: wrong stamps in a row, agreeing among themselves, that prove a set clock.
            late_ns: an older message is late; stamps that need no correction are within it.
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
            True if the clock was set and is now followed: the stamp, corrected anew, is good. A clock that never gave a
            possible stamp is not followed, for nothing tells how long its messages take.
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
