"""Every sensor at its full rate: raw images of 640 x 480 at 30 Hz, audio, EEG, and 20 decisions a second.

A node, four sensors and a client, each in a process of its own. Counted are lost messages, how late decisions come, and
how much CPU all processes take together. Then, while the sensors go on, a client follows an imputed stream as well. An
imputed stream never rests on its own sensor, so the sensor need not fail for that.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from afterimage.bench.latency.measurement import OWN_PATH, RATE, Arrivals, start_middle, start_sender
from engines.measuring.process import BenchmarkProcess, ProcessError
from runtime.rig import Rig, TickPolicy
from runtime.transport.endpoints import Endpoints
from runtime.wire import FUSED, imputed_topic

NODE = OWN_PATH[RATE]
SETTLED_S = 4.5
"""After this time every sensor is live: the EEG's window takes three seconds."""

IMPUTED = "depth"
"""The modality whose imputed stream is followed."""


def measure_full_rate(bundle: Path, rig: Rig, seconds: float) -> dict[str, Any]:
    """Run all sensors at their rates against a 20 Hz node.

    Args:
        bundle: that the rig feeds.
        rig: its sensors.
        seconds: that count, after all sensors are live; and as long again for the imputed stream.

    Returns:
        Of the whole time: ``lost``, ``unaccounted``, ``missed_ticks``, ``ticks``, ``received``, ``tick_lateness_ms``
        (from a tick's deadline until its decision is sent) and ``tick_overhead_us`` (what a tick takes the node besides
        the engine's calls). Of the time before the imputed stream is followed: ``lateness_at_client_ms``, ``cores``
        (CPU seconds per second: all processes, and each kind) and ``states``. Of the time after that:
        ``imputed_at_client_ms``, from a tick's deadline to the arrival of the imputed :data:`IMPUTED`.

    Raises:
        ProcessError: a process failed, no decision arrived, or nothing imputed did.
    """
    rig = rig.model_copy(update={"tick": TickPolicy(policy="rate", rate_hz=20.0)})
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, ExitStack() as opened:
        endpoints = Endpoints(f"ipc://{folder}/f", f"ipc://{folder}/d")
        node = opened.enter_context(start_middle(NODE, bundle, rig, endpoints))
        senders = [opened.enter_context(start_sender(rig, m)) for m in rig.modality_names]
        client = Arrivals(endpoints.decisions, (b"fused",))
        opened.callback(client.close)
        for sender in senders:
            sender.tell({"endpoint": endpoints.frames, "seconds": SETTLED_S + 2 * seconds})
        begin_ns = time.monotonic_ns()
        for _ in client.until(begin_ns + round(SETTLED_S * 1e9)):
            pass  # not counted
        watched = {"node": [node], "sensors": senders}
        before = {name: _cpu_s(processes) for name, processes in watched.items()} | {
            "client": time.process_time()
        }
        decided = [
            (at, header) for _, header, at in client.until(begin_ns + round((SETTLED_S + seconds) * 1e9))
        ]
        after = {name: _cpu_s(processes) for name, processes in watched.items()} | {
            "client": time.process_time()
        }
        follower = Arrivals(endpoints.decisions, (FUSED, imputed_topic(IMPUTED)))
        opened.callback(follower.close)
        imputed = _imputed_ms(follower, begin_ns + round((SETTLED_S + 2 * seconds) * 1e9))
        if not decided or not imputed:
            raise ProcessError(
                f"the node at full rate: expected decisions and imputed {IMPUTED} at the client, "
                f"got {len(decided)} and {len(imputed)}; is the machine too busy?"
            )
        for sender in senders:
            sender.answer()
        report = node.last_answer()
    statistics = report["statistics"]
    messages, cores = statistics["messages"], {n: (after[n] - before[n]) / seconds for n in after}
    lateness = [(at - header["deadline_ns"]) / 1e6 for at, header in decided]
    return {
        "received": messages["received"],
        "lost": messages["lost"],
        "unaccounted": messages["unaccounted"],
        "ticks": messages["ticks"]["published"],
        "missed_ticks": messages["ticks"]["missed"],
        "decisions_at_client": len(decided),
        "tick_lateness_ms": statistics["latency_ms"]["tick_lateness"],
        "lateness_at_client_ms": _percentiles(lateness),
        "tick_overhead_us": report["tick_overhead_us"],
        "imputed_at_client_ms": _percentiles(imputed) | {"modality": IMPUTED, "count": len(imputed)},
        "cores": {n: round(c, 3) for n, c in cores.items()} | {"all": round(sum(cores.values()), 3)},
        "states": {name: m["state"] for name, m in decided[-1][1]["modalities"].items()},
    }  # fmt: skip


def _imputed_ms(follower: Arrivals, end_ns: int) -> list[float]:
    """Read until a time; of every imputed frame the milliseconds from its tick's deadline to its arrival."""
    deadlines: dict[int, int] = {}
    took = []
    for topic, header, arrived_ns in follower.until(end_ns):
        if topic == FUSED:
            deadlines[header["tick"]] = header["deadline_ns"]
        elif header["tick"] in deadlines:
            took.append((arrived_ns - deadlines[header["tick"]]) / 1e6)
    return took


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 99)}


def _cpu_s(processes: list[BenchmarkProcess]) -> float:
    """CPU time of some processes together."""
    times = (psutil.Process(p.pid).cpu_times() for p in processes)
    return float(sum(t.user + t.system for t in times))
