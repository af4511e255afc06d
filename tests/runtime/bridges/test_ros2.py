"""The ROS 2 mapping, against ROS's own definitions; and its plumbing, on an emulated rclpy. Not run with ROS."""

from __future__ import annotations

import json
import sys
import threading
import time
from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs.errors import MissingExtraError
from runtime.bridges.ros2 import Ros2Bridge, ros_message
from runtime.bridges.ros2_mapping import (
    RosMessageError,
    array_samples,
    decision_messages,
    health_message,
    image_samples,
    observation_message,
    topic_base,
)
from runtime.rig import load_rig
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionSender, FrameReceiver
from runtime.wire import (
    Decision,
    Frame,
    HealthEvent,
    ModalityReport,
    Observation,
    decode_frame,
    encode_output,
)

RIG = load_rig("commands-4")
RGB, DEPTH, AUDIO, EEG = RIG.sensors
STAMP_NS = 1_700_000_000_123_456_789
DECISION = Decision(
    rig=RIG.name,
    bundle="b",
    tick=7,
    deadline_ns=1,
    published_ns=2,
    capture_ns=None,
    label="go",
    probabilities={"stop": 0.25, "go": 0.75},
    entropy=0.56,
    presence={"rgb": 0, "eeg": 1},
    fill="impute",
    modalities={
        "rgb": ModalityReport("missing", "silence", None, 0.0, True),
        "eeg": ModalityReport("live", "", 12.34, 1.0, False),
    },
)
EVENT = HealthEvent(RIG.name, "rgb", 5, "live", "missing", "silence", "0.2 s")


def observation(modality: str, values: Any, unit: str, imputed: bool) -> Observation:
    return Observation(
        RIG.name, "b", modality, "best", 7, 2, imputed, ("eeg",), unit, np.asarray(values, np.float32)
    )


def image(encoding: str, pixels: np.ndarray[Any, Any], pad: int = 0, big: bool = False) -> Any:
    rows = pixels.reshape(pixels.shape[0], -1)
    rows = rows.astype(rows.dtype.newbyteorder(">" if big else "<")).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding,
        height=pixels.shape[0],
        width=pixels.shape[1],
        step=rows.shape[1],
        is_bigendian=int(big),
        data=array("B", rows.tobytes()),
    )


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip(
        "rosbags", reason="ROS's message definitions come with rosbags, which is not installed"
    )
    from ros2_emulation import Definitions, Rclpy

    emulated = Rclpy(Definitions())
    emulated.install(monkeypatch)
    return emulated


def test_a_decision_fits_ros_types_and_says_what_was_imputed(ros: Any) -> None:
    sent = {t: ros.definitions.sent(ros_message(m)) for t, m in decision_messages(DECISION, STAMP_NS)}
    assert sent["label"].data == "go"
    assert sent["probabilities"].data.tolist() == [0.25, 0.75]
    (dimension,) = sent["probabilities"].layout.dim
    assert (dimension.label, dimension.size, dimension.stride) == ("stop,go", 2, 2)
    everything = json.loads(sent["decision"].data)
    assert everything["modalities"]["rgb"]["imputed"] is True
    assert (everything["tick"], everything["stamp_ns"]) == (7, STAMP_NS)
    rgb, eeg = sent["/diagnostics"].status
    assert (rgb.level, rgb.name, rgb.message) == (2, "afterimage: commands-4/rgb", "missing (silence)")
    assert {v.key: v.value for v in rgb.values}["imputed"] == "true"
    assert (eeg.level, eeg.message) == (0, "live")
    stamp = sent["/diagnostics"].header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec == STAMP_NS


def test_a_health_event_is_a_diagnostic(ros: Any) -> None:
    (status,) = ros.definitions.sent(ros_message(health_message(EVENT, STAMP_NS))).status
    assert (status.level, status.message) == (2, "missing (silence)")
    assert {v.key: v.value for v in status.values}["detail"] == "0.2 s"


