"""Luxonis OAK cameras, by depthai 3: colour as RGB, depth in millimetres."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np

from runtime.rig import SensorSpec
from runtime.rig.source_options import OakOptions
from runtime.sensors.host_clocks import clock_beside_monotonic
from runtime.sensors.sample_source import (
    Delivery,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
    image_block,
    import_library,
)

_QUEUE = 4
_MICROSECOND = timedelta(microseconds=1)


class OakSource:
    """Colour of one camera for a sensor of kind rgb, depth of the stereo pair for any other kind."""

    def __init__(self, options: OakOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._library: Any = None
        self._pipeline: Any = None
        self._queue: Any = None
        self._number: int | None = None
        self._depth = sensor.kind != "rgb"

    def open(self) -> Delivery:
        """Boot the camera with a pipeline of one output."""
        o, name = self._options, self._sensor.modality
        self._library = dai = import_library("depthai", f"sensor {name!r}: oak")
        if not hasattr(dai.node, "Camera"):
            raise SourceRefusedError(
                f"sensor {name!r}: oak needs depthai 3 or newer, {dai.__version__} is installed"
            )
        if not self._depth and o.socket not in dai.CameraBoardSocket.__members__:
            raise SourceRefusedError(
                f"sensor {name!r}: oak has no socket {o.socket!r}; it has {list(dai.CameraBoardSocket.__members__)}"
            )
        try:
            device = dai.Device(dai.DeviceInfo(o.device)) if o.device else dai.Device()
            self._pipeline = dai.Pipeline(device)
            output = self._depth_output() if self._depth else self._colour_output()
            self._queue = output.createOutputQueue(maxSize=_QUEUE, blocking=False)
            self._pipeline.start()
        except RuntimeError as e:
            self.close()
            raise SourceLostError("cannot_open", f"OAK {o.device or ''}: {e}") from e
        self._number = None
        shape: tuple[int, ...] = (o.size[1], o.size[0])
        described = f"OAK {device.getDeviceId()}"
        if self._depth:
            return Delivery(shape, "uint16", "mm", o.fps, description=described)
        return Delivery((*shape, 3), "uint8", "intensity", o.fps, description=described)

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next frame.

        Raises:
            SourceLostError: the device is gone.
        """
        try:
            frame = self._queue.get(timedelta(seconds=timeout_s))
        except (
            RuntimeError,
            self._library.MessageQueue.QueueException,
        ) as e:  # the queue's exception: it was closed
            raise SourceLostError("disconnected", f"OAK: {e}") from e
        if frame is None:
            if not self._pipeline.isRunning():
                raise SourceLostError("disconnected", "OAK: its pipeline has stopped")
            return None
        number, last = frame.getSequenceNum(), self._number
        self._number = number
        # depthai converts the camera's time to its own clock on the host, dai::Clock, and keeps the two in step.
        capture_ns = frame.getTimestamp() // _MICROSECOND * 1000
        clock = clock_beside_monotonic("oak", lambda: self._library.Clock.now() // _MICROSECOND * 1000)
        image = frame.getFrame() if self._depth else frame.getCvFrame()[..., ::-1]
        gap = last is not None and number > last + 1
        return image_block(np.array(image), capture_ns, clock, gap)

    def close(self) -> None:
        """Stop the pipeline, which lets go of the device."""
        pipeline, self._pipeline = self._pipeline, None
        self._queue = None
        if pipeline is not None:
            pipeline.stop()

    def _colour_output(self) -> Any:
        o, dai = self._options, self._library
        camera = self._pipeline.create(dai.node.Camera).build(dai.CameraBoardSocket.__members__[o.socket])
        return camera.requestOutput(tuple(o.size), dai.ImgFrame.Type.BGR888p, fps=o.fps)

    def _depth_output(self) -> Any:
        o, dai = self._options, self._library
        stereo = self._pipeline.create(dai.node.StereoDepth).build(
            autoCreateCameras=True,
            presetMode=dai.node.StereoDepth.PresetMode.ROBOTICS,
            size=tuple(o.size),
            fps=o.fps,
        )
        return stereo.depth
