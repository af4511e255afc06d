"""From a frame's publication to its decision's arrival: Afterimage and the floor, turn by turn in one run.

Three processes for each contender: a sensor (:mod:`afterimage.bench.latency.sender`), something in the middle
(:mod:`~afterimage.bench.latency.middle`), and this one, the client. The contenders share the sensor process and the
client, and differ in the middle. One contender works at a time, and the order of each round is shuffled, so that
whatever else the machine does affects all of them alike.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgpack

from afterimage.bench.latency.middle import MiddleSpec
from afterimage.bench.latency.sender import SenderSpec
from engines.measuring.interleaving import Timings
from engines.measuring.process import BenchmarkProcess, ProcessError
from runtime.rig import Rig, TickPolicy
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionReceiver
from runtime.wire import FUSED, imputed_topic

SKIP_S = {"rgb": 0.5, "depth": 0.5, "audio": 1.5, "eeg": 3.5}
"""At the beginning of a turn windows fill and sensors become live; that is not counted."""

COUNTED_S = {"rgb": 2.5, "depth": 2.5, "audio": 4.0, "eeg": 4.0}

FLOOR, ARRIVAL, RATE = "floor", "afterimage", "afterimage_rate_20_hz"
OWN_PATH = {
    FLOOR: "afterimage.bench.latency.floor",
    ARRIVAL: "afterimage.bench.latency.node",
    RATE: "afterimage.bench.latency.node",
}
"""Contender -> module of its process in the middle."""


PlayTurn = Callable[[float, float, Path], list[float]]
"""Plays a turn of a contender that brings its own sensor and client, given seconds at the beginning that do not count,
seconds that count, and a folder for temporary files; returns seconds from publications to arrivals."""


def start_middle(module: str, bundle: Path, rig: Rig, endpoints: Endpoints) -> BenchmarkProcess:
    """Start a process in the middle, and wait until sensors and clients may connect.

    Raises:
        ProcessError: it does not start.
    """
    spec = MiddleSpec(bundle=str(bundle), rig=rig, frames=endpoints.frames, decisions=endpoints.decisions)
    return _ready(BenchmarkProcess.of_module(module, spec.model_dump_json()))


def start_sender(rig: Rig, modality: str) -> BenchmarkProcess:
    """Start a sensor process, and wait until it can play.

    Raises:
        ProcessError: it does not start.
    """
    spec = SenderSpec(rig=rig, modality=modality)
    return _ready(BenchmarkProcess.of_module("afterimage.bench.latency.sender", spec.model_dump_json()))


def _ready(process: BenchmarkProcess) -> BenchmarkProcess:
    try:
        process.answer()
    except ProcessError:
        process.close()
        raise
    return process


class Arrivals:
    """The client: reads what a contender publishes, and notes when it arrives."""

    def __init__(self, endpoint: str, topics: tuple[bytes, ...]) -> None:
        self._receiver = DecisionReceiver(endpoint, topics)

    def until(self, end_ns: int) -> Iterator[tuple[bytes, dict[str, Any], int]]:
        """Topic, header and time of arrival of every message that arrives before a time."""
        while (left_ns := end_ns - time.monotonic_ns()) > 0:
            parts = self._receiver.receive(max(1, left_ns // 1_000_000))
            arrived_ns = time.monotonic_ns()
            if parts is not None:
                data = bytes(parts[1])
                yield (
                    bytes(parts[0]),
                    json.loads(data) if data[:1] == b"{" else msgpack.unpackb(data),
                    arrived_ns,
                )

    def latencies(self, end_ns: int, counted_from_ns: int) -> dict[bytes, list[float]]:
        """Read until a time; topic -> seconds from a frame's publication to the first message that rests on it.

        Args:
            end_ns: when to stop.
            counted_from_ns: frames that were published before are not counted.
        """
        captures: dict[int, int] = {}
        seen: set[tuple[bytes, int]] = set()
        took: dict[bytes, list[float]] = {}
        for topic, header, arrived_ns in self.until(end_ns):
            capture_ns = header.get("capture_ns")
            if topic == FUSED and capture_ns is not None:
                captures[header.get("tick", 0)] = capture_ns
            elif topic != FUSED:
                capture_ns = captures.get(header["tick"])
            if capture_ns is not None and capture_ns >= counted_from_ns and (topic, capture_ns) not in seen:
                seen.add((topic, capture_ns))
                took.setdefault(topic, []).append((arrived_ns - capture_ns) / 1e9)
        return took

    def close(self) -> None:
        """Stop reading."""
        self._receiver.close()


def with_policy(rig: Rig, modality: str, contender: str) -> Rig:
    """The rig with the tick policy to measure.

    Under :data:`ARRIVAL` a tick comes with every window, and once a second where none does.
    """
    tick = (
        TickPolicy(policy="arrival", on=(modality,), rate_hz=1.0)
        if contender == ARRIVAL
        else TickPolicy(policy="rate", rate_hz=20.0)
    )
    return rig.model_copy(update={"tick": tick})


def measure_case(
    bundle: Path,
    rig: Rig,
    modality: str,
    rounds: int,
    *,
    middles: Mapping[str, str] = OWN_PATH,
    peers: Mapping[str, PlayTurn] | None = None,
    imputed: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure one modality's frames.

    Args:
        bundle: of a model that the rig feeds.
        rig: its sensors.
        modality: the sensor that plays; every window of it brings a decision.
        rounds: turns of every contender.
        middles: contender -> module of its process in the middle; at least those of :data:`OWN_PATH`.
        peers: contender -> how it plays a turn, where it brings its own sensor and client.
        imputed: a silent modality whose imputed stream is followed as well.
        seed: of the order.
        say: told what is being measured.

    Returns:
        contender -> its :func:`figures`; ``stages_ms``, ``messages``, ``tick_overhead_us`` (of the node),
        ``floor_engine_us``, ``imputed`` (its figures) and ``samples_us`` (contender -> every latency).

    Raises:
        ProcessError: a process of the benchmark failed.
    """
    peers = peers or {}
    taken = {name: Timings() for name in (*middles, *peers)}
    taken_imputed = Timings()
    followed = None if imputed is None else imputed_topic(imputed)
    skip_s, counted_s = SKIP_S[modality], COUNTED_S[modality]
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, ExitStack() as opened:
        endpoints = {n: Endpoints(f"ipc://{folder}/{n}-f", f"ipc://{folder}/{n}-d") for n in middles}
        running, clients = {}, {}
        for name, module in middles.items():
            its_rig = with_policy(rig, modality, name)
            running[name] = opened.enter_context(start_middle(module, bundle, its_rig, endpoints[name]))
            topics = (FUSED, followed) if followed is not None and name == ARRIVAL else (FUSED,)
            clients[name] = Arrivals(endpoints[name].decisions, topics)
            opened.callback(clients[name].close)
        sender = opened.enter_context(start_sender(rig, modality))
        order = random.Random(seed)
        for number in range(rounds):
            names = list(taken)
            order.shuffle(names)
            for name in names:
                say(f"{modality}: {name}, turn {number + 1} of {rounds}")
                if name in peers:
                    taken[name].add(peers[name](skip_s, counted_s, Path(folder)))
                    continue
                took = _play(sender, endpoints[name].frames, clients[name], skip_s, counted_s)
                taken[name].add(took.get(FUSED, []))
                if name == ARRIVAL and followed is not None:
                    taken_imputed.add(took.get(followed, []))
        reports = {name: process.last_answer() for name, process in running.items()}
    node = reports[ARRIVAL]
    return {
        **{name: figures(timings) for name, timings in taken.items()},
        "floor_engine_us": reports[FLOOR]["engine_us"],
        "tick_overhead_us": node["tick_overhead_us"],
        "stages_ms": node["statistics"]["latency_ms"],
        "messages": node["statistics"]["messages"],
        **({"imputed": figures(taken_imputed)} if imputed is not None else {}),
        "samples_us": {name: [round(1e6 * s, 1) for s in t.all] for name, t in taken.items()},
    }


def _play(
    sender: BenchmarkProcess, endpoint: str, client: Arrivals, skip_s: float, counted_s: float
) -> dict[bytes, list[float]]:
    """One turn of a contender that has our sensor and client; what :meth:`Arrivals.latencies` returns."""
    seconds = skip_s + counted_s
    sender.tell({"endpoint": endpoint, "seconds": seconds})
    begin_ns = time.monotonic_ns()
    # The sender connects before its first turn.
    took = client.latencies(begin_ns + round((seconds + 0.5) * 1e9), begin_ns + round((skip_s + 0.3) * 1e9))
    sender.answer()
    return took


def figures(timings: Timings) -> dict[str, float]:
    """``p50_us`` (median over turns of their medians), ``p10_us``, ``p99_us`` and ``count``, alone where it is 0."""
    if not timings.all:
        return {"count": 0}
    summary = timings.summary()
    return {key: summary[key] for key in ("p50_us", "p10_us", "p99_us")} | {"count": summary["calls"]}
