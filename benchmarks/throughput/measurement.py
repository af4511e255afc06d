"""``python -m benchmarks throughput``: what a node carries until the first drop, what a message costs, rigs on a core.

A real node process with a real engine, a sender process for each modality, over ipc and over tcp on loopback. A load is
too much as soon as one message is lost (a gap in the sequence, or sent and never received), refused or unaccounted, or
one tick is missed. A window that a newer one replaces before the engine has time for it is not a lost message: the node
sheds load in this way by design, and the report says from which load on it does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.throughput.processes import Processes, Transport
from benchmarks.throughput.search import Step, conclusion, rise
from engines.bundle import load_manifest
from engines.measuring.interleaving import Say
from engines.measuring.machine import describe_machine, usable_cores
from runtime.rig import Rig, check_rig_feeds_bundle


@dataclass(frozen=True)
class ThroughputEffort:
    """How much is measured.

    Attributes:
        step_s: of a step that raises rates.
        rigs_step_s: of a step that raises rigs.
        cost_s: of a run that measures the CPU per message.
        cost_times: multiples of the rig's rate at which that is measured; at 8 times it, windows fill within a run.
        first_hz: messages per second of one sensor to begin with.
        first_vga_hz: the same for large images.
        factor: between steps.
        refinements: steps between the last load carried and the first that was too much.
        transports: to try.
        vga: whether to try large images.
        largest_nodes: processes at most, for nodes of their own.
    """

    step_s: float = 1.0
    rigs_step_s: float = 2.0
    cost_s: float = 2.0
    cost_times: tuple[float, ...] = (1.0, 8.0)
    first_hz: float = 1000.0
    first_vga_hz: float = 60.0
    factor: float = 2.0
    refinements: int = 2
    transports: tuple[Transport, ...] = ("ipc", "tcp")
    vga: bool = True
    largest_nodes: int = 16


QUICK_THROUGHPUT = ThroughputEffort(
    step_s=0.4,
    rigs_step_s=1.0,
    cost_s=0.6,
    cost_times=(8.0,),
    first_hz=2000.0,
    factor=4.0,
    refinements=0,
    transports=("ipc",),
    vga=False,
    largest_nodes=4,
)

LARGEST_HZ = 128_000.0
LARGEST_TIMES = 512.0
LARGEST_RIGS = 64.0


def measure_throughput(bundle: Path, rig: Rig, effort: ThroughputEffort, say: Say) -> dict[str, Any]:
    """Measure everything, one part after another.

    Args:
        bundle: the model.
        rig: that feeds it.
        effort: how much is measured.
        say: told what is being done, and which share of all of it is done.

    Returns:
        ``machine``, ``bundle``, ``effort``, ``cpu_per_message``, ``single`` (a list), ``together``, ``rigs_per_core``
        and ``skipped`` (what was left out, and why): ready for JSON.

    Raises:
        RigError: the rig does not feed the bundle.
        ProcessError: a process of the benchmark ended or stopped answering.
    """
    manifest = load_manifest(bundle)
    check_rig_feeds_bundle(rig, manifest)
    skipped: list[str] = []
    load = round(os.getloadavg()[0], 2)  # before it is our own
    with ExitStack() as opened:
        say("starting a node and the sensors", 0.0)
        rigs, bundles = {"small": rig}, {"small": bundle}
        if effort.vga:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="ai-")))
            _add_vga(rigs, bundles, folder, skipped)
        else:
            skipped.append("VGA: left out of a quick run")
        if "tcp" not in effort.transports:
            skipped.append("tcp: left out of a quick run")
        processes = opened.enter_context(Processes(rigs, bundles))
        # The first run of a process pays for what is loaded late; a measured run should not.
        processes.step(1.0, _rates(rig), min(0.5, effort.step_s))
        return {
            "machine": {**describe_machine(), "load_average": load},
            "bundle": {"name": manifest.name, "hash": manifest.hash, "rig": rig.name},
            "effort": asdict(effort),
            "cpu_per_message": _cpu_per_message(processes, rig, effort, say),
            "single": _single(processes, rigs, effort, say),
            "together": _together(processes, rigs, effort, say),
            "rigs_per_core": _rigs_per_core(processes, rig, effort, say, skipped),
            "skipped": skipped,
        }


def _add_vga(rigs: dict[str, Rig], bundles: dict[str, Path], folder: Path, skipped: list[str]) -> None:
    if not any(s.kind in ("rgb", "depth") and s.sample_shape[:2] == (64, 64) for s in rigs["small"].sensors):
        skipped.append("VGA: the bundle has no images of 64 x 64 to put strides before")
        return
    try:
        # Imported here: the extra `train` brings onnx.
        from benchmarks.vga_bundle import make_vga_bundle, vga_rig
    except ModuleNotFoundError as e:
        skipped.append(f"VGA: {e.name} is not installed: pip install 'afterimage[train]'")
        return
    make_vga_bundle(bundles["small"], folder / "bundle")
    rigs["vga"], bundles["vga"] = vga_rig(rigs["small"]), folder / "bundle"


def _rates(rig: Rig) -> dict[str, float]:
    """Messages per second of each sensor."""
    return {s.modality: 1 / s.period_s for s in rig.sensors}


def _bytes(rig: Rig, modality: str) -> int:
    """Payload of one message."""
    from runtime.wire.frames import DTYPES

    sensor = rig.sensor(modality)
    size = DTYPES[sensor.dtype].itemsize * sensor.chunk
    for n in sensor.sample_shape:
        size *= n
    return size


def _single(
    processes: Processes, rigs: Mapping[str, Rig], effort: ThroughputEffort, say: Say
) -> list[dict[str, Any]]:
    """One sensor alone, at rising rates."""
    cases = [
        (size, transport, sensor)
        for size, rig in rigs.items()
        for transport in effort.transports
        for sensor in rig.sensors
        if size == "small" or sensor.kind in ("rgb", "depth")
    ]
    found = []
    for number, (size, transport, sensor) in enumerate(cases):
        modality = sensor.modality
        say(f"{modality} alone, {size}, {transport}", 0.15 + 0.5 * number / len(cases))

        def step(hz: float, size: str = size, transport: Transport = transport, m: str = modality) -> Step:
            return processes.step(hz, {m: hz}, effort.step_s, size=size, transport=transport)

        first = effort.first_hz if size == "small" else effort.first_vga_hz
        steps = list(rise(step, first, effort.factor, LARGEST_HZ, effort.refinements))
        found.append(
            {
                "modality": modality,
                "size": size,
                "transport": transport,
                "message_bytes": _bytes(rigs[size], modality),
                **conclusion(steps),
            }
        )
    return found


def _together(
    processes: Processes, rigs: Mapping[str, Rig], effort: ThroughputEffort, say: Say
) -> dict[str, Any]:
    """All sensors together, each at a multiple of its own rate."""
    found = {}
    for number, (size, rig) in enumerate(rigs.items()):
        say(f"all sensors, {size}", 0.65 + 0.1 * number / len(rigs))
        rates = _rates(rig)

        def step(times: float, size: str = size, rates: dict[str, float] = rates) -> Step:
            return processes.step(times, {m: times * hz for m, hz in rates.items()}, effort.step_s, size=size)

        first = 4.0 if size == "small" else 1.0
        steps = list(rise(step, first, effort.factor, LARGEST_TIMES, effort.refinements))
        found[size] = {"rates_hz": {m: round(hz, 2) for m, hz in rates.items()}, **conclusion(steps)}
    return found


def _cpu_per_message(
    processes: Processes, rig: Rig, effort: ThroughputEffort, say: Say
) -> dict[str, dict[str, dict[str, float]]]:
    """CPU that the node's thread spends on a message of each kind, engine calls subtracted.

    That is the thread's CPU time with the sensor, less that of an idle node over the same time (ticks cost too), over
    the number of messages. Beside it stands the cost of a bare socket that reads the same messages and drops them.
    """
    say("what an idle node costs", 0.05)
    # One message, so that a sensor connects: an idle node with its ticks.
    name = rig.modality_names[0]
    idle = processes.step(0.0, {name: 1 / effort.cost_s}, effort.cost_s)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for modality, hz in _rates(rig).items():
        say(f"what a message of {modality} costs", 0.08)
        found[modality] = {}
        for times in effort.cost_times:
            done = processes.step(times, {modality: times * hz}, effort.cost_s)
            bare = processes.bare_step({modality: times * hz}, effort.cost_s)
            count = max(1, done.received)
            own_s = done.node_cpu_seconds - idle.node_cpu_seconds * done.node_seconds / idle.node_seconds
            process_s = (
                done.process_cpu_seconds - idle.process_cpu_seconds * done.node_seconds / idle.node_seconds
            )
            found[modality][f"at_{times:.0f}x"] = {
                "hz": round(times * hz, 1),
                "messages": done.received,
                "node_us": round(1e6 * own_s / count, 1),
                "process_us": round(1e6 * process_s / count, 1),
                "bare_us": round(1e6 * bare["cpu_seconds"] / max(1, bare["received"] - 1), 1),
                "engine_us": round(1e6 * done.engine_cpu_seconds / count, 1),
                "windows": done.windows,
            }
    found["idle"] = {
        "node": {
            "us_per_tick": round(1e6 * idle.node_cpu_seconds / max(1, idle.ticks), 1),
            "ticks": idle.ticks,
        }
    }
    return found


def _rigs_per_core(
    processes: Processes, rig: Rig, effort: ThroughputEffort, say: Say, skipped: list[str]
) -> dict[str, Any] | None:
    """Several rigs on one node, compared with a node for each, on one core."""
    if usable_cores() < 2:
        skipped.append("rigs per core: there is one core only, and the sensors would take it from the node")
        return None
    rates = _rates(rig)
    first = 4.0

    def one_node(rigs: float) -> Step:
        return processes.step(rigs, rates, effort.rigs_step_s, hosted=(int(rigs),), pinned=True)

    def own_nodes(rigs: float) -> Step:
        return processes.step(rigs, rates, effort.rigs_step_s, hosted=(1,) * int(rigs), pinned=True)

    found = {}
    for number, (name, step, largest) in enumerate(
        (("one_node", one_node, LARGEST_RIGS), ("own_nodes", own_nodes, float(effort.largest_nodes)))
    ):
        say(f"rigs on one core, {name.replace('_', ' ')}", 0.75 + 0.1 * number)
        found[name] = conclusion(
            list(rise(step, first, effort.factor, largest, effort.refinements, whole=True))
        )
    return found
