"""A node with its sensors and a client on one virtual clock, and a transport between them that spoils messages.

Everything is real but the clock: messages go through ZeroMQ sockets, the node is the whole node, and a client reads
what it publishes. The clock moves only when every message that was sent has been taken in, so that a starved machine
changes nothing: the same seed gives the same states, ticks and counters.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spoiling import MS, Message, Parts, Samples, Spoiling

from engines.opening import open_session
from engines.session import Session
from runtime.client import Client
from runtime.core import quality
from runtime.node.node import Node
from runtime.rig import Rig, SensorSpec
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import FrameSender
from runtime.wire import Decision, HealthEvent, Observation, Output, encode_frame

PATIENCE_S = 30.0
FIRST_NS = 10**13
"""Where the virtual clock begins: it can be set back by more than an hour."""


class SpoiltSensor:
    """One sensor of a rig on a real socket, whose messages can be spoilt.

    Its first message is a whole window, as the protocol allows: nobody waits three seconds for EEG to begin.

    Attributes:
        sent: messages, whatever they were.
        taken: all samples so far, one entry per message.
        left: what an ended fault still has to send before the next message.
        next_ns: when it sends next.
    """

    def __init__(self, rig: Rig, sensor: SensorSpec, window: int, endpoint: str, *, seed: int) -> None:
        self.sent = 0
        self.taken: list[Samples] = []
        self.left: list[Parts] = []
        self._rig, self._sensor, self._window = rig, sensor, window
        self._surplus = 0
        self._chance = random.Random(seed)
        self._noise = np.random.default_rng([seed, len(sensor.modality)])
        self._sender = FrameSender(endpoint)

    @property
    def next_ns(self) -> int:
        return FIRST_NS + round(1e9 * self._sensor.period_s * (len(self.taken) + 1))

    def step(self, at_ns: int, spoiling: Spoiling | None = None) -> None:
        """Send what is due at a time, spoilt if a fault is given; first what a fault that ended has left."""
        number = len(self.taken)
        message = Message(number, at_ns, self._take(), at_ns, number + self._surplus)
        sending, self.left = self.left, []
        if spoiling is None:
            sending.append(self._encode(message))
        else:
            sending += spoiling.spoil(message, self._encode, self._chance)
            self._surplus += spoiling.surplus
            if spoiling.is_seen:
                self.taken[-1] = message.samples
        for parts in sending:
            self.send(parts)
        self.sent += len(sending)

    def send(self, parts: Sequence[Any]) -> None:
        """Send anything on this sensor's connection."""
        self._sender.send(parts)

    def close(self) -> None:
        self._sender.close()

    def _encode(self, message: Message) -> Parts:
        return encode_frame(
            self._rig.name,
            self._sensor.modality,
            message.sequence,
            message.samples,
            capture_ns=message.capture_ns,
            unit=self._sensor.unit,
        )

    def _take(self) -> Samples:
        shape = (self._sensor.chunk if self.taken else self._window, *self._sensor.sample_shape)
        self.taken.append(noise(self._sensor.kind, self._noise, shape).astype(self._sensor.dtype))
        return self.taken[-1]


def noise(kind: str, generator: np.random.Generator, shape: tuple[int, ...]) -> Samples:
    """What a sensor of a kind sees while nothing is wrong."""
    if kind == "eeg":
        return generator.normal(0, 20, shape)
    low, high = {"rgb": (0, 256), "depth": (500, 1500), "audio": (-8000, 8000)}[kind]
    return generator.integers(low, high, shape)


def open_calm_session(rig: Rig, folder: Path) -> Iterator[Session]:
    """A session for the sensors of a rig; its content checks know what they deliver while nothing is wrong."""
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch, which is not installed")
    from tiny_bundle import build_tiny_bundle, make_specs

    chance = np.random.default_rng(0)
    thresholds = {}
    for spec in make_specs(rig.modality_names):
        windows = (noise(spec.kind, chance, spec.window_shape).astype(spec.dtype) for _ in range(32))
        thresholds[spec.name] = quality.thresholds_from(
            spec.kind, [quality.measure(spec.kind, w) for w in windows]
        )
    build_tiny_bundle(folder, rig.modality_names, health_thresholds=thresholds)
    with open_session(folder) as session:
        yield session


@dataclass
class Log:
    """What a client read and what the node counted."""

    messages: list[Output] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def decisions(self) -> list[Decision]:
        return [m for m in self.messages if isinstance(m, Decision)]

    @property
    def observations(self) -> list[Observation]:
        return [m for m in self.messages if isinstance(m, Observation)]

    def states(self, modality: str) -> list[str]:
        """What a modality went through, from the health events: ``live``, or ``state:reason``."""
        return [
            m.state if m.state == "live" else f"{m.state}:{m.reason}"
            for m in self.messages
            if isinstance(m, HealthEvent) and m.modality == modality
        ]


