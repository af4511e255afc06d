"""The measurement behind ``python -m benchmarks soak``: a real node, millions of messages, and the books at the end.

The node is the one that users run, with its real sockets and a real session; only its clock is not real. The driver
moves that clock from one thing that happens to the next, so the node never waits and hours pass in minutes. Sensors
send through real ZeroMQ sockets in the same process. At each step everything sent is taken in before time goes on, so
that nothing is lost in a queue that was not meant to be: what arrives is a function of the seed.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.soak.decisions import DecisionLedger
from benchmarks.soak.faults import Act, SoakSensor, Step
from benchmarks.soak.ledger import SensorLedger, discrepancies
from benchmarks.soak.memory import (
    MemorySample,
    grow_interned_strings,
    memory_report,
    sample_memory,
)
from benchmarks.soak.messages import fill_bank
from configs.errors import AfterimageError
from engines.measuring.machine import describe_machine
from engines.opening import open_session
from engines.session import Session
from runtime.client import Client
from runtime.node.node import Node
from runtime.rig import Rig, load_rig
from runtime.signals.opening import open_source
from runtime.transport.bounded_socket import HIGH_WATER_MARK
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import FrameSender
from runtime.wire import FUSED, Observation, Reason

NS = 1_000_000_000
START_NS = 10**15
_STEP_NS = 20_000_000
_WAIT_NS = 2_000_000
"""How long, in real time, to wait for what is on its way in a socket."""
_AT_ONCE = HIGH_WATER_MARK // 2
"""Messages of one sensor that are sent before the node takes them in."""

_PATIENCE_S = 60.0
_SAMPLES = 100
_VISIT_EVERY_NS, _VISIT_NS = 60 * NS, NS
_HELLO = (b"hello",)
"""One part and no topic of the rig: counted as ``bad_parts`` of no modality, and nothing else is."""

Say = Callable[[str, float], None]
"""Told what is done, and which share of all of it, 0..1."""


class SoakError(AfterimageError):
    """A message or decision that should have arrived did not."""


@dataclass(frozen=True)
class SoakPlan:
    """What is run.

    Attributes:
        messages: to be sent, at least.
        seed: of samples and faults.
        chunks: kind of sensor -> samples in one message: small ones, so that a window is many messages.
        calm_s: kind of sensor -> good messages between two faults, in seconds on average; long enough that windows
            are whole now and then.
    """

    messages: int = 10_000_000
    seed: int = 0
    chunks: Mapping[str, int] = field(default_factory=lambda: {"audio": 8, "eeg": 2})
    calm_s: Mapping[str, float] = field(
        default_factory=lambda: {"rgb": 2.0, "depth": 2.0, "audio": 3.0, "eeg": 6.0}
    )


class VirtualClock:
    """A node's clock that stands still until it is moved."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        """Now, in nanoseconds."""
        return self.now_ns


