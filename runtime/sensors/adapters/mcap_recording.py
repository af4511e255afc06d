"""One modality of a recording of ``afterimage record``, as it was captured."""

from __future__ import annotations

import time
from collections.abc import Iterator

from configs.errors import MissingExtraError
from runtime.core.clock import NS_PER_S, node_time
from runtime.record.reader import read_recording
from runtime.record.writer import RecordingError
from runtime.rig import SensorSpec
from runtime.rig.source_options import RecordingOptions
from runtime.sensors.sample_source import PLAYBACK, Delivery, EndOfSource, SampleBlock, SourceRefusedError
from runtime.wire import Frame, JournalEntry, WireError, decode_frame

_PAUSE_NS = NS_PER_S
"""The longest pause between the last message and the first one of the next round."""


class RecordingSource:
    """Plays frames at the intervals at which they were captured, silences included."""

    def __init__(self, options: RecordingOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._modality = options.modality or sensor.modality
        self._frames: Iterator[Frame] = iter(())
        self._next: Frame | None = None
        self._shift_ns = 0
        self._last: Frame | None = None
        self._rate_hz: float | None = None
        self.counts = {"refused": 0, "loops": 0}

    def open(self) -> Delivery:
        """Open the file and read up to the modality's first frame."""
        self._frames = self._read()
        self._last = None
        self._next = self._take()
        if self._next is None:
            raise SourceRefusedError(
                f"sensor {self._sensor.modality!r}: {self._options.file}: no frame of {self._modality!r} in it"
            )
        first = self._next
        self._shift_ns = time.monotonic_ns() - node_time(first.capture_ns, first.clock)
        return Delivery(
            first.samples.shape[1:],
            first.samples.dtype.name,
            first.unit,
            self._rate_hz,
            live=False,
            description=f"{self._modality} of {self._options.file}",
        )

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next frame, when it is due."""
        if self._next is None:
            self._begin_again()
        frame = self._next
        assert frame is not None
        due_ns = node_time(frame.capture_ns, frame.clock) + self._shift_ns
        ahead_ns = due_ns - time.monotonic_ns()
        if ahead_ns > timeout_s * NS_PER_S:
            time.sleep(timeout_s)
            return None
        if ahead_ns > 0:
            time.sleep(ahead_ns / NS_PER_S)
        gap = self._last is not None and frame.sequence != self._last.sequence + 1
        self._last, self._next = frame, self._take()
        return SampleBlock(frame.samples, due_ns, PLAYBACK, gap)

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._next = None

    def _begin_again(self) -> None:
        if not self._options.loop or self._last is None:
            raise EndOfSource
        ended_ns = node_time(self._last.capture_ns, self._last.clock) + self._shift_ns
        self.open()
        assert self._next is not None
        pause_ns = min(round(self._sensor.period_s * NS_PER_S), _PAUSE_NS)
        self._shift_ns = ended_ns + pause_ns - node_time(self._next.capture_ns, self._next.clock)
        self.counts["loops"] += 1

    def _take(self) -> Frame | None:
        try:
            return next(self._frames, None)
        except (RecordingError, MissingExtraError) as e:
            raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {e}") from e

    def _read(self) -> Iterator[Frame]:
        for recorded in read_recording(self._options.file):
            entry = recorded.content
            if not isinstance(entry, JournalEntry):
                continue
            if entry.call == "begin":
                for sensor in entry.settings.get("rig", {}).get("sensors", ()):
                    if sensor["modality"] == self._modality:
                        self._rate_hz = float(sensor["rate_hz"])
            elif entry.call == "frame" and entry.modality == self._modality:
                try:
                    yield decode_frame(entry.parts)
                except WireError:
                    self.counts["refused"] += 1
