"""Everything at full rate: cameras of 640 x 480 at 30 Hz raw, audio, EEG, and a decision 20 times a second.

A node, four sensor processes and a client, each a process; what is counted is whether anything was lost, how late
decisions came, and how much CPU all of them took together. Then, with the sensors still at it, a client follows an
imputed stream as well: it never rests on its own sensor, so that one need not fail for it.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from afterimage.bench.latency import Arrivals, Process
from afterimage.bench.latency_middle import MiddleSpec
from afterimage.bench.latency_sender import SenderSpec
from runtime.rig import Rig, TickPolicy
from runtime.transport.endpoints import Endpoints

SETTLED_S = 4.5
"""By then every sensor is live: the EEG's window takes three seconds."""

IMPUTED = "depth"
"""Whose imputed stream is followed."""


def measure_full_rate(bundle: Path, rig: Rig, seconds: float) -> dict[str, Any]:
    """Run all sensors at their rates against a 20 Hz node.

    Args:
        bundle: that the rig feeds.
        rig: its sensors.
        seconds: that count, after all sensors are live; and as long again for the imputed stream.

    Returns:
        ``lost``, ``unaccounted``, ``missed_ticks``, ``ticks``, ``received``, ``tick_lateness_ms`` (from a tick's
        deadline to its decision sent) and ``tick_overhead_us`` (what a tick takes the node besides the engine's calls),
        all of them of the whole time; ``lateness_at_client_ms``, ``cores`` (CPU seconds per second: all processes, and
        each kind) and ``states`` of the time without the imputed stream;
        ``imputed_at_client_ms``: from a tick's deadline to the arrival of what it imputed of :data:`IMPUTED`.

    Raises:
        RuntimeError: no decision arrived, or nothing imputed.
    """
    rig = rig.model_copy(update={"tick": TickPolicy(policy="rate", rate_hz=20.0)})
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, ExitStack() as opened:
        endpoints = Endpoints(f"ipc://{folder}/f", f"ipc://{folder}/d")
        spec = MiddleSpec(
            kind="node", bundle=str(bundle), rig=rig, frames=endpoints.frames, decisions=endpoints.decisions
        )
        node = opened.enter_context(Process("afterimage.bench.latency_middle", spec.model_dump_json()))
        senders = [
            opened.enter_context(
                Process(
                    "afterimage.bench.latency_sender", SenderSpec(rig=rig, modalities=(m,)).model_dump_json()
                )
            )
            for m in rig.modality_names
        ]
        client = Arrivals(endpoints.decisions, (b"fused",))
        opened.callback(client.close)
        for sender in senders:
            sender.tell(f"{endpoints.frames} {SETTLED_S + 2 * seconds}")
        begin_ns = time.monotonic_ns()
        client.take(begin_ns + round(SETTLED_S * 1e9), 0, 0)
        watched = {"node": [node], "sensors": senders}
        before = {name: _cpu_s(processes) for name, processes in watched.items()} | {
            "client": time.process_time()
        }
        came = client.take_all(begin_ns + round((SETTLED_S + seconds) * 1e9))
        after = {name: _cpu_s(processes) for name, processes in watched.items()} | {
            "client": time.process_time()
        }
        follower = Arrivals(endpoints.decisions, (b"fused", f"imputed/{IMPUTED}".encode()))
        opened.callback(follower.close)
        imputed = follower.take_imputed(begin_ns + round((SETTLED_S + 2 * seconds) * 1e9))
        if not came or not imputed:
            raise RuntimeError("at full rate no decision, or nothing imputed, reached the client")
        for sender in senders:
            sender.answer()
        word = node.finish()
    statistics = word["statistics"]
    messages, cores = statistics["messages"], {n: (after[n] - before[n]) / seconds for n in after}
    lateness = [(at - deadline) / 1e6 for at, deadline, _ in came]
    return {
        "received": messages["received"],
        "lost": messages["lost"],
        "unaccounted": messages["unaccounted"],
        "ticks": messages["ticks"]["published"],
        "missed_ticks": messages["ticks"]["missed"],
        "decisions_at_client": len(came),
        "tick_lateness_ms": statistics["latency_ms"]["tick_lateness"],
        "lateness_at_client_ms": _percentiles(lateness),
        "tick_overhead_us": word["tick_overhead_us"],
        "imputed_at_client_ms": _percentiles(imputed) | {"modality": IMPUTED, "count": len(imputed)},
        "cores": {n: round(c, 3) for n, c in cores.items()} | {"all": round(sum(cores.values()), 3)},
        "states": came[-1][2],
    }  # fmt: skip


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 99)}


def _cpu_s(processes: list[Process]) -> float:
    times = (psutil.Process(p.process.pid).cpu_times() for p in processes)
    return float(sum(t.user + t.system for t in times))
