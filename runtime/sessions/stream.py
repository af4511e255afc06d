"""One sensor's samples in a session: contiguous segments with their times, and the windows to be cut from them."""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive samples without a gap.

    Attributes:
        first: index of its first sample in the stream.
        count: how many samples it has.
        begin_ns: when its first sample began; a sample covers the period before its capture time.
        end_ns: capture time of its last sample.
    """

    first: int
    count: int
    begin_ns: int
    end_ns: int

    @property
    def period_ns(self) -> float:
        """The true time from sample to sample, which is not the promised one where a device's clock drifts."""
        return (self.end_ns - self.begin_ns) / self.count

    def complete_at(self, time_ns: int) -> int:
        """How many of its samples were captured by a time; half a period is forgiven, so that rounding costs none."""
        return min(self.count, max(0, int((time_ns - self.begin_ns) / self.period_ns + 0.5)))


class Stream:
    """The samples of one modality; read only.

    Attributes:
        samples: (N, *sample_shape) in the dtype of the wire.
        segments: in order of time.
        rate_hz: samples per second that the rig promises.
    """

    def __init__(self, samples: npt.NDArray[Any], segments: Sequence[Segment], rate_hz: float) -> None:
        """Keep samples and their segments.

        Args:
            samples: (N, *sample_shape).
            segments: in order, without overlap.
            rate_hz: samples per second.
        """
        self.samples, self.segments, self.rate_hz = samples, tuple(segments), rate_hz
        self._begins = [segment.begin_ns for segment in self.segments]

    @classmethod
    def of_array(cls, samples: npt.NDArray[Any], rate_hz: float, start_ns: int = 0) -> Stream:
        """One segment of samples that begins at ``start_ns``."""
        count = len(samples)
        end_ns = start_ns + round(count * NS_PER_S / rate_hz)
        return cls(samples, [Segment(0, count, start_ns, end_ns)] if count else [], rate_hz)

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """From the beginning of the first sample to the capture of the last; None of an empty stream."""
        if not self.segments:
            return None
        return self.segments[0].begin_ns, self.segments[-1].end_ns

    @property
    def covered_s(self) -> float:
        """Seconds that are there, without the gaps."""
        return sum(segment.end_ns - segment.begin_ns for segment in self.segments) / NS_PER_S

    def has_window(self, end_ns: int, length: int) -> bool:
        """Whether ``length`` samples without a gap end at a time; see :meth:`window`."""
        return self._first(end_ns, length) is not None

    def window(self, end_ns: int, length: int) -> npt.NDArray[Any] | None:
        """The newest ``length`` samples that were complete at a time.

        Args:
            end_ns: on the session's clock.
            length: samples.

        Returns:
            (length, *sample_shape); None where a gap is in the way, or the newest sample is more than a period old.
        """
        first = self._first(end_ns, length)
        return None if first is None else self.samples[first : first + length]

    def _first(self, end_ns: int, length: int) -> int | None:
        at = bisect.bisect_right(self._begins, end_ns) - 1
        if at < 0:
            return None
        segment = self.segments[at]
        complete = segment.complete_at(end_ns)
        if complete < length or end_ns - segment.end_ns > 1.5 * segment.period_ns:
            return None
        return segment.first + complete - length


class StreamBuilder:
    """Collects the messages of one modality in a file without a name, and gives a :class:`Stream` over it.

    A session of pictures is larger than memory; the file vanishes with the stream. For one thread.
    """

    def __init__(self, sample_shape: tuple[int, ...], dtype: str, rate_hz: float) -> None:
        """Begin an empty stream.

        Args:
            sample_shape: of one sample.
            dtype: of the samples.
            rate_hz: samples per second; a message that comes more than two periods late begins a new segment.
        """
        self._shape, self._dtype, self._rate_hz = sample_shape, np.dtype(dtype), rate_hz
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="afterimage-session-")  # noqa: SIM115 closed by stream()
        self._segments: list[Segment] = []
        self._count = 0

    def add(self, samples: npt.NDArray[Any], capture_ns: int, *, contiguous: bool) -> None:
        """Append one message.

        Args:
            samples: (n, *sample_shape).
            capture_ns: of its last sample.
            contiguous: no message was lost since the one before.
        """
        self._file.write(np.ascontiguousarray(samples, self._dtype).tobytes())
        first, count = self._count, len(samples)
        self._count += count
        duration_ns = round(count * NS_PER_S / self._rate_hz)
        if self._segments and contiguous:
            last = self._segments[-1]
            # Two messages of jitter, as the node allows them.
            if abs(capture_ns - last.end_ns - duration_ns) <= 2 * duration_ns and capture_ns > last.end_ns:
                self._segments[-1] = Segment(last.first, last.count + count, last.begin_ns, capture_ns)
                return
        self._segments.append(Segment(first, count, capture_ns - duration_ns, capture_ns))

    def stream(self) -> Stream:
        """What was collected; ends the collecting."""
        shape = (self._count, *self._shape)
        with self._file:  # the mapping keeps the file's content
            self._file.flush()
            if self._count == 0:
                return Stream(np.empty(shape, self._dtype), [], self._rate_hz)
            return Stream(np.memmap(self._file, self._dtype, "r", shape=shape), self._segments, self._rate_hz)
