"""The picture of ``python -m benchmarks throughput``: rates carried, what a message costs, rigs on a core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def draw_throughput(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the suffix decides the format.

    Args:
        report: of :func:`benchmarks.throughput.measurement.measure_throughput`.
        path: where to.
    """
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained")
    _rates(axes[0], report)
    _costs(axes[1], report)
    _rigs(axes[2], report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _rates(axes: Axes, report: Mapping[str, Any]) -> None:
    """The rate that was carried, and above it the first that was too much."""
    rows = report["single"]
    labels = [f"{r['modality']} {r['size']}\n{r['transport']}" for r in rows]
    places = range(len(rows))
    axes.bar(places, [r["carried_hz"] for r in rows], label="carried")
    broken = [(k, r["broken_at"]) for k, r in zip(places, rows, strict=True) if r["broken_at"]]
    axes.plot([k for k, _ in broken], [v for _, v in broken], "rv", label="too much")
    rates = report["together"]["small"]["rates_hz"]
    axes.plot(places, [rates[r["modality"]] for r in rows], "k_", ms=14, label="the rig's rate")
    axes.set_xticks(places, labels, rotation=60, ha="right", fontsize=7)
    axes.set(yscale="log", ylabel="messages per second", title="one sensor until the first drop")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 4)  # room for the legend
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", ncols=3)


def _costs(axes: Axes, report: Mapping[str, Any]) -> None:
    kinds = {m: of for m, of in report["cpu_per_message"].items() if m != "idle"}
    keys = list(next(iter(kinds.values())))
    width = 0.8 / len(keys)
    for i, key in enumerate(keys):
        places = [k - 0.4 + (i + 0.5) * width for k in range(len(kinds))]
        title = f"{key.removeprefix('at_')} the rig's rate"
        axes.bar(places, [of[key]["node_us"] for of in kinds.values()], width, label=title)
        bare = [of[key]["bare_us"] for of in kinds.values()]
        axes.plot(places, bare, "k_", ms=14, label=None if i else "a bare socket")
    axes.set_xticks(range(len(kinds)), list(kinds))
    axes.set(ylabel="µs of CPU", title="the node's thread per message, engine aside")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", ncols=3)


def _rigs(axes: Axes, report: Mapping[str, Any]) -> None:
    """p99 of a tick's lateness over rigs; crosses where messages or ticks were lost."""
    if not report["rigs_per_core"]:
        axes.set_axis_off()
        return
    for name, row in report["rigs_per_core"].items():
        steps = sorted(row["steps"], key=lambda s: s["load"])
        rigs = [s["load"] for s in steps]
        late = [s["lateness_p99_ms"] or 0.0 for s in steps]
        (line,) = axes.plot(
            rigs, late, "o-", label={"one_node": "one node", "own_nodes": "a node each"}[name]
        )
        broken = [(n, ms) for n, ms, s in zip(rigs, late, steps, strict=True) if s["broken"]]
        axes.plot([n for n, _ in broken], [ms for _, ms in broken], "x", ms=12, mew=2, color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="rigs on one core", ylabel="ms late, p99 of ticks")
    tried = sorted({int(s["load"]) for row in report["rigs_per_core"].values() for s in row["steps"]})
    axes.set_xticks(tried, [str(n) for n in tried], minor=False)
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.set_title("ticks over rigs (crosses: something was lost)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
