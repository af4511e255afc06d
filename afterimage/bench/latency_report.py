"""The latency benchmark from end to end: what is measured, its ratios, its table and its picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from afterimage.bench.full_rate import measure_full_rate
from afterimage.bench.latency import ARRIVAL, FLOOR, PLAIN, RATE, measure_case
from afterimage.bench.machine import describe_machine
from afterimage.bench.peers import PEERS, absence
from afterimage.bench.vga_bundle import make_vga_bundle, vga_rig
from runtime.rig import Rig

HEADLINE = "rgb"
"""Whose figures are the report's own: a camera's frame is a window by itself, so every message brings a decision."""

CONTENDERS = {
    FLOOR: "floor: raw ZeroMQ and the engine's calls",
    ARRIVAL: "Afterimage, a tick on arrival",
    RATE: "Afterimage, ticks at 20 Hz",
    PLAIN: "a plain pyzmq loop",
    "ezmsg": "ezmsg",
    "dora": "dora-rs",
}


def measure_latency(
    bundle: Path, rig: Rig, *, quick: bool = False, say: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Measure all of it.

    Args:
        bundle: of commands-4.
        rig: that feeds it.
        quick: one modality, few turns.
        say: told what is being measured.

    Returns:
        ``machine``; ``floor``, ``afterimage``, ``peers``, ``ratios`` and ``tick_overhead_us`` of :data:`HEADLINE`;
        ``modalities``: the same for each; ``full_rate``: everything at once with images of 640 x 480.
    """
    absent = {name: why for name in PEERS if (why := absence(name)) is not None}
    rounds = {"rgb": 6, "depth": 4, "audio": 4, "eeg": 4} if not quick else {HEADLINE: 2}
    cases = {
        modality: measure_case(
            bundle,
            rig,
            modality,
            count,
            peers=[name for name in PEERS if name not in absent],
            imputed="depth" if modality == HEADLINE else None,
            say=say,
        )
        for modality, count in rounds.items()
    }
    headline = cases[HEADLINE]
    report = {
        "machine": describe_machine(),
        "headline": HEADLINE,
        "floor": headline[FLOOR],
        "afterimage": headline[ARRIVAL],
        "peers": peers_of(headline, absent),
        "ratios": ratios(headline),
        "tick_overhead_us": headline["tick_overhead_us"],
        "imputed": headline["imputed"],
        "modalities": {m: case | {"ratios": ratios(case)} for m, case in cases.items()},
    }
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        say("everything at full rate, images of 640 x 480")
        make_vga_bundle(bundle, Path(folder) / "vga")
        report["full_rate"] = measure_full_rate(Path(folder) / "vga", vga_rig(rig), 5.0 if quick else 20.0)
    return report


def peers_of(case: Mapping[str, Any], absent: Mapping[str, str]) -> dict[str, Any]:
    """What peers took in a case: peer -> its summary, or ``absent``: why it did not take part.

    Args:
        case: of :func:`~afterimage.bench.latency.measure_case`.
        absent: peer -> why it is not in it.
    """
    return {n: {"absent": absent[n]} if n in absent else case[n] for n in (*PEERS, PLAIN)}


def ratios(case: Mapping[str, Any]) -> dict[str, float]:
    """Afterimage's latency over everybody else's, p50 and p99."""
    return {
        f"vs_{other}_{p}": round(case[ARRIVAL][f"{p}_us"] / case[other][f"{p}_us"], 3)
        for other in (FLOOR, *PEERS, PLAIN)
        if other in case
        for p in ("p50", "p99")
    }


def latency_tables(report: Mapping[str, Any]) -> list[Table]:
    """For people."""
    latency = Table(title="From a frame's publication to its decision's arrival, ms")
    for heading in ("sensor", "contender", "p50", "p99", "over the floor, p50", "p99", "frames"):
        latency.add_column(heading, justify="left" if heading in ("sensor", "contender") else "right")
    for modality, case in report["modalities"].items():
        for name, words in CONTENDERS.items():
            if name not in case:
                continue
            own, floor = case[name], case[FLOOR]
            over = [f"{own[f'{p}_us'] / floor[f'{p}_us']:.2f}" for p in ("p50", "p99")]
            times = [f"{own[f'{p}_us'] / 1e3:.2f}" for p in ("p50", "p99")]
            latency.add_row(modality, words, *times, *over, str(own["count"]))
    return [latency]


def latency_summary(report: Mapping[str, Any]) -> str:
    """The rest in words."""
    full, imputed = report["full_rate"], report["imputed"]
    own, own_at_full = report["tick_overhead_us"], report["full_rate"]["tick_overhead_us"]
    lateness, also = full["tick_lateness_ms"], full["imputed_at_client_ms"]
    cores = ", ".join(f"{name} {full['cores'][name]:.2f}" for name in ("node", "sensors", "client"))
    lines = [
        f"imputed depth arrives {imputed['p50_us'] / 1e3:.2f} ms (p50), {imputed['p99_us'] / 1e3:.2f} ms (p99) "
        f"after the {report['headline']} frame it was made from",
        f"full rate, 640 x 480: {full['lost']} of {full['received']} messages lost, {full['unaccounted']} unaccounted "
        f"for, {full['missed_ticks']} of {full['ticks']} ticks missed; decisions {lateness['p50']:.2f} ms (p50), "
        f"{lateness['p99']:.2f} ms (p99) after their deadline, imputed {also['modality']} "
        f"{also['p50']:.2f} ms, {also['p99']:.2f} ms at the client; {full['cores']['all']:.2f} cores in all ({cores})",
    ]
    absent = {CONTENDERS[n]: p["absent"] for n, p in report["peers"].items() if "absent" in p}
    lines += [f"{name} did not take part: {why}" for name, why in absent.items()]
    lines.append(
        f"a tick takes the node {own['p50']:.0f} us (p50) besides the engine's calls, at full rate "
        f"{own_at_full['p50']:.0f} us"
    )
    return "\n".join(lines)


def draw_latency(report: Mapping[str, Any], path: Path) -> None:
    """Distributions side by side, a panel per modality, without the fixed rate, whose own wait would hide the rest."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [n for n in CONTENDERS if n != RATE]
    figure, panels = plt.subplots(
        1, len(report["modalities"]), figsize=(4.2 * len(report["modalities"]), 4), squeeze=False, sharey=True
    )
    for axes, (modality, case) in zip(panels[0], report["modalities"].items(), strict=True):
        there = [n for n in names if case.get("samples_us", {}).get(n)]
        values = [[v / 1e3 for v in case["samples_us"][n]] for n in there]
        axes.boxplot(values, whis=(1, 99), showfliers=False, tick_labels=there)
        axes.set_title(modality)
        axes.tick_params(axis="x", rotation=20)
        axes.grid(axis="y", alpha=0.3)
        axes.set_ylim(bottom=0)
    panels[0][0].set_ylabel("publication to arrival, ms\n(whiskers: 1st and 99th percentile)")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