def test_imputed_pictures_are_pictures_whose_frame_says_imputed(ros: Any) -> None:
    pixels = np.linspace(-3, 260, 4 * 5 * 3).reshape(4, 5, 3)
    made = ros_message(observation_message(observation("rgb", pixels, "intensity", True), STAMP_NS))
    sent = ros.definitions.sent(made)
    assert (sent.header.frame_id, sent.encoding) == ("rgb_imputed", "rgb8")
    assert (sent.height, sent.width, sent.step) == (4, 5, 15)
    np.testing.assert_array_equal(
        sent.data.reshape(4, 5, 3), np.clip(np.rint(pixels.astype("f4")), 0, 255).astype(np.uint8)
    )
    depth = observation("depth", [[500, 1500], [0, 65535]], "mm", False)
    sent = ros.definitions.sent(ros_message(observation_message(depth, STAMP_NS)))
    assert (sent.header.frame_id, sent.encoding, sent.step) == ("depth", "32FC1", 8)
    np.testing.assert_allclose(sent.data.view("<f4"), [0.5, 1.5, 0, 65.535], rtol=1e-6)


def test_what_is_no_picture_is_an_array_with_its_shape(ros: Any) -> None:
    values = np.arange(12).reshape(3, 4)
    sent = ros.definitions.sent(
        ros_message(observation_message(observation("eeg", values, "uV", True), STAMP_NS))
    )
    assert [(d.label, d.size, d.stride) for d in sent.layout.dim] == [("eeg_imputed (uV)", 3, 12), ("", 4, 4)]
    np.testing.assert_array_equal(sent.data, np.arange(12))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_colour_images_of_every_layout_become_rgb(encoding: str) -> None:
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, :32] = (200, 100, 50)
    order = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 0], "bgra8": [2, 1, 0, 0], "mono8": [0]}
    samples = image_samples(image(encoding, rgb[..., order[encoding]], pad=5), RGB)
    assert (samples.shape, samples.dtype) == ((1, 64, 64, 3), np.uint8)
    expected = np.repeat(rgb[..., :1], 3, -1) if encoding == "mono8" else rgb
    np.testing.assert_array_equal(samples[0], expected)


def test_images_are_scaled_to_the_rig() -> None:
    rgb = np.zeros((128, 256, 3), np.uint8)
    rgb[:, 128:] = 200
    samples = image_samples(image("rgb8", rgb), RGB)
    assert samples.shape == (1, 64, 64, 3)
    assert samples[0, :, :31].max() == 0
    assert samples[0, :, 33:].min() == 200
    depth = np.full((128, 128), 700, np.uint16)
    depth[::2, ::2] = 900
    assert set(np.unique(image_samples(image("16UC1", depth), DEPTH))) <= {700, 900}, "depths are never mixed"


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_millimetres_and_metres_is_the_same(big: bool) -> None:
    millimetres = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    metres = millimetres.astype(np.float32) / 1000
    for message in (image("16UC1", millimetres, 6, big), image("32FC1", metres, 4, big)):
        np.testing.assert_array_equal(image_samples(message, DEPTH)[0], millimetres)
    metres[0, :4] = (np.nan, np.inf, -np.inf, -1)
    metres[0, 4] = 100
    assert image_samples(image("32FC1", metres), DEPTH)[0, 0, :5].tolist() == [0, 0, 0, 0, 65535]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8'"),
        ({"encoding": "16UC1"}, "encoding '16UC1'"),
        ({"step": 10}, "rows of at least 192 bytes"),
        ({"height": 65}, "in 12288 bytes"),
        ({"width": 0}, "0 x 64"),
    ],
)
def test_an_image_that_does_not_fit_is_named(change: dict[str, Any], named: str) -> None:
    message = image("rgb8", np.zeros((64, 64, 3), np.uint8))
    vars(message).update(change)
    with pytest.raises(RosMessageError, match=named):
        image_samples(message, RGB)


def test_audio_and_eeg_come_as_arrays() -> None:
    audio = array_samples(SimpleNamespace(data=array("h", range(320))), AUDIO)
    assert (audio.shape, audio.dtype) == ((320,), np.int16)
    eeg = array_samples(SimpleNamespace(data=array("f", range(16))), EEG)
    assert (eeg.shape, eeg.dtype, eeg[1, 0]) == ((2, 8), np.float32, 8.0)
    for data, named in ((range(15), "multiple of 8"), ((), "multiple"), ([np.nan] * 8, "not finite")):
        with pytest.raises(RosMessageError, match=named):
            array_samples(SimpleNamespace(data=array("f", data)), EEG)


