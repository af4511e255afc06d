"""The RealSense adapter: the real library on a recording of its software device; recorded API for a live camera.

No camera was at hand. The stand-in has the names and the sequence of calls of pyrealsense2 2.59, against which they are
checked where it is installed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sensor_bench import joined, read_samples, sensor_of

from runtime.sensors.sample_source import SourceLostError, SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import plan

FRAMES = 12


def test_a_recording_of_librealsense_plays_through_the_real_library(tmp_path: Path) -> None:
    rs = pytest.importorskip("pyrealsense2", reason="needs the realsense extra")
    path = tmp_path / "a.db3"
    record_software_device(rs, path)
    sensor = sensor_of("depth", {"kind": "realsense", "file": str(path)})
    source = make_source(sensor)
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.unit, delivery.live) == ((48, 64), "uint16", "mm", False)
    plan(sensor, delivery)
    taken = read_samples(source, 3, most=FRAMES - 2)
    source.close()
    levels = joined(taken)[:, 0, 0].astype(int)
    assert 500 <= levels[0] < levels[-1] < 500 + FRAMES
    # Played in real time: a busy machine misses frames, and says so.
    assert [s.gap for s in taken[1:]] == [step != 1 for step in np.diff(levels)]
    assert {s.clock.id for s in taken} == {"playback"}


def record_software_device(rs: Any, path: Path) -> None:
    """Frames of growing depth, through librealsense's own recorder."""
    device = rs.software_device()
    device.register_info(rs.camera_info.name, "Software")
    device.register_info(rs.camera_info.serial_number, "1")
    sensor = device.add_sensor("Stereo Module")
    stream = rs.video_stream()
    stream.type, stream.index, stream.uid, stream.fmt = rs.stream.depth, 0, 0, rs.format.z16
    stream.width, stream.height, stream.fps, stream.bpp = 64, 48, 30, 2
    intrinsics = rs.intrinsics()
    intrinsics.width, intrinsics.height, intrinsics.model = 64, 48, rs.distortion.none
    intrinsics.fx = intrinsics.fy = 50.0
    stream.intrinsics = intrinsics
    profile = sensor.add_video_stream(stream, True)
    sensor.add_read_only_option(rs.option.depth_units, 0.001)
    recorder = rs.recorder(str(path), device)
    recorded = recorder.query_sensors()[0]
    recorded.open(recorded.profiles[0])
    recorded.start(rs.frame_queue(FRAMES))
    for number in range(FRAMES):
        frame = rs.software_video_frame()
        frame.pixels = np.full((48, 64), 500 + number, np.uint16)
        frame.stride, frame.bpp, frame.depth_units = 128, 2, 0.001
        frame.timestamp, frame.frame_number = 1000 + number * 1000 / 30, number
        frame.domain = rs.timestamp_domain.hardware_clock
        frame.profile = profile.as_video_stream_profile()
        sensor.on_video_frame(frame)
        time.sleep(0.005)
    recorded.stop()
    recorded.close()


class Frame:
    def __init__(self, number: int, domain: str, image: Any) -> None:
        self._number, self._domain, self._image = number, domain, image

    def get_frame_number(self) -> int:
        return self._number

    def get_data(self) -> Any:
        return self._image

    def get_frame_timestamp_domain(self) -> str:
        return self._domain

    def get_timestamp(self) -> float:
        return time.time() * 1000 - 15


