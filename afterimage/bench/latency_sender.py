"""The sensor process of the latency benchmark: plays chunks of the synthetic rig to whichever contender has its turn.

``python -m afterimage.bench.latency_sender SPEC`` with SPEC the JSON of a :class:`SenderSpec`; then a line
``ENDPOINT SECONDS`` on stdin plays for that long, and is answered with a line of how many messages were sent.

Every message is stamped with the time of its publication, to the nanosecond but for the last two bits, which tell the
modality: so a reader of decisions knows what a decision came of, and when that was published, from its
``capture_ns`` alone.
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
"""Messages read ahead and played in a circle."""

FACTOR = 4
"""Stamps are rounded to this many nanoseconds; what is left says the modality."""


class SenderSpec(BaseModel):
    """What a sensor process plays.

    Attributes:
        rig: with the sample shapes to send; images of other sizes than the synthetic rig's are scaled.
        modalities: which sensors, each at its own rate.
    """

    rig: Rig
    modalities: tuple[str, ...]


def stamped(now_ns: int, number: int) -> int:
    """A capture time that says which modality it is of.

    Args:
        now_ns: now.
        number: of the modality in the rig, below :data:`FACTOR`.
    """
    return now_ns - now_ns % FACTOR + number


def chunks(rig: Rig, modality: str) -> list[npt.NDArray[Any]]:
    """Messages of one sensor from the synthetic rig, each (n, *sample_shape)."""
    source = SyntheticSource()
    playback = Playback(source, modality, plan_for(source, "test", 0))
    shape = rig.sensor(modality).sample_shape
    read = [playback.read(i).samples for i in range(POOL[modality])]
    if modality not in ("rgb", "depth") or read[0].shape[1:] == shape:
        return read
    size = (shape[1], shape[0])
    return [cv2.resize(one[0], size, interpolation=cv2.INTER_NEAREST)[np.newaxis] for one in read]


def play(
    sensors: list[Sensor], numbers: list[int], pools: list[list[npt.NDArray[Any]]], seconds: float
) -> int:
    """Publish every sensor's messages at its own rate; returns how many were sent."""
    begin = time.monotonic_ns()
    sent = [0] * len(sensors)
    periods = [round(s.spec.period_s * 1e9) for s in sensors]
    end = begin + round(seconds * 1e9)
    while True:
        due = [begin + (n + 1) * p for n, p in zip(sent, periods, strict=True)]
        which = min(range(len(sensors)), key=due.__getitem__)
        if due[which] >= end:
            return sum(sent)
        wait_ns = due[which] - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        pool = pools[which]
        samples = pool[sent[which] % len(pool)]
        sensors[which].publish(samples, capture_ns=stamped(time.monotonic_ns(), numbers[which]))
        sent[which] += 1


def main(argument: str) -> int:
    """The process: play on request until stdin ends."""
    spec = SenderSpec.model_validate_json(argument)
    pools = [chunks(spec.rig, m) for m in spec.modalities]
    numbers = [spec.rig.modality_names.index(m) for m in spec.modalities]
    connected: dict[str, list[Sensor]] = {}
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        endpoint, seconds = line.split()
        if endpoint not in connected:
            connected[endpoint] = [Sensor(spec.rig, m, endpoint=endpoint) for m in spec.modalities]
            time.sleep(0.3)  # what is sent before the connection stands is lost
        print(json.dumps({"sent": play(connected[endpoint], numbers, pools, float(seconds))}), flush=True)
    for sensors in connected.values():
        for sensor in sensors:
            sensor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
