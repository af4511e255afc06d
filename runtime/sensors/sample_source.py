"""Sample sources: the one interface behind which every device, file and stream stands, and how a kind is found.

A source is opened, read and closed by one thread of a process of its own (:mod:`runtime.sensors.capture`). It says what
it delivers and when that was captured; it converts nothing and repairs nothing: what differs from the rig is refused or
transformed by declaration, what fails is closed and opened again by its process, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from configs.errors import AfterimageError, MissingExtraError, import_extra
from runtime.rig import SensorSpec
from runtime.rig.source_options import KINDS, PluginOptions, SyntheticOptions
from runtime.wire import Clock

ENTRY_POINTS = "afterimage.sensors"
"""Entry point group in which packages name the kinds they add: ``kind = "module:Class"``."""

ARRIVAL = Clock("arrival")
"""This machine's CLOCK_MONOTONIC, read when the samples arrived: how long they took to arrive is not in it."""
PLAYBACK = Clock("playback")
"""This machine's CLOCK_MONOTONIC, by the schedule of something recorded."""


class SourceRefusedError(AfterimageError):
    """A source that cannot work as it is declared; the message names the sensor, what was expected and what came."""


class SourceLostError(AfterimageError):
    """A source that does not deliver now and may again: it is closed and opened again.

    Attributes:
        reason: one word, counted: cannot_open, disconnected, stalled, frozen, runaway.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class EndOfSource(Exception):
    """A file that is not looped has been played."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an opened source says it delivers; None means that it does not say.

    Attributes:
        shape: of one sample: (480, 640, 3), (), (8,).
        dtype: name of the samples' dtype.
        unit: a :data:`~runtime.rig.source_options.Unit`, or another that a rig may name.
        rate_hz: samples per second.
        channels: names along the last axis.
        live: a device, that can go silent, freeze or run wild; not a file.
        description: what was opened, for a person.
    """

    shape: tuple[int, ...]
    dtype: str
    unit: str | None = None
    rate_hz: float | None = None
    channels: tuple[str, ...] | None = None
    live: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class Samples:
    """Consecutive samples.

    Attributes:
        array: (n, *shape), time first, n >= 1; not changed by the source afterwards.
        capture_ns: when the newest of them was captured, on ``clock``.
        clock: its offset is to this machine's CLOCK_MONOTONIC; its id says who stamped.
        gap: samples were lost between the last ones and these.
    """

    array: npt.NDArray[Any]
    capture_ns: int
    clock: Clock = ARRIVAL
    gap: bool = False


class SampleSource(Protocol):
    """A device, stream or file. May have ``counts``, a dict of its own counters (overflows and the like)."""

    def open(self) -> Delivery:
        """Open it; called again after :meth:`close`.

        Raises:
            SourceRefusedError: it can never work.
            SourceLostError: it cannot be opened now.
        """
        ...

    def read(self, timeout_s: float) -> Samples | None:
        """The next samples, or None if none come within ``timeout_s``.

        Raises:
            SourceLostError: it is gone.
            EndOfSource: it has been played.
        """
        ...

    def close(self) -> None:
        """Let go of it; may be called at any time, and again."""
        ...


_ADAPTERS = {
    "camera": "camera:CameraSource",
    "depth-images": "depth_images:DepthImagesSource",
    "realsense": "realsense:RealSenseSource",
    "oak": "oak:OakSource",
    "microphone": "microphone:MicrophoneSource",
    "audio-file": "audio_file:AudioFileSource",
    "lsl": "lsl:LslSource",
    "brainflow": "brainflow_board:BrainflowSource",
    "eeg-file": "eeg_file:EegFileSource",
    "recording": "mcap_recording:RecordingSource",
    "synthetic": "synthetic_moments:SyntheticSource",
}


def import_library(module: str, needed_by: str) -> ModuleType:
    """Import a library that a source needs.

    Raises:
        SourceRefusedError: it, or a system library under it, is not there; the message says what to install.
    """
    try:
        return import_extra(module, needed_by)
    except MissingExtraError as e:
        raise SourceRefusedError(str(e)) from e
    except OSError as e:  # sounddevice and soundfile say so when their system library is missing
        raise SourceRefusedError(f"{needed_by}: {module} cannot be loaded: {e}") from e


def plugin_kinds() -> tuple[str, ...]:
    """Kinds that installed packages add."""
    return tuple(sorted(entry_points(group=ENTRY_POINTS).names))


def make_source(sensor: SensorSpec, epoch_ns: int | None = None) -> SampleSource:
    """The source of a sensor, not yet opened.

    Args:
        sensor: of a rig; without a `source` it plays the synthetic rig.
        epoch_ns: CLOCK_MONOTONIC time at which all synthetic sensors of the rig began together; now by default.

    Raises:
        SourceRefusedError: an unknown kind, an extra that is not installed, or options that a plug-in refuses.
    """
    options = sensor.source or SyntheticOptions()
    if isinstance(options, PluginOptions):
        return _plugin(sensor, options)
    module, name = _ADAPTERS[options.kind].split(":")
    adapter: Callable[..., SampleSource] = getattr(import_module(f"runtime.sensors.adapters.{module}"), name)
    return adapter(options, sensor, epoch_ns) if options.kind == "synthetic" else adapter(options, sensor)


def _plugin(sensor: SensorSpec, options: PluginOptions) -> SampleSource:
    found = entry_points(group=ENTRY_POINTS, name=options.kind)
    if not found:
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: no kind of source {options.kind!r}; built in are {sorted(KINDS)}, "
            f"installed packages add {list(plugin_kinds())}"
        )
    entry = next(iter(found))
    try:
        adapter = entry.load()
    except (ImportError, AttributeError) as e:
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: kind {options.kind!r} ({entry.value}) cannot be loaded: {e}"
        ) from e
    try:
        source: SampleSource = adapter(options.own, sensor)
    except ValueError as e:  # pydantic's ValidationError is one
        text = "; ".join(line.strip() for line in str(e).splitlines())
        raise SourceRefusedError(
            f"sensor {sensor.modality!r}: options of {options.kind!r} refused: {text}"
        ) from e
    return source


def as_samples(array: npt.NDArray[Any], capture_ns: int, clock: Clock, gap: bool = False) -> Samples:
    """One image as samples: a leading time axis is added."""
    return Samples(array[np.newaxis], capture_ns, clock, gap)
