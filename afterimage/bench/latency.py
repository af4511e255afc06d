"""From a frame's publication to its decision's arrival: Afterimage, the floor, and peers, turn by turn in one run.

Three processes for every contender: a sensor, something in the middle, and this one, the client. What differs is the
middle (:mod:`~afterimage.bench.latency_middle`), but for ezmsg and dora, whose three processes are their own
(:mod:`~afterimage.bench.peers`). One contender works at a time; the order of a round is shuffled, so that what else the
machine does hits all of them alike.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgpack
import numpy as np

from afterimage.bench.latency_middle import MiddleSpec
from afterimage.bench.latency_sender import FACTOR, SenderSpec
from afterimage.bench.peers import PEERS, play_turn
from runtime.rig import Rig, TickPolicy
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionReceiver

SKIP_S = {"rgb": 0.5, "depth": 0.5, "audio": 1.5, "eeg": 3.5}
"""At the beginning of a turn windows fill and health has to be earned; that is not counted."""

COUNTED_S = {"rgb": 2.5, "depth": 2.5, "audio": 4.0, "eeg": 4.0}
ARRIVAL, RATE, FLOOR, PLAIN = "afterimage", "afterimage_rate_20_hz", "floor", "plain"

_KINDS: dict[str, Literal["floor", "plain"]] = {FLOOR: "floor", PLAIN: "plain"}


@dataclass
class Process:
    """A contender's middle process, or a sender."""

    module: str
    argument: str
    process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Process:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", self.module, self.argument]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        if json.loads(self._line()) != {"ready": True}:
            raise RuntimeError(f"{self.module} did not start")
        return self

    def tell(self, line: str) -> None:
        """Send it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for its answer."""
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def finish(self) -> dict[str, Any]:
        """End it; gives its last word."""
        out, _ = self.process.communicate(timeout=30)
        word: dict[str, Any] = json.loads(out.strip().splitlines()[-1]) if out.strip() else {}
        return word

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with {self.process.wait()}; its last words are above")
        return line


