"""Audio files, by libsndfile."""

from __future__ import annotations

from typing import Any

from runtime.rig import SensorSpec
from runtime.rig.source_options import AudioFileOptions
from runtime.sensors.playhead import Player
from runtime.sensors.sample_source import (
    PLAYBACK,
    Delivery,
    SampleBlock,
    SourceRefusedError,
    import_library,
)


class AudioFileSource:
    """A sound file, played at its own rate, converted to 16-bit samples."""

    def __init__(self, options: AudioFileOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._file: Any = None
        self._player: Player | None = None
        self._count = 1

    def open(self) -> Delivery:
        """Open the file."""
        soundfile = import_library("soundfile", f"sensor {self._sensor.modality!r}: audio-file")
        path = self._options.file
        try:
            self._file = soundfile.SoundFile(str(path))
        except (OSError, soundfile.LibsndfileError) as e:
            raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {path}: cannot be read: {e}") from e
        if not self._file.frames:
            raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {path}: holds no samples")
        rate, channels = float(self._file.samplerate), self._file.channels
        self._player = Player(self._file.frames, rate, loop=self._options.loop)
        self._count = max(1, round(self._sensor.period_s * rate))
        shape = () if channels == 1 else (channels,)
        return Delivery(shape, "int16", "pcm16", rate, live=False, description=f"{path}, {rate:g} Hz")

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next samples, about one message of them."""
        assert self._player is not None
        due = self._player.next(self._count, timeout_s)
        if due is None:
            return None
        at, capture_ns, missed = due
        self._file.seek(at.start)
        return SampleBlock(self._file.read(at.stop - at.start, dtype="int16"), capture_ns, PLAYBACK, missed)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