class VirtualRun:
    """The whole of it; see the module."""

    def __init__(
        self, rig: Rig, session: Session, endpoints: Endpoints, *, seed: int = 0, best: str = "rgb"
    ) -> None:
        self.rig = rig
        self.now_ns = FIRST_NS
        self.log = Log()
        self.knocks = 0
        self._heard = 0
        self._opened = ExitStack()
        self.node = Node(rig, session, endpoints, clock=lambda: self.now_ns)
        self._opened.callback(self.node.close)
        topics = ("fused", "health", f"best/{best}")
        self.client = Client(rig, topics, endpoint=endpoints.decisions, queue=10_000)
        self._opened.callback(self.client.close)
        for topic in topics:
            assert self.node.await_subscriber(topic.encode(), PATIENCE_S), topic
        self.sensors = {
            s.modality: SpoiltSensor(
                rig, s, session.manifest.modality(s.modality).window, endpoints.frames, seed=seed
            )
            for s in rig.sensors
        }
        for sensor in self.sensors.values():
            self._opened.callback(sensor.close)

    def __enter__(self) -> VirtualRun:
        self._opened.enter_context(self.node.running())
        for modality in self.sensors:
            self._connect(modality)
        self.knocks = self._counters()["received"]
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def play(self, steps: int, modality: str = "", spoiling: Spoiling | None = None) -> None:
        """Play some periods of one sensor, the first if none is named; it is spoilt if a fault is given."""
        modality = modality or self.rig.modality_names[0]
        sensor = self.sensors[modality]
        end = len(sensor.taken) + steps
        while len(sensor.taken) < end:
            self.advance(modality, spoiling)
            self.settle()

    def advance(self, spoilt: str = "", spoiling: Spoiling | None = None) -> None:
        """The clock moves on to when a sensor sends, while the node does nothing."""
        self.now_ns = min(sensor.next_ns for sensor in self.sensors.values())
        for modality, sensor in self.sensors.items():
            if sensor.next_ns == self.now_ns:
                sensor.step(self.now_ns, spoiling if modality == spoilt else None)

    def settle(self) -> None:
        """Let the node take in all that was sent, and do all there is to do at this moment."""
        end = time.monotonic() + PATIENCE_S
        # Heard before any turn is taken: a tick that is due at this moment must not overtake what is on its way.
        while self._heard < (sent := sum(s.sent for s in self.sensors.values())):
            assert time.monotonic() < end, f"the node took in {self._heard} of {sent} messages"
            self.node.wait(MS)
            self._heard += self.node._receive()
        while self.node.turn() == 0:
            assert time.monotonic() < end, "the node does not come to rest"
        if sum(s.sent for s in self.sensors.values()) > sent:
            # Sensors sent more while an engine call stalled, and the turns took in some of it.
            self._heard = self._counters()["received"] - self.knocks
            self.settle()

    def finish(self) -> Log:
        """Read all that was published; the log."""
        self.log.statistics = self.node.statistics()
        published = sum(self.log.statistics["published"].values())
        end = time.monotonic() + PATIENCE_S
        while len(self.log.messages) < published:
            message = self.client.receive(0.2)
            if message is not None:
                self.log.messages.append(message)
            assert time.monotonic() < end, f"read {len(self.log.messages)} of {published} messages"
        decided = [d.tick for d in self.log.decisions]
        assert self.client.lost == decided[-1] + 1 - len(decided), "lost is what the numbers lack"
        assert self.client.refused == 0
        return self.log

    def _counters(self) -> dict[str, Any]:
        # Not node.statistics(): percentiles of every stage, several times per step, would take most of the time.
        return self.node.counters()

    def _connect(self, modality: str) -> None:
        """Wait until a sensor is connected; what is sent for that is no frame, and counted as nobody's."""
        self._knock(modality, [b"knock", b"", b""], "bad_topic", again=True)
        # Some knocks may be on their way still; whatever is sent now comes after them.
        self._knock(modality, [b"done"], "bad_parts", again=False)

    def _knock(self, modality: str, parts: Parts, reason: str, *, again: bool) -> None:
        def count() -> int:
            return int(self._counters()["unattributed"]["dropped"].get(reason, 0))

        before, end = count(), time.monotonic() + PATIENCE_S
        self.sensors[modality].send(parts)
        while count() == before:
            assert time.monotonic() < end, f"sensor {modality!r} did not connect"
            if self.node.turn():
                time.sleep(0.002)
                if again:
                    self.sensors[modality].send(parts)
