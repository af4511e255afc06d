"""The camera adapter on generated video files, and on a stand-in for a live one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from sensor_bench import joined, read_samples, sensor_of

from runtime.sensors.adapters.camera import CameraSource
from runtime.sensors.sample_source import SourceLostError, SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import Transformer, plan

FRAMES = 12


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at 60 Hz that grow brighter, red brightest."""
    path = tmp_path_factory.mktemp("video") / "ramp.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 60.0, (64, 48))
    rng = np.random.default_rng(0)
    for n in range(FRAMES):
        image = rng.integers(0, 8, (48, 64, 3), np.uint8)
        image[..., 2] = 20 + 15 * n  # OpenCV's order: blue, green, red
        writer.write(image)
    writer.release()
    return path


def source_of(path: Path | str | int, **options: Any) -> CameraSource:
    device = path if isinstance(path, int) else str(path)
    source = make_source(sensor_of("rgb", {"kind": "camera", "device": device, **options}, rate_hz=60))
    assert isinstance(source, CameraSource)
    return source


def test_a_video_file_plays_at_its_rate_in_rgb_and_ends(video: Path) -> None:
    source = source_of(video)
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.unit, delivery.live) == (
        (48, 64, 3),
        "uint8",
        "intensity",
        False,
    )
    assert delivery.rate_hz == pytest.approx(60)
    taken = read_samples(source, 5)
    source.close()
    assert len(taken) == FRAMES
    red = [float(s.array[0, ..., 0].mean()) for s in taken]
    np.testing.assert_allclose(red, 20 + 15 * np.arange(FRAMES), atol=4)
    assert float(joined(taken)[..., 2].mean()) < 10, "blue is the last channel"
    intervals = np.diff([s.capture_ns for s in taken])
    np.testing.assert_allclose(intervals, 1e9 / 60, atol=1)
    assert {s.clock.id for s in taken} == {"playback"}


def test_a_looped_file_begins_again_without_a_break_in_time(video: Path) -> None:
    source = source_of(video, loop=True)
    source.open()
    taken = read_samples(source, 5, most=2 * FRAMES + 3)
    source.close()
    assert len(taken) == 2 * FRAMES + 3
    np.testing.assert_array_equal(taken[0].array, taken[FRAMES].array)
    np.testing.assert_allclose(np.diff([s.capture_ns for s in taken]), 1e9 / 60, atol=1)
    assert source.counts["loops"] == 2


@pytest.mark.parametrize("loop", [False, True])
def test_a_file_that_was_cut_plays_what_is_left_of_it(video: Path, tmp_path: Path, loop: bool) -> None:
    data = video.read_bytes()
    cut = tmp_path / "cut.avi"
    end = [at for at in range(len(data)) if data.startswith(b"00dc", at)][FRAMES // 2]
    cut.write_bytes(data[: end + 300])  # in the middle of a frame; the index, at the end, is gone
    source = source_of(cut, loop=loop)
    source.open()
    taken = read_samples(source, 3, most=30)
    source.close()
    if loop:
        assert len(taken) == 30
        assert source.counts["loops"] >= 2
    else:
        assert FRAMES // 2 <= len(taken) <= FRAMES // 2 + 1


def test_what_is_no_video_is_refused_and_what_is_away_is_tried_again(tmp_path: Path) -> None:
    broken = tmp_path / "broken.avi"
    broken.write_bytes(b"nothing")
    with pytest.raises(SourceRefusedError, match=r"broken\.avi: not a video"):
        source_of(broken).open()
    with pytest.raises(SourceRefusedError, match="expected an index"):
        source_of(tmp_path / "none.avi").open()
    with pytest.raises(SourceLostError, match="cannot be opened") as lost:
        source_of(63).open()
    assert lost.value.reason == "cannot_open"


def test_a_frame_is_cropped_and_resized_as_declared(video: Path) -> None:
    transform = {"crop": [0, 8, 48, 48], "resize": [16, 16]}
    sensor = sensor_of(
        "rgb", {"kind": "camera", "device": str(video)}, transform, sample_shape=(16, 16, 3), rate_hz=60
    )
    source = make_source(sensor)
    transformer = Transformer(plan(sensor, source.open()))
    taken = read_samples(source, 2, most=1)
    source.close()
    out = transformer.apply(taken[0])
    assert out is not None
    assert out.array.shape == (1, 16, 16, 3)
    assert out.capture_ns == taken[0].capture_ns


def test_what_is_said_of_a_camera_does_not_hold_its_password() -> None:
    with pytest.raises(SourceLostError, match=r"rtsp://\*\*\*@127\.0\.0\.1:1/s cannot be opened") as lost:
        source_of("rtsp://user:secret@127.0.0.1:1/s", open_s=2).open()
    assert "secret" not in str(lost.value)


class LiveCamera:
    """Stands in for cv2.VideoCapture with a camera: what the real one did in the issues that were read."""

    stamp_ms: ClassVar[float] = 0.0
    alive: ClassVar[bool] = True

    def __init__(self, *arguments: Any) -> None:
        self.asked: dict[int, float] = {}

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        return (
            (True, np.random.default_rng().integers(0, 255, (48, 64, 3), np.uint8))
            if self.alive
            else (False, None)
        )

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: 60.0, cv2.CAP_PROP_POS_MSEC: self.stamp_ms}[key]

    def set(self, key: int, value: float) -> bool:
        self.asked[key] = value
        return True

    def getBackendName(self) -> str:
        return "V4L2"

    def release(self) -> None: ...


def test_a_live_camera_is_stamped_by_the_driver_where_that_can_be_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", LiveCamera)
    source = source_of(0, fps=60, size=[64, 48], fourcc="MJPG")
    assert source.open().live
    monkeypatch.setattr(LiveCamera, "stamp_ms", time.monotonic() * 1000 - 12)
    first = read_samples(source, 1, most=1)[0]
    assert first.clock.id == "v4l2"
    assert 11e6 < time.monotonic_ns() - first.capture_ns < 1e9
    monkeypatch.setattr(LiveCamera, "stamp_ms", time.time() * 1000)  # a driver that stamps with another clock
    second = read_samples(source, 1, most=1)[0]
    assert second.clock.id == "arrival"
    monkeypatch.setattr(LiveCamera, "alive", False)
    with pytest.raises(SourceLostError) as lost:
        source.read(0.1)
    assert lost.value.reason == "disconnected"
