"""The same job on ezmsg, as its users write it: a sensor unit, a unit that encodes and fuses, a client unit.

Each unit has a process of its own, as the sensor, the node and the client of Afterimage have.
``python -m benchmarks.peers.ezmsg_units SPEC`` with SPEC the JSON of a :class:`~benchmarks.peers.job.PeerSpec` plays
one turn.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import ezmsg.core as ez
import numpy.typing as npt

from afterimage.bench.latency.sender import playable_messages
from benchmarks.peers.job import Decider, PeerSpec, write_latencies


@dataclass
class SensorMessage:
    """What the sensor publishes."""

    published_ns: int
    values: npt.NDArray[Any]


@dataclass
class DecisionMessage:
    """What the fusing unit publishes."""

    published_ns: int
    label: str
    probabilities: dict[str, float]


class PeerSettings(ez.Settings):
    """The turn, for every unit."""

    spec: str


class SensorUnit(ez.Unit):
    """Publishes messages at the sensor's rate."""

    SETTINGS = PeerSettings
    OUTPUT = ez.OutputStream(SensorMessage)

    @ez.publisher(OUTPUT)
    async def play(self) -> AsyncGenerator[Any, None]:
        """Every message at its time."""
        spec = PeerSpec.model_validate_json(self.SETTINGS.spec)
        pool = playable_messages(spec.rig, spec.modality)
        await asyncio.sleep(1.0)  # the other units are starting
        begin = time.monotonic()
        for number in range(spec.messages):
            await asyncio.sleep(max(0.0, begin + (number + 1) * spec.period_s - time.monotonic()))
            yield self.OUTPUT, SensorMessage(time.monotonic_ns(), pool[number % len(pool)])
        await asyncio.sleep(0.5)
        raise ez.NormalTermination


class FusionUnit(ez.Unit):
    """Windows, encodes, fuses."""

    SETTINGS = PeerSettings
    INPUT = ez.InputStream(SensorMessage)
    OUTPUT = ez.OutputStream(DecisionMessage)

    async def initialize(self) -> None:
        """Open the engine."""
        self.decider = Decider(PeerSpec.model_validate_json(self.SETTINGS.spec))

    @ez.subscriber(INPUT)
    @ez.publisher(OUTPUT)
    async def decide(self, message: SensorMessage) -> AsyncGenerator[Any, None]:
        """A decision for every window."""
        decision = self.decider.decide(message.values)
        if decision is not None:
            yield self.OUTPUT, DecisionMessage(message.published_ns, decision.label, decision.by_class())


class ClientUnit(ez.Unit):
    """Notes when decisions arrive."""

    SETTINGS = PeerSettings
    INPUT = ez.InputStream(DecisionMessage)

    async def initialize(self) -> None:
        """No decision has arrived yet."""
        self.arrivals: list[tuple[int, int]] = []

    @ez.subscriber(INPUT)
    async def note(self, message: DecisionMessage) -> None:
        """When the window was complete, and when the decision arrived."""
        self.arrivals.append((message.published_ns, time.monotonic_ns()))

    async def shutdown(self) -> None:
        """Write what was measured, without the beginning."""
        write_latencies(PeerSpec.model_validate_json(self.SETTINGS.spec), self.arrivals)


class PeerSystem(ez.Collection):
    """Sensor, fusion, client, each in its own process."""

    SETTINGS = PeerSettings
    SENSOR = SensorUnit()
    FUSION = FusionUnit()
    CLIENT = ClientUnit()

    def configure(self) -> None:
        """Every unit knows the turn."""
        for unit in (self.SENSOR, self.FUSION, self.CLIENT):
            unit.apply_settings(self.SETTINGS)

    def network(self) -> ez.NetworkDefinition:
        """Sensor -> fusion -> client."""
        return ((self.SENSOR.OUTPUT, self.FUSION.INPUT), (self.FUSION.OUTPUT, self.CLIENT.INPUT))

    def process_components(self) -> tuple[ez.Component, ...]:
        """Each unit in a process of its own."""
        return (self.SENSOR, self.FUSION, self.CLIENT)


if __name__ == "__main__":
    ez.run(SYSTEM=PeerSystem(PeerSettings(spec=sys.argv[1])))
