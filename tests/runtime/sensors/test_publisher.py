"""The publisher: samples of anybody's own program reach the node if they fit the rig, and are refused if not."""

from __future__ import annotations

import time

import numpy as np
import pytest

from runtime.rig import load_rig
from runtime.sensors.publisher import SampleError, Sensor
from runtime.transport.sockets import FrameReceiver
from runtime.wire import Frame, decode_frame


def test_a_sensor_of_anybodys_own_publishes_what_fits_the_rig(receiver: FrameReceiver) -> None:
    rig = load_rig("commands-4")
    with Sensor(rig, "rgb", endpoint=receiver.endpoint) as sensor:
        image = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
        frames: list[Frame] = []
        end = time.monotonic() + 5
        while not frames and time.monotonic() < end:
            sensor.publish(image)
            time.sleep(0.01)
            if (parts := receiver.receive()) is not None:
                frames.append(decode_frame(parts))
        assert frames
        assert frames[0].samples.shape == (1, 64, 64, 3)
        np.testing.assert_array_equal(frames[0].samples[0], image)
        assert abs(time.monotonic_ns() - frames[0].capture_ns) < 5e9
        number = sensor.publish(np.stack([image, image]), capture_ns=7)
        assert number == sensor.sequence - 1
        for wrong, named in (
            (image.astype(np.float32), "expected uint8 samples in intensity, got float32"),
            (image[:32], r"expected shape \(n >= 1, 64, 64, 3\), got \(32, 64, 3\)"),
            (np.zeros((0, 64, 64, 3), np.uint8), "n >= 1"),
        ):
            with pytest.raises(SampleError, match=named):
                sensor.publish(wrong)
        assert sensor.sequence == number + 1, "what was refused took no number"
