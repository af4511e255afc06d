"""The picture of ``afterimage bench engines``: latency over batch size, a tick's parts, and the missing patterns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from afterimage.bench.engines.contenders import REFERENCE


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the suffix decides the format.

    Args:
        report: of :func:`afterimage.bench.engines.report.with_floors`.
        path: where to.
    """
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    _latency(axes[0], report)
    _graphs(axes[1], report)
    _patterns(axes[2], report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _latency(axes: Axes, report: Mapping[str, Any]) -> None:
    """Latency per decision, which shows what a batch gains; bars reach up to the 99th percentile."""
    for name, of in report["tick"].items():
        batches = [int(b) for b in of]
        p50 = [of[str(b)]["p50_us"] / b for b in batches]
        p99 = [of[str(b)]["p99_us"] / b for b in batches]
        above = [max(high - middle, 0) for high, middle in zip(p99, p50, strict=True)]
        axes.errorbar(batches, p50, yerr=[[0] * len(p50), above], marker="o", capsize=3, label=name)
    if floors := report.get("floors"):
        of = floors["tick"]
        axes.plot([int(b) for b in of], [v["floor_us"] / int(b) for b, v in of.items()], "k--", label="floor")
    batches = sorted({int(b) for of in report["tick"].values() for b in of})
    axes.set(xscale="log", yscale="log", xlabel="batch", ylabel="µs per decision, p50 up to p99")
    axes.set_xticks(batches, [str(b) for b in batches], minor=False)
    axes.minorticks_off()
    axes.set_title("whole tick")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _graphs(axes: Axes, report: Mapping[str, Any]) -> None:
    """The graphs of a tick at batch 1, with the floor of each."""
    parts = [g for g in report["graphs"] if g == "fuse" or g.startswith("encode_")]
    names = list(report["tick"])
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        values = [report["graphs"][g][name].get("1", {}).get("p50_us", 0) for g in parts]
        places = [k - 0.4 + (i + 0.5) * width for k in range(len(parts))]
        axes.bar(places, values, width, label=name)
    if floors := report.get("floors"):
        for k, graph in enumerate(parts):
            floor = floors[graph]["1"]["floor_us"]
            axes.plot([k - 0.42, k + 0.42], [floor, floor], "k--", label="floor" if k == 0 else None)
    axes.set_xticks(range(len(parts)), [p.replace("encode_", "encode\n") for p in parts])
    axes.set(ylabel="µs, p50", title="graphs of a tick at batch 1")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", ncols=3)


def _patterns(axes: Axes, report: Mapping[str, Any]) -> None:
    """p99 of fuse under each pattern, beside the spread of one pattern measured again and again."""
    failover = report["failover"].get(REFERENCE)
    if failover is None:
        axes.set_axis_off()
        return
    null = [f["p99_us"] for f in failover["null"]]
    patterns = failover["fuse"]
    places = range(len(patterns))
    axes.axhspan(min(null), max(null), color="0.85", label="p99, full pattern 15 times")
    axes.plot(places, [f["p99_us"] for f in patterns.values()], "o", label="p99")
    axes.plot(places, [f["p50_us"] for f in patterns.values()], "s", ms=4, label="p50")
    axes.set_xticks(places, list(patterns), rotation=60, ha="right", fontsize=7)
    axes.set(ylabel="µs", title=f"fuse under each pattern on {REFERENCE}: {failover['spread']:+.1%}")
    highest = max(max(null), *(f["p99_us"] for f in patterns.values()))
    axes.set_ylim(0, 1.25 * highest)  # room for the legend
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", ncols=3)
