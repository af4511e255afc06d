"""The playhead of recorded samples: which of them are due when, at their rate, without drift."""

from __future__ import annotations

import time

from runtime.core.clock import NS_PER_S
from runtime.sensors.sample_source import EndOfSource

_OVERRUN_NS = NS_PER_S
"""A player this far behind drops what it missed, as a device's buffer does."""


class Playhead:
    """Plays samples at a rate from now on; sample ``n`` (from 0) is captured at ``start + (n + 1) / rate``."""

    def __init__(self, rate_hz: float) -> None:
        """Begin now."""
        self._rate = rate_hz
        self._start_ns = time.monotonic_ns()
        self.position = 0
        """Samples played so far."""

    def wait(self, count: int, timeout_s: float) -> tuple[int, bool] | None:
        """Wait until the next ``count`` samples are due, and move on past them.

        Returns:
            Capture time of the newest on CLOCK_MONOTONIC and whether samples were missed before them; None if they are
            not due within ``timeout_s``.
        """
        due_ns = self._due_ns(count)
        behind_ns = time.monotonic_ns() - due_ns
        missed = behind_ns > _OVERRUN_NS
        if missed:
            self._start_ns += behind_ns
            due_ns += behind_ns
        elif -behind_ns > timeout_s * NS_PER_S:
            time.sleep(timeout_s)
            return None
        elif behind_ns < 0:
            time.sleep(-behind_ns / NS_PER_S)
        self.position += count
        return due_ns, missed

    def _due_ns(self, count: int) -> int:
        return self._start_ns + round((self.position + count) * NS_PER_S / self._rate)


class Player:
    """Plays an array, or a file that is read like one, along a playhead, once or in a loop."""

    def __init__(self, length: int, rate_hz: float, *, loop: bool) -> None:
        """Begin now.

        Args:
            length: samples there are, >= 1.
            rate_hz: samples per second.
            loop: begin again at the end.
        """
        self._length = length
        self._loop = loop
        self._playhead = Playhead(rate_hz)

    def next(self, count: int, timeout_s: float) -> tuple[slice, int, bool] | None:
        """Wait for up to ``count`` samples, fewer where the end is near.

        Returns:
            Which samples, capture time of the newest and whether some were missed before them; None if they are not due
            within ``timeout_s``.

        Raises:
            EndOfSource: all samples have been played, and it does not loop.
        """
        start = self._playhead.position % self._length
        if not self._loop and self._playhead.position >= self._length:
            raise EndOfSource
        stop = min(start + count, self._length)
        due = self._playhead.wait(stop - start, timeout_s)
        return None if due is None else (slice(start, stop), *due)