class Arrivals:
    """The client: takes what a contender publishes, and keeps how long each message took from its frame."""

    def __init__(self, endpoint: str, topics: tuple[bytes, ...]) -> None:
        self._receiver = DecisionReceiver(endpoint, topics)
        self._captures: dict[int, int] = {}

    def take(self, until_ns: int, number: int, counted_from_ns: int) -> dict[str, list[float]]:
        """Read until a time; topic -> microseconds from publication to arrival, of one modality's frames.

        Args:
            until_ns: when to stop.
            number: of the modality.
            counted_from_ns: frames published before are not counted.
        """
        seen: set[tuple[str, int]] = set()
        took: dict[str, list[float]] = {}
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            parts = self._receiver.receive(max(1, left_ns // 1_000_000))
            arrived_ns = time.monotonic_ns()
            if parts is None:
                continue
            topic, header = bytes(parts[0]).decode(), _header(bytes(parts[1]))
            capture = header.get("capture_ns")
            if topic == "fused" and capture is not None:
                self._captures[header.get("tick", 0)] = capture
            elif topic.startswith("imputed/"):
                capture = self._captures.get(header["tick"])
            key = (topic, capture or 0)
            if not capture or capture % FACTOR != number or capture < counted_from_ns or key in seen:
                continue
            seen.add(key)
            took.setdefault(topic, []).append((arrived_ns - capture) / 1e3)
        self._captures.clear()
        return took

    def take_all(self, until_ns: int) -> list[tuple[int, int, dict[str, str]]]:
        """Read until a time; of every decision when it arrived, when it was due, and the state of each modality."""
        came = []
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            parts = self._receiver.receive(max(1, left_ns // 1_000_000))
            arrived_ns = time.monotonic_ns()
            if parts is not None:
                header = _header(bytes(parts[1]))
                states = {name: m["state"] for name, m in header["modalities"].items()}
                came.append((arrived_ns, header["deadline_ns"], states))
        return came

    def take_imputed(self, until_ns: int) -> list[float]:
        """Read until a time; of every imputed frame the milliseconds from its tick's deadline to its arrival."""
        deadlines: dict[int, int] = {}
        took = []
        while (left_ns := until_ns - time.monotonic_ns()) > 0:
            parts = self._receiver.receive(max(1, left_ns // 1_000_000))
            arrived_ns = time.monotonic_ns()
            if parts is None:
                continue
            header = _header(bytes(parts[1]))
            if bytes(parts[0]) == b"fused":
                deadlines[header["tick"]] = header["deadline_ns"]
            elif header["tick"] in deadlines:
                took.append((arrived_ns - deadlines[header["tick"]]) / 1e6)
        return took

    def close(self) -> None:
        """Stop listening."""
        self._receiver.close()


def _header(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data) if data[:1] == b"{" else msgpack.unpackb(data)
    return header


@dataclass
class Turns:
    """Latencies of one contender in one case, turn by turn, in microseconds."""

    turns: list[list[float]] = field(default_factory=list)

    def summary(self) -> dict[str, float | int]:
        """p50 (median over turns of their medians), p99 and p10 of all, and how many."""
        every = [v for turn in self.turns for v in turn]
        if not every:
            return {"count": 0}
        p10, p99 = np.percentile(every, (10, 99))
        p50 = np.median([np.median(turn) for turn in self.turns if turn])
        figures = {"p50_us": float(p50), "p10_us": float(p10), "p99_us": float(p99)}
        return {k: round(v, 1) for k, v in figures.items()} | {"count": len(every)}


def with_policy(rig: Rig, modality: str, policy: str) -> Rig:
    """The rig with the tick policy to measure; under ``arrival`` ticks without a window come once a second."""
    tick = (
        TickPolicy(policy="arrival", on=(modality,), rate_hz=1.0)
        if policy == ARRIVAL
        else TickPolicy(policy="rate", rate_hz=20.0)
    )
    return rig.model_copy(update={"tick": tick})


def measure_case(
    bundle: Path,
    rig: Rig,
    modality: str,
    rounds: int,
    *,
    playing: tuple[str, ...] | None = None,
    peers: Sequence[str] = tuple(PEERS),
    imputed: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure one modality's frames.

    Args:
        bundle: of a model that the rig feeds.
        rig: its sensors.
        modality: whose frames are followed; decisions are brought by its windows.
        rounds: turns of every contender.
        playing: sensors that play; by default only ``modality``.
        peers: of :data:`~afterimage.bench.peers.PEERS`, those that take part.
        imputed: a silent modality whose imputed stream is followed as well.
        seed: of the order.
        say: told what is being measured.

    Returns:
        contender -> its summary; ``stages``, ``tick_overhead_us``, ``floor_engine_us``, ``imputed``.
    """
    playing = playing or (modality,)
    number = rig.modality_names.index(modality)
    taken = {n: Turns() for n in (FLOOR, ARRIVAL, RATE, PLAIN, *peers)}
    seen_imputed = Turns()
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, ExitStack() as opened:
        middles, clients, endpoints = {}, {}, {}
        for name in (n for n in taken if n not in peers):
            endpoints[name] = Endpoints(f"ipc://{folder}/{name}-f", f"ipc://{folder}/{name}-d")
            spec = MiddleSpec(
                kind=_KINDS.get(name, "node"),
                bundle=str(bundle),
                rig=with_policy(rig, modality, name),
                frames=endpoints[name].frames,
                decisions=endpoints[name].decisions,
            )
            middle = Process("afterimage.bench.latency_middle", spec.model_dump_json())
            middles[name] = opened.enter_context(middle)
            topics = (
                (b"fused",)
                if imputed is None or name != ARRIVAL
                else (b"fused", f"imputed/{imputed}".encode())
            )
            clients[name] = Arrivals(endpoints[name].decisions, topics)
        opened.callback(lambda: [client.close() for client in clients.values()])
        senders = [
            opened.enter_context(
                Process(
                    "afterimage.bench.latency_sender",
                    SenderSpec(rig=rig, modalities=(m,)).model_dump_json(),
                )
            )
            for m in playing
        ]
        skip, counted = max(SKIP_S[m] for m in playing), COUNTED_S[modality]
        order = random.Random(seed)
        for turn in range(rounds):
            names = list(taken)
            order.shuffle(names)
            for name in names:
                say(f"{modality}: {name}, turn {turn + 1} of {rounds}")
                if name in peers:
                    took = play_turn(name, bundle, rig, modality, skip, counted, Path(folder))
                    taken[name].turns.append(took)
                    continue
                got = _turn(senders, endpoints[name].frames, clients[name], number, skip, counted)
                taken[name].turns.append(got.get("fused", []))
                if name == ARRIVAL and imputed is not None:
                    seen_imputed.turns.append(got.get(f"imputed/{imputed}", []))
        words = {name: middle.finish() for name, middle in middles.items()}
    node = words[ARRIVAL]
    return {
        **{name: turns.summary() for name, turns in taken.items()},
        "floor_engine_us": words[FLOOR].get("engine_us"),
        "tick_overhead_us": node.get("tick_overhead_us"),
        "stages_ms": node["statistics"]["latency_ms"],
        "messages": node["statistics"]["messages"],
        **({"imputed": seen_imputed.summary()} if imputed is not None else {}),
        "samples_us": {n: [round(v, 1) for turn in t.turns for v in turn] for n, t in taken.items()},
    }


def _turn(
    senders: list[Process], endpoint: str, client: Arrivals, number: int, skip_s: float, counted_s: float
) -> dict[str, list[float]]:
    for sender in senders:
        sender.tell(f"{endpoint} {skip_s + counted_s}")
    begin_ns = time.monotonic_ns()
    until_ns = begin_ns + round((skip_s + counted_s + 0.5) * 1e9)
    got = client.take(until_ns, number, begin_ns + round((skip_s + 0.3) * 1e9))
    for sender in senders:
        sender.answer()
    return got