class SoakRun:
    """One run: made, it is connected; :meth:`go` does the work."""

    def __init__(self, session: Session, plan: SoakPlan) -> None:
        """Bind the node, connect the sensors and the reader.

        Args:
            session: the model; closed by the caller.
            plan: what to run.
        """
        self._plan, self._manifest = plan, session.manifest
        self.rig = soak_rig(session, plan.chunks)
        self._clock = VirtualClock(START_NS)
        source = open_source("synthetic", seed=plan.seed, modalities=self.rig.modality_names)
        self.sensors = {
            s.modality: SoakSensor(
                self.rig, s, fill_bank(source, s, plan.seed), START_NS, seed=plan.seed,
                calm_s=plan.calm_s[s.kind], longest_step=_AT_ONCE,
            )
            for s in self.rig.sensors
        }  # fmt: skip
        self._opened = ExitStack()
        # Not a test's or user's folder: a long path would not fit into the address of a Unix socket.
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
        self._endpoints = Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")
        self.node = self._opened.enter_context(Node(self.rig, session, self._endpoints, clock=self._clock))
        self._reader = self._opened.enter_context(
            Client(self.rig, ("fused", "health", "statistics"), endpoint=self._endpoints.decisions)
        )
        self._senders = {m: FrameSender(self._endpoints.frames) for m in self.sensors}
        self._visitor: Client | None = None
        self.visits, self.observations, self.hellos = 0, 0, 0
        self.ticks = DecisionLedger(START_NS, self.rig.tick.rate_hz)
        self.samples: list[MemorySample] = []
        self.astray = 0

    @property
    def ledgers(self) -> dict[str, SensorLedger]:
        """Modality -> its sensor's books."""
        return {m: s.ledger for m, s in self.sensors.items()}

    @property
    def sent(self) -> int:
        """Messages sent by all sensors."""
        return sum(s.ledger.sent for s in self.sensors.values()) + self.astray

    def go(self, say: Say = lambda what, share: None) -> dict[str, Any]:
        """Send all messages, then let every fault end and every sensor recover.

        Returns:
            The report.

        Raises:
            SoakError: something that was sent did not arrive, and was not meant to be lost.
        """
        grow_interned_strings()
        plan, begin = self._plan, time.monotonic()
        if not self.node.await_subscriber(FUSED, _PATIENCE_S):
            raise SoakError("the reader of decisions did not get through to the node")
        with self.node.running():
            for modality in self.sensors:
                self._greet(modality)
            every = max(1, plan.messages // _SAMPLES)
            while self.sent < plan.messages:
                self._step()
                if self.sent // every > len(self.samples):
                    self.samples.append(sample_memory(self.sent))
                    rate = self.sent / (time.monotonic() - begin)
                    say(f"{self.sent:,} messages, {rate:,.0f}/s", self.sent / plan.messages)
            self._settle()
            seconds = time.monotonic() - begin
            return self._report(seconds, self.node.statistics())

    def close(self) -> None:
        """Close every socket."""
        for sender in self._senders.values():
            sender.close()
        if self._visitor is not None:
            self._visitor.close()
        self._opened.close()

    def __enter__(self) -> SoakRun:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every socket."""
        self.close()

    def _step(self) -> None:
        """Let one step of time pass, and send what is captured in it."""
        until_ns = self._clock.now_ns - self._clock.now_ns % _STEP_NS + _STEP_NS
        while True:
            wait_ns = self.node.turn()
            if wait_ns == 0:
                continue
            if self._clock.now_ns + wait_ns >= until_ns:
                break
            self._clock.now_ns += wait_ns
        self._clock.now_ns = until_ns
        for modality, sensor in self.sensors.items():
            for step in sensor.until(until_ns):
                self._send(modality, step)
        self._take_in()
        self._read()

    def _send(self, modality: str, step: Step) -> None:
        ledger, topic = self.sensors[modality].ledger, self.sensors[modality].topic
        overflow = False
        for item in step:
            if item is Act.RECONNECT:
                self._take_in()
                self._senders[modality].close()
                self._senders[modality] = FrameSender(self._endpoints.frames)
                self._greet(modality)
            elif item is Act.OVERFLOW:
                self._take_in()
                overflow = True
            elif isinstance(item, tuple):
                self._senders[modality].send(item)
                if item[0] == topic:
                    ledger.sent += 1
                else:
                    self.astray += 1
                if not overflow and ledger.sent % _AT_ONCE == 0:
                    self._take_in()
        if overflow:
            self._take_in_overflow(modality)

    def _greet(self, modality: str) -> None:
        """Send hellos until one arrives: a PUB socket drops what it is given before it is connected."""
        end, before = time.monotonic() + _PATIENCE_S, self._hellos_received()
        while self._hellos_received() == before:
            self._senders[modality].send(_HELLO)
            for _ in range(5):
                self._turn_out()
                if self._hellos_received() > before:
                    break
                self.node.wait(_WAIT_NS)
            if time.monotonic() > end:
                raise SoakError(f"sensor {modality!r} did not get through to the node in {_PATIENCE_S:.0f} s")

    def _hellos_received(self) -> int:
        dropped: dict[str, int] = self.node.counters()["unattributed"]["dropped"]
        self.hellos = dropped.get(Reason.BAD_PARTS.value, 0)
        return self.hellos

    def _turn_out(self) -> None:
        """Turns until the node has nothing to do."""
        while self.node.turn() == 0:
            pass

    def _take_in(self) -> None:
        """Let the node take in everything that was sent.

        Raises:
            SoakError: some of it does not come.
        """
        end = time.monotonic() + _PATIENCE_S
        on_the_way = self.sent - sum(ledger.lost_in_queues for ledger in self.ledgers.values())
        while True:
            self._turn_out()
            counters = self.node.counters()
            hellos = counters["unattributed"]["dropped"].get(Reason.BAD_PARTS.value, 0)
            missing = on_the_way - counters["received"] + hellos
            if missing <= 0:
                return
            if time.monotonic() > end:
                raise SoakError(
                    f"{missing} of {self.sent} messages did not arrive at the node in {_PATIENCE_S:.0f} s"
                )
            self.node.wait(_WAIT_NS)

    def _take_in_overflow(self, modality: str) -> None:
        """Take in what is left of messages that were too many; a hello behind them tells when that is all."""
        self._greet(modality)
        self._turn_out()
        ledger = self.sensors[modality].ledger
        ledger.lost_in_queues = ledger.sent - self.node.counters()["modalities"][modality]["received"]

    def _read(self) -> None:
        """Read what the node published; a second reader comes now and then, for everything that is made for readers."""
        while (message := self._reader.receive(0)) is not None:
            self.ticks.add(message)
        since_ns = (self._clock.now_ns - START_NS) % _VISIT_EVERY_NS
        if self._visitor is None and since_ns < _VISIT_NS:
            self._visitor = Client(
                self.rig, ("imputed/", "best/", "statistics"), endpoint=self._endpoints.decisions
            )
            self.visits += 1
        elif self._visitor is not None:
            while (message := self._visitor.receive(0)) is not None:
                self.observations += isinstance(message, Observation)
            if since_ns >= _VISIT_NS:
                self._visitor.close()
                self._visitor = None

    def _settle(self) -> None:
        """No new faults: let those under way end, and every sensor have a whole window after that."""
        for sensor in self.sensors.values():
            sensor.calm_down()
        while not all(s.is_calm for s in self.sensors.values()):
            self._step()
        limits = self.rig.health
        longest_s = max(m.window / m.rate_hz for m in self._manifest.modalities)
        end_ns = self._clock.now_ns + round((2 * longest_s + limits.late_s + 1) * NS)
        while self._clock.now_ns < end_ns:
            self._step()
        self._turn_out()
        end = time.monotonic() + _PATIENCE_S
        while self.ticks.seen < self.node.counters()["ticks"]["published"]:
            if time.monotonic() > end:
                raise SoakError(f"{self.ticks.seen} decisions arrived at the reader, the node published more")
            self.node.wait(_WAIT_NS)
            self._read()

    def _report(self, seconds: float, statistics: Mapping[str, Any]) -> dict[str, Any]:
        counters, ledgers, ticks = statistics["messages"], self.ledgers, self.ticks
        nowhere = sum((s.nowhere for s in self.sensors.values()), Counter({Reason.BAD_PARTS: self.hellos}))
        wrong = discrepancies(ledgers, nowhere, counters) + ticks.discrepancies(
            counters["ticks"], self._clock.now_ns, self.rig.modality_names
        )
        lost = sum(ledger.lost_in_queues for ledger in ledgers.values())
        sent = self.sent
        return {
            "messages": sent,
            "unaccounted": abs(sent + self.hellos - lost - counters["received"]) + counters["unaccounted"],
            **memory_report(self.samples, sent),
            "discrepancies": wrong,
            "sent": {m: ledger.sent for m, ledger in ledgers.items()} | {"astray": self.astray},
            "lost_in_queues": lost,
            "hellos": self.hellos,
            "injected": {m: dict(sorted(ledger.injected.items())) for m, ledger in ledgers.items()},
            "counters": counters,
            "ticks": counters["ticks"] | {"read": ticks.seen, "gaps": ticks.gaps},
            "deadline_drift_ns": round(ticks.drift_ns, 3),
            "tick_lateness_ns": ticks.lateness_ns,
            "states_at_the_end": dict(ticks.states),
            "health_events": dict(sorted(ticks.events.items())),
            "readers": {"visits": self.visits, "observations": self.observations},
            "errors": statistics["errors"],
            "virtual_seconds": (self._clock.now_ns - START_NS) / NS,
            "seconds": round(seconds, 1),
            "messages_per_s": round(sent / seconds, 1),
            "cpu_us_per_message": round(1e6 * statistics["cpu_seconds"] / sent, 2),
            "bundle": {"name": self._manifest.name, "hash": self._manifest.hash},
            "rig": {s.modality: {"chunk": s.chunk, "rate_hz": s.rate_hz} for s in self.rig.sensors},
            "seed": self._plan.seed,
            "machine": describe_machine(),
        }


def soak_rig(session: Session, chunks: Mapping[str, int]) -> Rig:
    """The rig of a session's bundle, with messages of so many samples by kind of sensor.

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
        SoakError: something that was sent did not arrive.
    """
    with open_session(bundle) as session, SoakRun(session, plan) as run:
        return run.go(say)
