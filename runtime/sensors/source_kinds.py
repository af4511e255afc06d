"""Kinds of sources: which adapter or installed package stands behind the `source` of a sensor."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from runtime.rig import SensorSpec
from runtime.rig.source_options import KINDS, PluginOptions, SyntheticOptions
from runtime.sensors.sample_source import SampleSource, SourceRefusedError

ENTRY_POINTS = "afterimage.sensors"
"""Entry point group in which packages name the kinds they add: ``kind = "module:Class"``."""

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
    "synthetic": "moments:MomentsSource",
}


def plugin_kinds() -> tuple[str, ...]:
    """Kinds that installed packages add."""
    return tuple(sorted(entry_points(group=ENTRY_POINTS).names))


def make_source(sensor: SensorSpec, start_ns: Callable[[], int] | None = None) -> SampleSource:
    """The source of a sensor, not yet opened.

    Args:
        sensor: of a rig; without a `source` it plays the synthetic rig.
        start_ns: asked at the first read for the CLOCK_MONOTONIC time at which all sensors of the rig that play moments
            begin together; by default they begin now.

    Raises:
        SourceRefusedError: an unknown kind, an adapter that cannot be loaded, or options that a plug-in refuses.
    """
    options = sensor.source or SyntheticOptions()
    if isinstance(options, PluginOptions):
        return _plugin(sensor, options)
    module, name = _ADAPTERS[options.kind].split(":")
    adapter: Callable[..., SampleSource] = getattr(import_module(f"runtime.sensors.adapters.{module}"), name)
    if options.kind != "synthetic":
        return adapter(options, sensor)
    now_ns = time.monotonic_ns()
    return adapter(options, sensor, start_ns or (lambda: now_ns))


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
