"""The live part of ``python -m benchmarks dropout``: a real node, sensor processes that fall silent, and a client."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dropout.measurement import summarize
from engines.measuring.interleaving import Say
from engines.opening import open_session
from runtime.client import Client
from runtime.core.clock import NS_PER_S
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.supervisor import Supervisor
from runtime.signals.faults import Fault, FaultSchedule
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, HealthEvent

_SETTLE_S, _SILENCE_S, _AROUND_NS = 6.0, 0.8, NS_PER_S


def silences(rig: Rig, rounds: int, seed: int) -> FaultSchedule:
    """Each sensor in turn falls silent, at a random phase; between two silences every window has time to fill."""
    rng = np.random.default_rng(seed)
    at, faults = _SETTLE_S, []
    for _ in range(rounds):
        for modality in rig.modality_names:
            start = at + float(rng.uniform(0, 0.2))
            faults.append(
                Fault(kind="silence", modalities=(modality,), start_s=start, end_s=start + _SILENCE_S)
            )
            at += _SILENCE_S + 1.2
        at += 2.0
    return FaultSchedule(seed=seed, faults=tuple(faults))


def measure_live(bundle: Path, rig: Rig, rounds: int, seed: int, say: Say) -> dict[str, Any]:
    """Play sensors that fall silent, and compare when a client hears of it with the truth.

    Returns:
        ``silences``: for each, the delay from the capture of the last message to the event (when the node noticed and
        when the client had it), and the largest gap between decisions around it; ``within_rule_share``;
        ``missed_ticks``; ``added_gap_ms``: largest gap around a fault, less a tick.
    """
    schedule = silences(rig, rounds, seed)
    with tempfile.TemporaryDirectory(prefix="ai-dropout-") as folder, open_session(bundle) as session:
        endpoints = Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")
        stop = threading.Event()
        with (
            Node(rig, session, endpoints) as node,
            Client(rig, endpoint=endpoints.decisions) as client,
            Supervisor(
                rig.with_source(SyntheticOptions(seed=seed)),
                endpoints.frames,
                faults=schedule,
                restart=False,
                together=True,
            ) as sensors,
        ):
            thread = threading.Thread(target=node.run, args=(stop,))
            thread.start()
            try:
                start_ns = sensors.start()
                end_ns = start_ns + round((schedule.end_s + 1.5) * NS_PER_S)
                decisions, events = _watch(client, start_ns, end_ns, say)
                sensors.check()
            finally:
                stop.set()
                thread.join()
            ticks = node.statistics()["messages"]["ticks"]
    found = [_look(rig, fault, start_ns, decisions, events) for fault in schedule.faults]
    return {"silences": found, "missed_ticks": ticks["missed"], "ticks": ticks, **_sum_up(rig, found)}


def _watch(
    client: Client, start_ns: int, end_ns: int, say: Say
) -> tuple[list[Decision], list[tuple[HealthEvent, int]]]:
    decisions: list[Decision] = []
    events: list[tuple[HealthEvent, int]] = []
    while (now := time.monotonic_ns()) < end_ns:
        say("live", (now - start_ns) / (end_ns - start_ns))
        message = client.receive(0.1)
        if isinstance(message, Decision):
            decisions.append(message)
        elif isinstance(message, HealthEvent):
            events.append((message, time.monotonic_ns()))
    return decisions, events


def _look(
    rig: Rig,
    fault: Fault,
    start_ns: int,
    decisions: Sequence[Decision],
    events: Sequence[tuple[HealthEvent, int]],
) -> dict[str, Any]:
    (modality,) = fault.modalities
    sensor = rig.sensor(modality)
    # The last message captured at or before the start of the fault was published.
    last_ns = start_ns + round(int(fault.start_s / sensor.period_s + 1e-9) * sensor.period_s * NS_PER_S)
    until_ns = start_ns + round(fault.end_s * NS_PER_S)
    gone = [(e, at) for e, at in events if e.modality == modality and e.state == "missing"]
    hit = next(((e, at) for e, at in gone if last_ns <= e.at_ns <= until_ns), None)
    around = [
        d.published_ns for d in decisions if abs(d.published_ns - last_ns - _AROUND_NS // 2) < _AROUND_NS
    ]
    return {
        "modality": modality,
        "rule_ms": 1000 * max(rig.health.silence_periods * sensor.period_s, rig.health.silence_floor_s),
        "delay_ms": None if hit is None else (hit[0].at_ns - last_ns) / 1e6,
        "delay_at_client_ms": None if hit is None else (hit[1] - last_ns) / 1e6,
        "largest_gap_ms": float(np.diff(around).max() / 1e6) if len(around) > 1 else None,
    }


def _sum_up(rig: Rig, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    delays = [f["delay_ms"] for f in found if f["delay_ms"] is not None]
    gaps = [f["largest_gap_ms"] for f in found if f["largest_gap_ms"] is not None]
    over = [f["delay_ms"] - f["rule_ms"] for f in found if f["delay_ms"] is not None]
    tick_ms = 1000 / rig.tick.rate_hz
    return {
        "undetected": len(found) - len(delays),
        "delay_ms": summarize(delays),
        "delay_at_client_ms": summarize(
            [f["delay_at_client_ms"] for f in found if f["delay_ms"] is not None]
        ),
        "over_rule_ms": summarize(over),
        "largest_gap_ms": max(gaps, default=None),
        "added_gap_ms": max(gaps) - tick_ms if gaps else None,
    }
