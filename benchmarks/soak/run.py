"""The soak: a real node, millions of messages with every fault, and at the end a check of every counter.

The node is the one that users run, on a virtual clock (:mod:`benchmarks.virtual_node.driver`): hours pass in minutes.
What it counted is compared with ledgers that know only what was sent; decisions and health events are read by a client
and checked; the memory of the process is sampled throughout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.soak.bank import fill_bank
from benchmarks.soak.decisions import DecisionLedger
from benchmarks.soak.episodes import EpisodicSensor
from benchmarks.soak.memory import (
    MemorySample,
    grow_interned_strings,
    memory_report,
    sample_memory,
)
from benchmarks.virtual_node.driver import PATIENCE_S, VirtualNode, VirtualNodeError
from benchmarks.virtual_node.ledger import discrepancies
from benchmarks.virtual_node.sensor import VirtualSensor
from engines.measuring.interleaving import Say
from engines.measuring.machine import describe_machine
from engines.opening import open_session
from engines.session import Session
from runtime.client import Client
from runtime.core.clock import NS_PER_S
from runtime.rig import Rig, load_rig
from runtime.signals.opening import open_source
from runtime.wire import FUSED, Observation

START_NS = 10**15
_STEP_NS = 20_000_000
_SAMPLES = 100
_VISIT_EVERY_NS, _VISIT_NS = 60 * NS_PER_S, NS_PER_S


@dataclass(frozen=True)
class SoakPlan:
    """What is run.

    Attributes:
        messages: to be sent, at least.
        seed: of samples and faults.
        chunks: kind of sensor -> samples in one message: few, so that a window is many messages.
        calm_s: kind of sensor -> good messages between two faults, in seconds on average; long enough that windows
            are whole now and then.
    """

    messages: int = 10_000_000
    seed: int = 0
    chunks: Mapping[str, int] = field(default_factory=lambda: {"audio": 8, "eeg": 2})
    calm_s: Mapping[str, float] = field(
        default_factory=lambda: {"rgb": 2.0, "depth": 2.0, "audio": 3.0, "eeg": 6.0}
    )


class SoakRun:
    """One run; it is connected while it is open as a context, and :meth:`go` does the work."""

    def __init__(self, session: Session, plan: SoakPlan) -> None:
        """Bind the node, and make the sensors.

        Args:
            session: the model; closed by the caller.
            plan: what to run.
        """
        self._plan, self._manifest = plan, session.manifest
        self.rig = soak_rig(session, plan.chunks)
        self._opened = ExitStack()
        self._virtual = VirtualNode(self.rig, session, start_ns=START_NS)
        self._opened.callback(self._virtual.close)
        source = open_source("synthetic", seed=plan.seed, modalities=self.rig.modality_names)
        self.sensors = {}
        for spec in self.rig.sensors:
            payloads = cycle(fill_bank(source, spec))
            ledger = self._virtual.ledgers[spec.modality]
            sensor = VirtualSensor(self.rig, spec.modality, payloads.__next__, ledger=ledger, seed=plan.seed)
            self.sensors[spec.modality] = EpisodicSensor(sensor, START_NS, plan.calm_s[spec.kind])
        self._reader = self._opened.enter_context(self._client("fused", "health", "statistics"))
        self._visitor: Client | None = None
        self.visits, self.observations = 0, 0
        self.ticks = DecisionLedger(START_NS, self.rig.tick.rate_hz)
        self.samples: list[MemorySample] = []

    @property
    def sent(self) -> int:
        """Messages sent by all sensors."""
        ledgers = self._virtual.ledgers.values()
        return sum(ledger.sent + ledger.nowhere.total() for ledger in ledgers)

    def go(self, say: Say = lambda what, share: None) -> dict[str, Any]:
        """Send all messages, then let every fault end and every sensor recover.

        Returns:
            The report.

        Raises:
            VirtualNodeError: a message or decision that should have arrived did not.
        """
        grow_interned_strings()
        plan, begin = self._plan, time.monotonic()
        every = max(1, plan.messages // _SAMPLES)
        while self.sent < plan.messages:
            self._step()
            if self.sent // every > len(self.samples):
                self.samples.append(sample_memory(self.sent))
                rate = self.sent / (time.monotonic() - begin)
                say(f"{self.sent:,} messages, {rate:,.0f}/s", self.sent / plan.messages)
        self._settle()
        return self._report(time.monotonic() - begin, self._virtual.node.statistics())

    def __enter__(self) -> SoakRun:
        """Wait for the reader, and connect every sensor.

        Raises:
            VirtualNodeError: one of them does not get through to the node.
        """
        if not self._virtual.node.await_subscriber(FUSED, PATIENCE_S):
            raise VirtualNodeError(f"the reader did not get through to the node in {PATIENCE_S:.0f} s")
        self._virtual.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every socket."""
        if self._visitor is not None:
            self._visitor.close()
        self._opened.close()

    def _client(self, *topics: str) -> Client:
        return Client(self.rig, topics, endpoint=self._virtual.endpoints.decisions)

    def _step(self) -> None:
        """Let one step of time pass, and send what is captured in it."""
        now_ns = self._virtual.now_ns
        until_ns = now_ns - now_ns % _STEP_NS + _STEP_NS
        self._virtual.pass_time(until_ns)
        for modality, sensor in self.sensors.items():
            while sensor.next_ns <= until_ns:
                self._virtual.perform(modality, sensor.step())
        self._virtual.take_in()
        self._read()

    def _read(self) -> None:
        """Read what the node published. A second reader comes now and then, for what is made for readers only."""
        while (message := self._reader.receive(0)) is not None:
            self.ticks.add(message)
        since_ns = (self._virtual.now_ns - START_NS) % _VISIT_EVERY_NS
        if self._visitor is None and since_ns < _VISIT_NS:
            self._visitor = self._client("imputed/", "best/", "statistics")
            self.visits += 1
        elif self._visitor is not None:
            while (message := self._visitor.receive(0)) is not None:
                self.observations += isinstance(message, Observation)
            if since_ns >= _VISIT_NS:
                self._visitor.close()
                self._visitor = None

    def _settle(self) -> None:
        """Begin no new faults: let those under way end, and every sensor have a whole window after that."""
        virtual = self._virtual
        for sensor in self.sensors.values():
            sensor.calm_down()
        while not all(s.is_calm for s in self.sensors.values()):
            self._step()
        longest_s = max(m.window / m.rate_hz for m in self._manifest.modalities)
        end_ns = virtual.now_ns + round((2 * longest_s + self.rig.health.late_s + 1) * NS_PER_S)
        while virtual.now_ns < end_ns:
            self._step()
        end = time.monotonic() + PATIENCE_S
        while self.ticks.seen < virtual.node.counters()["ticks"]["published"]:
            if time.monotonic() > end:
                raise VirtualNodeError(
                    f"{self.ticks.seen} decisions arrived at the reader, and the node published more"
                )
            virtual.node.wait(1_000_000)
            self._read()

    def _report(self, seconds: float, statistics: Mapping[str, Any]) -> dict[str, Any]:
        counters, ticks = statistics["messages"], self.ticks
        ledgers, greetings = self._virtual.ledgers, self._virtual.greetings
        now_ns = self._virtual.now_ns
        wrong = discrepancies(ledgers, greetings, counters) + ticks.discrepancies(
            counters["ticks"], now_ns, self.rig.modality_names
        )
        lost = sum(ledger.lost_in_queues for ledger in ledgers.values())
        astray = sum(ledger.nowhere.total() for ledger in ledgers.values())
        sent, hellos = self.sent, greetings.total()
        return {
            "messages": sent,
            "unaccounted": abs(sent + hellos - lost - counters["received"]) + counters["unaccounted"],
            **memory_report(self.samples, sent),
            "discrepancies": wrong,
            "sent": {m: ledger.sent for m, ledger in ledgers.items()} | {"astray": astray},
            "lost_in_queues": lost,
            "hellos": hellos,
            "injected": {m: dict(sorted(ledger.injected.items())) for m, ledger in ledgers.items()},
            "counters": counters,
            "ticks": counters["ticks"] | {"read": ticks.seen, "gaps": ticks.gaps},
            "deadline_drift_ns": round(ticks.drift_ns, 3),
            "tick_lateness_ns": ticks.lateness_ns,
            "states_at_the_end": dict(ticks.states),
            "health_events": dict(sorted(ticks.events.items())),
            "readers": {"visits": self.visits, "observations": self.observations},
            "errors": statistics["errors"],
            "virtual_seconds": (now_ns - START_NS) / NS_PER_S,
            "seconds": round(seconds, 1),
            "messages_per_s": round(sent / seconds, 1),
            "cpu_us_per_message": round(1e6 * statistics["cpu_seconds"] / sent, 2),
            "bundle": {"name": self._manifest.name, "hash": self._manifest.hash},
            "rig": {s.modality: {"chunk": s.chunk, "rate_hz": s.rate_hz} for s in self.rig.sensors},
            "seed": self._plan.seed,
            "machine": describe_machine(),
        }


def soak_rig(session: Session, chunks: Mapping[str, int]) -> Rig:
    """The rig of a session's bundle, with other numbers of samples in a message.

    Args:
        session: of the bundle.
        chunks: kind of sensor -> samples in a message.

    Raises:
        RigError: the bundle's rig is not a shipped one.
    """
    rig, names = load_rig(session.manifest.rig), session.manifest.modality_names
    sensors = [s.model_copy(update={"chunk": chunks.get(s.kind, s.chunk)}) for s in rig.sensors]
    return rig.model_copy(update={"sensors": tuple(s for s in sensors if s.modality in names)})


def run_soak(bundle: Path, plan: SoakPlan, say: Say = lambda what, share: None) -> dict[str, Any]:
    """Open a bundle and run.

    Args:
        bundle: folder of a bundle or engine.
        plan: what to run.
        say: for a progress bar.

    Returns:
        The report: ``messages`` sent, ``unaccounted``, ``rss_slope_kb_per_million`` and all else.

    Raises:
        VirtualNodeError: something that was sent did not arrive.
    """
    with open_session(bundle) as session, _without_warnings(), SoakRun(session, plan) as run:
        return run.go(say)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the node from warning of every refusal that it is provoked to."""
    log = logging.getLogger("afterimage")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
