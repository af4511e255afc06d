"""The OAK adapter on a recorded API: the names and the sequence of calls of depthai 3.12; no camera was at hand."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from process_under_test import python, run_to_end
from sensor_bench import sensor_of

from runtime.sensors.sample_source import SourceLostError, SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import plan

USED = """
import depthai as dai
for owner, names in (
    (dai, "Device DeviceInfo Pipeline Clock"),
    (dai.Pipeline, "create start stop isRunning"),
    (dai.node.Camera, "build requestOutput"),
    (dai.node.StereoDepth, "build depth"),
    (dai.node.StereoDepth.PresetMode, "ROBOTICS"),
    (dai.Node.Output, "createOutputQueue"),
    (dai.MessageQueue, "get QueueException"),
    (dai.ImgFrame, "getSequenceNum getTimestamp getFrame getCvFrame"),
    (dai.ImgFrame.Type, "BGR888p"),
    (dai.Device, "getDeviceId"),
    (dai.CameraBoardSocket, "CAM_A"),
    (dai.Clock, "now"),
):
    missing = [n for n in names.split() if not hasattr(owner, n)]
    assert not missing, (owner, missing)
"""


class QueueError(Exception):
    pass


class Frame:
    def __init__(self, number: int, image: Any) -> None:
        self._number, self._image = number, image

    def getSequenceNum(self) -> int:
        return self._number

    def getTimestamp(self) -> timedelta:
        return timedelta(seconds=time.monotonic() - 0.02)

    def getFrame(self) -> Any:
        return self._image

    def getCvFrame(self) -> Any:
        return self._image


class Oak:
    """Recorded API: gives the frames of a script, then its pipeline has stopped."""

    def __init__(self, frames: list[Frame | Exception | None], there: bool = True) -> None:
        self.calls: list[Any] = []
        self._frames, self._there, self._running = frames, there, False

    def module(self) -> Any:
        camera = SimpleNamespace(
            build=lambda socket: self._note(("camera", socket)) or camera,
            requestOutput=lambda size, kind, fps: self._note(("output", size, kind, fps)) or self._output(),
        )

        def build_stereo(**options: Any) -> Any:
            self._note(("stereo", options))
            return SimpleNamespace(depth=self._output())

        stereo = SimpleNamespace(build=build_stereo)
        nodes = SimpleNamespace(
            Camera=camera,
            StereoDepth=SimpleNamespace(PresetMode=SimpleNamespace(ROBOTICS="robotics"), stereo=stereo),
        )
        pipeline = SimpleNamespace(
            create=lambda node: camera if node is camera else stereo,
            start=self._start,
            stop=lambda: self._note("stop"),
            isRunning=lambda: self._running,
        )
        return SimpleNamespace(
            __version__="3.12.0",
            node=nodes,
            Device=self._device,
            DeviceInfo=lambda name: ("info", name),
            Pipeline=lambda device: pipeline,
            CameraBoardSocket=SimpleNamespace(__members__={"CAM_A": "socket a"}),
            ImgFrame=SimpleNamespace(Type=SimpleNamespace(BGR888p="bgr")),
            MessageQueue=SimpleNamespace(QueueException=QueueError),
            Clock=SimpleNamespace(now=lambda: timedelta(seconds=time.monotonic())),
        )

    def _note(self, call: Any) -> None:
        self.calls.append(call)

    def _device(self, *arguments: Any) -> Any:
        if not self._there:
            raise RuntimeError("No available devices")
        self._note(("device", *arguments))
        return SimpleNamespace(getDeviceId=lambda: "1944")

    def _start(self) -> None:
        self._running = True
        self._note("start")

    def _output(self) -> Any:
        return SimpleNamespace(createOutputQueue=lambda maxSize, blocking: SimpleNamespace(get=self._get))

    def _get(self, timeout: timedelta) -> Any:
        frame = self._frames.pop(0) if self._frames else None
        if frame is None:
            self._running = bool(self._frames)
        if isinstance(frame, Exception):
            raise frame
        return frame


def test_recorded_api_colour_comes_as_rgb_on_the_host_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    bgr = np.zeros((48, 64, 3), np.uint8)
    bgr[..., 2] = 200
    oak = Oak([Frame(1, bgr), Frame(2, bgr), None, Frame(5, bgr), None])
    monkeypatch.setitem(sys.modules, "depthai", oak.module())
    sensor = sensor_of("rgb", {"kind": "oak", "device": "10.0.0.7", "size": [64, 48]})
    source = make_source(sensor)
    plan(sensor, source.open())
    assert oak.calls == [
        ("device", ("info", "10.0.0.7")), ("camera", "socket a"), ("output", (64, 48), "bgr", 30.0), "start",
    ]  # fmt: skip
    taken = [source.read(0.1) for _ in range(4)]
    first, third = taken[0], taken[3]
    assert first is not None
    assert third is not None
    assert first.array.shape == (1, 48, 64, 3)
    assert first.array[0, 0, 0].tolist() == [200, 0, 0]
    assert first.clock.id == "oak"
    assert 20e6 <= time.monotonic_ns() - (first.capture_ns - first.clock.offset_ns) < 1e9
    assert [s.gap if s else None for s in taken] == [False, False, None, True]
    with pytest.raises(SourceLostError, match="pipeline has stopped"):
        source.read(0.1)
    source.close()
    assert oak.calls[-1] == "stop"


def test_recorded_api_depth_comes_from_the_stereo_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = np.full((48, 64), 900, np.uint16)
    oak = Oak([Frame(1, depth), QueueError("closed")])
    module = oak.module()
    module.node.StereoDepth = SimpleNamespace(PresetMode=SimpleNamespace(ROBOTICS="robotics"))
    monkeypatch.setitem(sys.modules, "depthai", module)
    sensor = sensor_of("depth", {"kind": "oak", "size": [64, 48], "fps": 30})
    source = make_source(sensor)
    delivery = source.open()
    plan(sensor, delivery)
    assert delivery.unit == "mm"
    assert oak.calls[1] == (
        "stereo", {"autoCreateCameras": True, "presetMode": "robotics", "size": (64, 48), "fps": 30.0},
    )  # fmt: skip
    first = source.read(0.1)
    assert first is not None
    np.testing.assert_array_equal(first.array[0], depth)
    with pytest.raises(SourceLostError, match="closed"):
        source.read(0.1)


def test_recorded_api_no_camera_is_tried_again_and_an_old_library_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Oak([], there=False).module()
    monkeypatch.setitem(sys.modules, "depthai", module)
    with pytest.raises(SourceLostError, match="No available devices"):
        make_source(sensor_of("rgb", {"kind": "oak"})).open()
    del module.node.Camera
    with pytest.raises(SourceRefusedError, match="needs depthai 3 or newer"):
        make_source(sensor_of("rgb", {"kind": "oak"})).open()


def test_the_recorded_api_is_that_of_the_library() -> None:
    if find_spec("depthai") is None:
        pytest.skip("needs the oak extra")
    # In a process of its own: the library starts threads and looks for USB when it is imported.
    run_to_end(python(USED))
