"""The virtual node with sensors that send noise, one of which may have a fault, and a client that keeps everything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from window_fates import StretchLedger

from benchmarks.virtual_node.driver import PATIENCE_S, VirtualNode
from benchmarks.virtual_node.payloads import Payload, Samples
from benchmarks.virtual_node.sensor import Step, VirtualSensor
from engines.opening import open_session
from engines.session import Session
from runtime.client import Client
from runtime.core import quality
from runtime.rig import Rig
from runtime.wire import Decision, HealthEvent, Observation, Output

FIRST_NS = 10**13
"""Where the virtual clock begins: it can be set back by more than an hour."""


class NoiseSensor:
    """A sensor that sees noise, and keeps what it saw.

    Its first message is a whole window, as the protocol allows: nobody waits three seconds for EEG to begin.

    Attributes:
        sensor: the sensor.
        taken: what it saw so far, one entry per step.
    """

    def __init__(self, rig: Rig, modality: str, window: int, ledger: StretchLedger, seed: int) -> None:
        self.taken: list[Samples] = []
        self.sensor = VirtualSensor(rig, modality, self._look, ledger=ledger, seed=seed)
        self._window = window
        self._noise = np.random.default_rng([seed, len(modality)])

    @property
    def next_ns(self) -> int:
        return FIRST_NS + round(1e9 * self.sensor.spec.period_s * (len(self.taken) + 1))

    def step(self) -> Step:
        step = self.sensor.step(self.next_ns)
        self.taken.append(self.sensor.current.samples)
        return step

    def _look(self) -> Payload:
        spec = self.sensor.spec
        shape = (spec.chunk if self.taken else self._window, *spec.sample_shape)
        return self.sensor.payload(noise(spec.kind, self._noise, shape).astype(spec.dtype))


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

    def __init__(self, rig: Rig, session: Session, *, seed: int = 0, best: str = "rgb") -> None:
        self.rig = rig
        self.log = Log()
        self.ledgers = {m: StretchLedger(rig.health.frozen_frames) for m in rig.modality_names}
        self.virtual = VirtualNode(rig, session, start_ns=FIRST_NS, ledgers=self.ledgers)
        self._opened = ExitStack()
        self._opened.callback(self.virtual.close)
        topics = ("fused", "health", f"best/{best}")
        self.client = Client(rig, topics, endpoint=self.virtual.endpoints.decisions, queue=10_000)
        self._opened.callback(self.client.close)
        for topic in topics:
            assert self.virtual.node.await_subscriber(topic.encode(), PATIENCE_S), topic
        self.sensors = {
            m: NoiseSensor(rig, m, session.manifest.modality(m).window, self.ledgers[m], seed)
            for m in rig.modality_names
        }

    def __enter__(self) -> VirtualRun:
        self.virtual.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def play(self, steps: int, modality: str = "") -> None:
        """Play some periods of one sensor, the first if none is named."""
        taken = self.sensors[modality or self.rig.modality_names[0]].taken
        end = len(taken) + steps
        while len(taken) < end:
            self.virtual.pass_time(self._next_ns())
            self._send()
            self.virtual.take_in()

    def advance_while_the_node_is_held_up(self) -> None:
        """The clock moves on to when a sensor sends, and the node does nothing."""
        self.virtual.now_ns = self._next_ns()
        self._send()

    def finish(self) -> Log:
        """Read all that was published; the log."""
        self.log.statistics = self.virtual.node.statistics()
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

    def _next_ns(self) -> int:
        return min(sensor.next_ns for sensor in self.sensors.values())

    def _send(self) -> None:
        for modality, sensor in self.sensors.items():
            if sensor.next_ns == self.virtual.now_ns:
                self.virtual.perform(modality, sensor.step())
