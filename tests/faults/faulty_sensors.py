"""RGB and depth in real time, from a thread; RGB can have any fault of the catalogue."""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks.virtual_node.catalogue import Play
from benchmarks.virtual_node.payloads import Payload
from benchmarks.virtual_node.sensor import VirtualSensor
from runtime.rig import Rig
from runtime.transport.sockets import FrameSender

FAULTY_MESSAGES = 39
"""A fault lasts this many messages of RGB, 1.3 s."""


class FaultySensors(threading.Thread):
    """RGB and depth from a thread with connections of their own; RGB has a fault when told to.

    Attributes:
        rgb, depth: the sensors, with their ledgers.
        ended_ns: when the fault was over; 0 before.
        held_up_s: the most that this thread itself was late: on a starved machine states change for that alone.
    """

    def __init__(self, rig: Rig, endpoint: str, play: Play | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.ended_ns = 0
        self.held_up_s = 0.0
        self._endpoint, self._play = endpoint, play
        chance = np.random.default_rng(seed)

        def picture(modality: str, low: int, high: int) -> Payload:
            sensor = rig.sensor(modality)
            samples = chance.integers(low, high, (1, *sensor.sample_shape)).astype(sensor.dtype)
            return Payload.of(samples, is_image=True)

        self.rgb = VirtualSensor(rig, "rgb", lambda: picture("rgb", 0, 256), seed=seed)
        self.depth = VirtualSensor(rig, "depth", lambda: picture("depth", 500, 1500), seed=seed)
        self._begin_asked, self._stop_asked = threading.Event(), threading.Event()

    def begin_fault(self) -> None:
        """From the next message on."""
        self._begin_asked.set()

    def run(self) -> None:
        """Publish until stopped; both sensors keep an absolute beat of 30 Hz."""
        with FrameSender(self._endpoint) as rgb, FrameSender(self._endpoint) as depth:
            beat = time.monotonic()
            while not self._stop_asked.wait(max(0.0, beat - time.monotonic())):
                self.held_up_s = max(self.held_up_s, time.monotonic() - beat)
                beat = max(beat + 1 / 30, time.monotonic() - 0.1)
                if self._play is not None and self._begin_asked.is_set():
                    self.rgb.begin(self._play(self.rgb, FAULTY_MESSAGES))
                    self._play = None
                for sensor, sender in ((self.depth, depth), (self.rgb, rgb)):
                    for parts in sensor.step(time.monotonic_ns()):
                        assert isinstance(parts, tuple), "reconnecting is played in virtual time only"
                        sender.send(parts)
                        sensor.ledger.sent += 1
                if self._begin_asked.is_set() and not self.rgb.has_fault and not self.ended_ns:
                    self.ended_ns = time.monotonic_ns()

    def stop(self) -> None:
        """End the thread and close its sockets."""
        self._stop_asked.set()
        self.join(10)
        assert not self.is_alive()

    def __enter__(self) -> FaultySensors:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
