"""Windows: what an encoder takes, cut from contiguous samples of a stream, one per hop, the newest first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import ModalitySpec


@dataclass(frozen=True, slots=True)
class Cut:
    """One window cut from the stream.

    Attributes:
        window: (*window_shape) in the raw dtype; a copy, or an image as it came; never changes.
        capture_ns: capture time of its newest sample, node clock.
        start: position of its first sample since the start of the stream.
        end: position after its last sample.
        superseded: older windows that were due and are skipped, because this one is newer.
    """

    window: npt.NDArray[Any]
    capture_ns: int
    start: int
    end: int
    superseded: int


class WindowBuffer:
    """The samples of one modality, preallocated, time first.

    Windows end at ``run start + window + k * hop``, where a *run* is a stretch without a lost sample. A window never
    bridges a gap, so the encoder only sees signals that existed. After :meth:`restart` the next window is due when a
    whole window of new samples has arrived.

    Args:
        spec: sample shape, dtype, rate, window and hop.
        longest: samples in the longest message that will be appended.
    """

    def __init__(self, spec: ModalitySpec, longest: int) -> None:
        self.window, self.hop, self.longest = spec.window, spec.hop, longest
        self.is_image = spec.kind in ("rgb", "depth")
        self._rate_hz = spec.rate_hz
        self._keep = spec.window + spec.hop
        # Twice the room that is needed: samples then move to the front once per `keep` samples, not once per message.
        # An image is a window by itself: it stays in the message that brought it and is not copied.
        room = 0 if self.is_image else 2 * self._keep + longest
        self._samples = np.zeros((room, *spec.sample_shape), spec.dtype)
        self._images: deque[npt.NDArray[Any]] = deque(maxlen=spec.hop)
        self._base = 0
        self._next_end = spec.window
        self._marks: deque[tuple[int, int]] = deque()
        self.total = 0

    def append(self, samples: npt.NDArray[Any], capture_ns: int) -> tuple[int, int]:
        """Add a message's samples; images must not change afterwards.

        Args:
            samples: (n, *sample_shape) in the raw dtype.
            capture_ns: capture time of the newest one, node clock.

        Returns:
            their positions: start, end.

        Raises:
            ValueError: more samples than ``longest``.
        """
        count = len(samples)
        if count > self.longest:
            raise ValueError(f"a message of {count} samples, the buffer takes {self.longest}")
        if self.is_image:
            self._images.extend(samples[-self.hop :])
        else:
            self._store(samples, count)
        start, self.total = self.total, self.total + count
        self._marks.append((self.total, capture_ns))
        oldest = self.oldest
        while self._marks and self._marks[0][0] <= oldest:
            self._marks.popleft()
        return start, self.total

    def _store(self, samples: npt.NDArray[Any], count: int) -> None:
        at = self.total - self._base
        if at + count > len(self._samples):
            kept = min(at, self._keep)
            self._samples[:kept] = self._samples[at - kept : at].copy()
            self._base, at = self.total - kept, kept
        self._samples[at : at + count] = samples

    @property
    def oldest(self) -> int:
        """No later window begins before this position."""
        return max(self.total - self._keep, self._next_end - self.window)

    def restart(self) -> None:
        """Begin a new run: no later window contains the samples so far."""
        self._next_end = self.total + self.window
        self._base = self.total
        self._marks.clear()

    @property
    def is_due(self) -> bool:
        """Whether a window has become complete since the last cut."""
        return self.total >= self._next_end

    def cut(self) -> Cut | None:
        """The newest complete window on the hop, or None if there is no new one."""
        if not self.is_due:
            return None
        superseded = (self.total - self._next_end) // self.hop
        end = self._next_end + superseded * self.hop
        self._next_end = end + self.hop
        return Cut(self._window(end), self._capture_ns(end), end - self.window, end, superseded)

    def _window(self, end: int) -> npt.NDArray[Any]:
        if self.is_image:
            return self._images[end - self.total - 1]
        first = end - self.window - self._base
        return self._samples[first : first + self.window].copy()

    def _capture_ns(self, end: int) -> int:
        """Capture time of the sample before position ``end``, from the message that holds it."""
        for mark, capture_ns in self._marks:
            if mark >= end:
                return capture_ns - round((mark - end) * 1e9 / self._rate_hz)
        raise AssertionError("a window ends in a message that has no capture time")
