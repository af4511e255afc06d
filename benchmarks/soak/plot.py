"""The picture of ``python -m benchmarks soak``: memory over messages, and where the messages went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.soak.memory import WARM_UP


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the suffix decides the format.

    Args:
        report: of :func:`benchmarks.soak.run.run_soak`.
        path: where to.
    """
    figure, axes = plt.subplots(1, 2, figsize=(15, 5.5), layout="constrained")
    _memory(axes[0], report)
    _counts(axes[1], report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _memory(axes: Axes, report: Mapping[str, Any]) -> None:
    """Resident memory and objects over messages, with the line whose slope is reported."""
    samples = report["memory"]
    millions = np.array([s["messages"] for s in samples]) / 1e6
    resident = np.array([s["resident_kib"] for s in samples]) / 1024
    axes.axvspan(0, WARM_UP * report["messages"] / 1e6, color="0.9", label="warm-up")
    axes.plot(millions, resident, color="C0", label="resident memory")
    slope, error = report["rss_slope_kb_per_million"], report["rss_slope_se"]
    if slope is not None:
        warm = millions >= WARM_UP * report["messages"] / 1e6
        x, y = millions[warm], resident[warm]
        line = y.mean() + slope / 1024 * (x - x.mean())
        axes.plot(x, line, "k--", label=f"{slope:+.1f} ± {error:.1f} kB per million")
    if all(s["heap_kib"] is not None for s in samples):
        axes.plot(millions, [s["heap_kib"] / 1024 for s in samples], color="C2", label="heap in use")
    axes.set(xlabel="million messages", ylabel="MiB", title="memory of the node and its driver")
    axes.set_ylim(0, 1.25 * resident.max())
    axes.grid(alpha=0.3)
    other = axes.twinx()
    objects = [s["objects"] for s in samples]
    other.plot(millions, objects, color="C1", lw=0.8, label="Python objects (right)")
    other.set(ylabel="objects", ylim=(0, 2.5 * max(objects)))
    lines = [axes.get_legend_handles_labels(), other.get_legend_handles_labels()]
    axes.legend(lines[0][0] + lines[1][0], lines[0][1] + lines[1][1], fontsize=8, loc="center right")


def _counts(axes: Axes, report: Mapping[str, Any]) -> None:
    """Messages by what became of them, one colour per modality, on a logarithmic scale."""
    counters = report["counters"]
    parts = {**counters["modalities"], "no modality": counters["unattributed"]}
    outcomes = ["used", *sorted(counters["dropped"]), "lost"]
    height = 0.8 / len(parts)
    for i, (name, of) in enumerate(parts.items()):
        values = [of["used"], *(of["dropped"].get(r, 0) for r in outcomes[1:-1]), of.get("lost", 0)]
        places = [k - 0.4 + (i + 0.5) * height for k in range(len(outcomes))]
        axes.barh(places, values, height, label=name)
    axes.set_yticks(range(len(outcomes)), outcomes, fontsize=8)
    axes.invert_yaxis()
    wrong = len(report["discrepancies"])
    title = f"{report['messages']:,} messages, {report['unaccounted']} unaccounted for, {wrong} disagreements"
    axes.set(xscale="log", xlabel="messages", title=title)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