class Camera:
    """Recorded API: a camera that gives the frames of a script, then raises as an unplugged one does."""

    def __init__(self, frames: list[Frame | None], depth_scale: float = 0.001) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._frames, self._scale = frames, depth_scale

    def module(self) -> Any:
        def configuration() -> Any:
            note = lambda name: lambda *a: self.calls.append((name, *a))  # noqa: E731
            return SimpleNamespace(enable_device=note("enable_device"), enable_stream=note("enable_stream"))

        return SimpleNamespace(
            pipeline=lambda: self,
            config=configuration,
            stream=SimpleNamespace(depth="depth", color="color"),
            format=SimpleNamespace(z16="z16", rgb8="rgb8"),
            camera_info=SimpleNamespace(name="name", serial_number="serial_number"),
            timestamp_domain=SimpleNamespace(global_time="global_time", hardware_clock="hardware_clock"),
        )

    def start(self, configuration: Any) -> Any:
        self.calls.append(("start",))
        video = SimpleNamespace(width=lambda: 64, height=lambda: 48, fps=lambda: 30)
        device = SimpleNamespace(
            get_info=lambda what: f"<{what}>",
            first_depth_sensor=lambda: SimpleNamespace(get_depth_scale=lambda: self._scale),
        )
        return SimpleNamespace(
            get_stream=lambda s: SimpleNamespace(as_video_stream_profile=lambda: video),
            get_device=lambda: device,
        )

    def try_wait_for_frames(self, timeout_ms: int) -> tuple[bool, Any]:
        if not self._frames:
            raise RuntimeError("Device disconnected. Failed to recconect: No device connected 5000")
        frame = self._frames.pop(0)
        if frame is None:
            return False, None
        return True, SimpleNamespace(get_depth_frame=lambda: frame, get_color_frame=lambda: frame)

    def stop(self) -> None:
        self.calls.append(("stop",))


def test_recorded_api_a_live_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((48, 64), 700, np.uint16)
    camera = Camera(
        [
            Frame(5, "global_time", image),
            Frame(5, "global_time", image),
            None,
            Frame(8, "hardware_clock", image),
        ]
    )
    monkeypatch.setitem(sys.modules, "pyrealsense2", camera.module())
    sensor = sensor_of("depth", {"kind": "realsense", "serial": "123", "size": [64, 48]})
    source = make_source(sensor)
    plan(sensor, source.open())
    assert camera.calls == [
        ("enable_device", "123"),
        ("enable_stream", "depth", 64, 48, "z16", 30),
        ("start",),
    ]
    first, repeated, nothing, third = (source.read(0.1) for _ in range(4))
    now_ns = time.monotonic_ns()
    assert first is not None
    assert first.clock.id == "realsense"
    assert 15e6 <= now_ns - (first.capture_ns - first.clock.offset_ns) < 1e9
    assert repeated is None
    assert nothing is None
    assert third is not None
    assert third.clock.id == "arrival", "a clock of the camera's own, which nobody knows"
    assert third.gap, "frames 6 and 7 never came"
    assert vars(source)["counts"] == {"repeated": 1}
    with pytest.raises(SourceLostError, match="Device disconnected") as lost:
        source.read(0.1)
    assert lost.value.reason == "disconnected"
    source.close()
    assert camera.calls[-1] == ("stop",)


def test_recorded_api_steps_that_are_not_millimetres_have_to_be_scaled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", Camera([], depth_scale=0.00025).module())
    sensor = sensor_of("depth", {"kind": "realsense", "size": [64, 48]})
    with pytest.raises(
        SourceRefusedError, match=r"unit is mm in the rig, its source gives 0\.25 mm; add .*scale"
    ):
        plan(sensor, make_source(sensor).open())


def test_the_recorded_api_is_that_of_the_library() -> None:
    rs = pytest.importorskip("pyrealsense2", reason="needs the realsense extra")
    for owner, names in (
        (rs, "pipeline config stream format camera_info timestamp_domain"),
        (rs.config, "enable_device enable_stream enable_device_from_file"),
        (rs.pipeline, "start stop try_wait_for_frames"),
        (rs.pipeline_profile, "get_stream get_device"),
        (rs.stream_profile, "as_video_stream_profile"),
        (rs.video_stream_profile, "width height fps"),
        (rs.device, "get_info first_depth_sensor"),
        (rs.depth_sensor, "get_depth_scale"),
        (rs.composite_frame, "get_depth_frame get_color_frame"),
        (rs.frame, "get_frame_number get_data get_frame_timestamp_domain get_timestamp"),
        (rs.timestamp_domain, "global_time hardware_clock"),
        (rs.camera_info, "name serial_number"),
        (rs.stream, "depth color"),
        (rs.format, "z16 rgb8"),
    ):
        assert not [n for n in names.split() if not hasattr(owner, n)], owner


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(
        SourceRefusedError, match=r"needs pyrealsense2.*pip install 'afterimage\[realsense\]'"
    ):
        make_source(sensor_of("depth", {"kind": "realsense"})).open()
