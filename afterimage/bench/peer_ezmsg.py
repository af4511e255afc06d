"""The same job on ezmsg, as its users write it: a sensor unit, a unit that encodes and fuses, a client unit.

Each unit has a process of its own, as the sensor, the node and the client of Afterimage have. ``python -m
afterimage.bench.peer_ezmsg SPEC`` with SPEC the JSON of a :class:`PeerSpec` plays one turn and prints the latencies.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ezmsg.core as ez
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from afterimage.bench.latency_sender import chunks
from engines.opening import open_session
from runtime.rig import Rig


class PeerSpec(BaseModel):
    """One turn.

    Attributes:
        bundle: path of the bundle.
        rig: its sensors.
        modality: the sensor that plays.
        skip_s: seconds at the beginning that do not count.
        seconds: seconds that count.
        result: file that the client writes its latencies to, JSON list of nanoseconds.
    """

    bundle: str
    rig: Rig
    modality: str
    skip_s: float
    seconds: float
    result: str


@dataclass
class Samples:
    """What the sensor says."""

    published_ns: int
    values: npt.NDArray[Any]


@dataclass
class Decided:
    """What the fusing unit says."""

    published_ns: int
    label: str
    probabilities: dict[str, float]


class PeerSettings(ez.Settings):
    """The turn, for every unit."""

    spec: str


class SensorUnit(ez.Unit):
    """Publishes chunks at the sensor's rate."""

    SETTINGS = PeerSettings
    OUTPUT = ez.OutputStream(Samples)

    @ez.publisher(OUTPUT)
    async def play(self) -> AsyncGenerator[Any, None]:
        """Every message on its time."""
        spec = PeerSpec.model_validate_json(self.SETTINGS.spec)
        pool = chunks(spec.rig, spec.modality)
        period_s = spec.rig.sensor(spec.modality).period_s
        await asyncio.sleep(1.0)  # the others are starting
        begin = time.monotonic()
        for number in range(int((spec.skip_s + spec.seconds) / period_s)):
            await asyncio.sleep(max(0.0, begin + (number + 1) * period_s - time.monotonic()))
            yield self.OUTPUT, Samples(time.monotonic_ns(), pool[number % len(pool)])
        await asyncio.sleep(0.5)
        raise ez.NormalTermination


class FusionUnit(ez.Unit):
    """Windows, encodes, fuses."""

    SETTINGS = PeerSettings
    INPUT = ez.InputStream(Samples)
    OUTPUT = ez.OutputStream(Decided)

    async def initialize(self) -> None:
        """Open the engine."""
        spec = PeerSpec.model_validate_json(self.SETTINGS.spec)
        self.session = open_session(spec.bundle)
        self.session.warm_up()
        self.modality = self.session.manifest.modality(spec.modality)
        names = self.session.manifest.modality_names
        self.presence = np.array([[float(n == spec.modality) for n in names]], np.float32)
        self.buffer: npt.NDArray[Any] | None = None
        self.fresh = 0

    @ez.subscriber(INPUT)
    @ez.publisher(OUTPUT)
    async def decide(self, message: Samples) -> AsyncGenerator[Any, None]:
        """A decision for every window."""
        wanted = self.modality
        if wanted.kind in ("rgb", "depth"):
            window = message.values[-1]
        else:
            both = message.values if self.buffer is None else np.concatenate([self.buffer, message.values])
            self.buffer = both[-wanted.window :]
            self.fresh += len(message.values)
            if len(self.buffer) < wanted.window or self.fresh < wanted.hop:
                return
            self.fresh = 0
            window = self.buffer
        evidence = self.session.encode(wanted.name, window[np.newaxis])
        row = self.session.fuse({wanted.name: evidence}, self.presence).probabilities[0]
        classes = self.session.manifest.classes
        probabilities = dict(zip(classes, map(float, row), strict=True))
        yield self.OUTPUT, Decided(message.published_ns, classes[int(row.argmax())], probabilities)


class ClientUnit(ez.Unit):
    """Notes when decisions arrive."""

    SETTINGS = PeerSettings
    INPUT = ez.InputStream(Decided)

    async def initialize(self) -> None:
        """Nothing yet."""
        self.arrivals: list[tuple[int, int]] = []

    @ez.subscriber(INPUT)
    async def note(self, message: Decided) -> None:
        """How long it took."""
        self.arrivals.append((message.published_ns, time.monotonic_ns()))

    async def shutdown(self) -> None:
        """Write what was measured, without the beginning."""
        spec = PeerSpec.model_validate_json(self.SETTINGS.spec)
        first = self.arrivals[0][0] if self.arrivals else 0
        window_s = 0.0 if spec.modality in ("rgb", "depth") else spec.skip_s
        began = first - round(window_s * 1e9)
        counted = [b - a for a, b in self.arrivals if a - began >= spec.skip_s * 1e9]
        Path(spec.result).write_text(json.dumps(counted))


class PeerSystem(ez.Collection):
    """Sensor, fusion, client, each in its own process."""

    SETTINGS = PeerSettings
    SENSOR = SensorUnit()
    FUSION = FusionUnit()
    CLIENT = ClientUnit()

    def configure(self) -> None:
        """Everybody knows the turn."""
        for unit in (self.SENSOR, self.FUSION, self.CLIENT):
            unit.apply_settings(self.SETTINGS)

    def network(self) -> ez.NetworkDefinition:
        """Sensor -> fusion -> client."""
        return ((self.SENSOR.OUTPUT, self.FUSION.INPUT), (self.FUSION.OUTPUT, self.CLIENT.INPUT))

    def process_components(self) -> tuple[ez.Component, ...]:
        """A process each."""
        return (self.SENSOR, self.FUSION, self.CLIENT)


if __name__ == "__main__":
    ez.run(SYSTEM=PeerSystem(PeerSettings(spec=sys.argv[1])))
