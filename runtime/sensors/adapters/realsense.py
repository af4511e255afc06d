"""Intel RealSense cameras and their recordings, read by librealsense: RGB, or depth in the camera's own steps."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from runtime.core.clock import nanoseconds
from runtime.rig import SensorSpec
from runtime.rig.source_options import RealSenseOptions
from runtime.sensors.host_clocks import wall_clock
from runtime.sensors.sample_source import (
    ARRIVAL,
    PLAYBACK,
    Delivery,
    EndOfSource,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
    image_block,
    import_library,
)
from runtime.wire import Clock

_LAST_FRAME_S = 2.0
"""A recording that gives nothing for this long has ended; the library does not report the end."""


class RealSenseSource:
    """One stream of one camera: colour for a sensor of kind rgb, depth for any other kind."""

    def __init__(self, options: RealSenseOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._library: Any = None
        self._pipeline: Any = None
        self._depth = sensor.kind != "rgb"
        self._number: int | None = None
        self._read_ns = 0
        self.counts = {"repeated": 0}

    def open(self) -> Delivery:
        """Start the camera's pipeline."""
        o, name = self._options, self._sensor.modality
        self._library = rs = import_library("pyrealsense2", f"sensor {name!r}: realsense")
        if o.file is not None and not o.file.is_file():
            raise SourceRefusedError(f"sensor {name!r}: {o.file}: no such file")
        pipeline = rs.pipeline()
        try:
            profile = pipeline.start(self._configuration())
        except RuntimeError as e:
            raise SourceLostError("cannot_open", f"RealSense {o.serial or ''}: {e}") from e
        self._pipeline = pipeline
        self._number, self._read_ns = None, time.monotonic_ns()
        stream = rs.stream.depth if self._depth else rs.stream.color
        video = profile.get_stream(stream).as_video_stream_profile()
        shape: tuple[int, ...] = (video.height(), video.width())
        device = profile.get_device()
        described = f"{device.get_info(rs.camera_info.name)} {device.get_info(rs.camera_info.serial_number)}"
        live, rate = o.file is None, float(video.fps())
        if not self._depth:
            return Delivery((*shape, 3), "uint8", "intensity", rate, live=live, description=described)
        step_mm = round(device.first_depth_sensor().get_depth_scale() * 1000, 6)
        # Where a step is not a millimetre, the step is the unit, and the rig has to declare a scale.
        unit = "mm" if step_mm == 1 else f"{step_mm:g} mm"
        return Delivery(shape, "uint16", unit, rate, live=live, description=described)

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next frame of the stream.

        Raises:
            SourceLostError: librealsense says that the device is gone.
            EndOfSource: a recording is over.
        """
        try:
            came, frames = self._pipeline.try_wait_for_frames(max(1, round(timeout_s * 1000)))
        except RuntimeError as e:
            raise SourceLostError("disconnected", f"RealSense: {e}") from e
        now_ns = time.monotonic_ns()
        frame = (frames.get_depth_frame() if self._depth else frames.get_color_frame()) if came else None
        if not frame:
            if self._options.file is not None and now_ns - self._read_ns > nanoseconds(_LAST_FRAME_S):
                raise EndOfSource
            return None
        self._read_ns = now_ns
        number, last = frame.get_frame_number(), self._number
        if number == last:
            # The pipeline pairs streams, and repeats a frame while the frame of the other stream is late.
            self.counts["repeated"] += 1
            return None
        self._number = number
        image = np.array(np.asanyarray(frame.get_data()))
        gap = last is not None and number > last + 1
        return image_block(image, *self._stamp(frame, now_ns), gap)

    def close(self) -> None:
        """Stop the pipeline."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            try:
                pipeline.stop()
            except RuntimeError:
                return  # the pipeline had not started, or its device is gone

    def _configuration(self) -> Any:
        o, rs = self._options, self._library
        configuration = rs.config()
        stream = rs.stream.depth if self._depth else rs.stream.color
        if o.file is not None:
            configuration.enable_device_from_file(str(o.file), o.loop)
            configuration.enable_stream(stream)
            return configuration
        if o.serial:
            configuration.enable_device(o.serial)
        configuration.enable_stream(stream, *o.size, rs.format.z16 if self._depth else rs.format.rgb8, o.fps)
        return configuration

    def _stamp(self, frame: Any, now_ns: int) -> tuple[int, Clock]:
        """The camera's time brought to the host's where librealsense does that, else the time of arrival."""
        if self._options.file is not None:
            return now_ns, PLAYBACK
        if frame.get_frame_timestamp_domain() != self._library.timestamp_domain.global_time:
            return now_ns, ARRIVAL  # the camera's own clock, whose offset is unknown
        return round(frame.get_timestamp() * 1e6), wall_clock("realsense")
