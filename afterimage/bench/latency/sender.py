"""The sensor process of the latency benchmark: plays one sensor of the synthetic rig to the contender whose turn it is.

``python -m afterimage.bench.latency.sender SPEC`` with SPEC the JSON of a :class:`SenderSpec`; then a line
``{"endpoint": ..., "seconds": ...}`` on stdin plays for that long, and is answered with how many messages were sent.
Every message is stamped with the time of its publication, so a decision's ``capture_ns`` says when its frame was
published.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from runtime.rig import Rig
from runtime.sensors.publisher import Sensor
from runtime.signals.playback import Playback, plan_for
from runtime.signals.synthetic import SyntheticSource

POOL = {"rgb": 60, "depth": 60, "audio": 150, "eeg": 96}
"""Kind of sensor -> messages that are prepared, and then played again and again."""

CONNECTING_S = 0.3
"""What is sent before the connection stands is lost."""


class SenderSpec(BaseModel):
    """What a sensor process plays.

    Attributes:
        rig: with the sample shapes to send; images of another size than the synthetic rig's are scaled.
        modality: which of its sensors, at its own rate.
    """

    rig: Rig
    modality: str


def playable_messages(rig: Rig, modality: str) -> list[npt.NDArray[Any]]:
    """The samples of one sensor's messages from the synthetic rig, each (n, *sample_shape)."""
    source = SyntheticSource()
    playback = Playback(source, modality, plan_for(source, "test", 0))
    sensor = rig.sensor(modality)
    read = [playback.read(i).samples for i in range(POOL[sensor.kind])]
    if sensor.kind not in ("rgb", "depth") or read[0].shape[1:] == sensor.sample_shape:
        return read
    size = (sensor.sample_shape[1], sensor.sample_shape[0])
    return [cv2.resize(one[0], size, interpolation=cv2.INTER_NEAREST)[np.newaxis] for one in read]


def play(sensor: Sensor, pool: list[npt.NDArray[Any]], seconds: float) -> int:
    """Publish messages at the sensor's rate; returns how many were sent."""
    begin, period_ns, sent = time.monotonic_ns(), round(sensor.spec.period_s * 1e9), 0
    while (due := begin + (sent + 1) * period_ns) < begin + round(seconds * 1e9):
        wait_ns = due - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        sensor.publish(pool[sent % len(pool)], capture_ns=time.monotonic_ns())
        sent += 1
    return sent


def main(argument: str) -> int:
    """The process: play on request until stdin ends."""
    spec = SenderSpec.model_validate_json(argument)
    pool = playable_messages(spec.rig, spec.modality)
    connected: dict[str, Sensor] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        endpoint = order["endpoint"]
        if endpoint not in connected:
            connected[endpoint] = Sensor(spec.rig, spec.modality, endpoint=endpoint)
            time.sleep(CONNECTING_S)
        print(json.dumps({"sent": play(connected[endpoint], pool, order["seconds"])}), flush=True)
    for sensor in connected.values():
        sensor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