def test_names_are_ros_names() -> None:
    assert topic_base("commands-4") == "/afterimage/commands_4"


def test_without_ros_the_bridge_says_what_to_do() -> None:
    if "rclpy" in sys.modules:
        pytest.skip("ROS 2 is here")
    with pytest.raises(MissingExtraError, match=r"source /opt/ros/DISTRO/setup\.bash"):
        Ros2Bridge(RIG, inputs={})


def test_messages_go_both_ways(ros: Any, endpoints: Endpoints) -> None:
    stop = threading.Event()
    with (
        FrameReceiver(endpoints.frames) as frames,
        DecisionSender(endpoints.decisions) as decisions,
        Ros2Bridge(
            RIG,
            inputs={"rgb": "/camera/image_raw", "eeg": "/amplifier"},
            frames=endpoints.frames,
            decisions=endpoints.decisions,
        ) as bridge,
    ):
        thread = threading.Thread(target=bridge.run, args=(stop,))
        thread.start()
        got: dict[str, Frame] = {}
        try:
            end = time.monotonic() + 10
            while (len(got) < 2 or "/afterimage/commands_4/best/rgb" not in ros.published) and (
                time.monotonic() < end
            ):
                decisions.update_subscriptions()
                for message in (
                    DECISION,
                    EVENT,
                    observation("rgb", np.zeros((64, 64, 3)), "intensity", True),
                ):
                    decisions.send(encode_output(message))
                ros.waiting.append(("/camera/image_raw", _ros_image(ros, "rgb8")))
                ros.waiting.append(("/camera/image_raw", _ros_image(ros, "yuv422")))
                ros.waiting.append(("/amplifier", _ros_floats(ros)))
                while (parts := frames.receive()) is not None:
                    frame = decode_frame(parts)
                    got[frame.modality] = frame
                time.sleep(0.05)
        finally:
            stop.set()
            thread.join(10)
    assert set(got) == {"rgb", "eeg"}
    assert got["rgb"].clock.id == "ros"
    offset = time.time_ns() - time.monotonic_ns()
    assert abs(got["rgb"].clock.offset_ns - offset) < 1e9
    assert got["rgb"].capture_ns == STAMP_NS, "the camera's own stamp"
    assert abs(got["eeg"].capture_ns - time.time_ns()) < 20e9, "arrays have none: when they came"
    base = "/afterimage/commands_4"
    assert {f"{base}/label", f"{base}/probabilities", f"{base}/decision", f"{base}/best/rgb"} <= set(
        ros.published
    )
    assert ros.published[f"{base}/best/rgb"][0].header.frame_id == "rgb_imputed"
    assert len(ros.published["/diagnostics"]) >= 2
    assert ros.profiles[f"{base}/best/rgb"].reliability.name == "BEST_EFFORT"
    assert ros.profiles[f"{base}/label"].reliability.name == "RELIABLE"
    assert ros.warnings == [
        "rgb: image encoding 'yuv422', expected one of rgb8, bgr8, rgba8, bgra8, mono8"
    ], "once, not once a frame"
    assert bridge.refused >= 1
    assert not ros.running


def _ros_image(ros: Any, encoding: str) -> Any:
    make = ros.definitions.make
    stamp = make("builtin_interfaces/msg/Time", sec=STAMP_NS // 10**9, nanosec=STAMP_NS % 10**9)
    pixels = array("B", bytes(48 * 48 * 3))
    return make(
        "sensor_msgs/msg/Image",
        header=make("std_msgs/msg/Header", stamp=stamp, frame_id="camera"),
        height=48,
        width=48,
        encoding=encoding,
        is_bigendian=0,
        step=144,
        data=pixels,
    )


def _ros_floats(ros: Any) -> Any:
    make = ros.definitions.make
    layout = make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    return make("std_msgs/msg/Float32MultiArray", layout=layout, data=array("f", range(16)))
