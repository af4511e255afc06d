"""The picture of ``python -m benchmarks dropout``: for each fault, delay against period, one line per jitter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the suffix decides the format.

    Args:
        report: with ``delays`` of :func:`benchmarks.dropout.measurement.measure`.
        path: where to.
    """
    rows = report["delays"]
    kinds = list(dict.fromkeys((r["modality"], r["fault"]) for r in rows))
    columns = 6
    lines = -(-len(kinds) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.2 * columns, 2.7 * lines), layout="constrained", squeeze=False
    )
    for axes, (modality, fault) in zip(grid.flat, kinds, strict=False):
        of = [r for r in rows if (r["modality"], r["fault"]) == (modality, fault)]
        for jitter in sorted({r["jitter"] for r in of}):
            found = [r for r in of if r["jitter"] == jitter and r["delay_ms"] is not None]
            periods = [r["period_ms"] for r in found]
            axes.plot(periods, [r["delay_ms"]["p50"] for r in found], "o-", ms=3, label=f"{jitter:.0%} p50")
        calm = [r for r in of if r["jitter"] == 0]
        axes.plot([r["period_ms"] for r in calm], [r["minimum_ms"] for r in calm], "k:", label="minimum")
        axes.plot([r["period_ms"] for r in calm], [r["rule_ms"] for r in calm], "k--", label="rule")
        axes.set_title(f"{modality}: {fault}", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(kinds) :]:
        axes.set_axis_off()
    figure.supxlabel("period, ms")
    figure.supylabel("detection delay, ms")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
