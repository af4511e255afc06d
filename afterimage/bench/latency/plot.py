"""The picture of ``afterimage bench latency``: the distribution of every contender's latencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from afterimage.bench.latency.measurement import RATE
from afterimage.bench.latency.report import CONTENDERS


def draw_latency(
    report: Mapping[str, Any], path: Path, contenders: Iterable[str] = tuple(CONTENDERS)
) -> None:
    """Draw the distributions, a panel for each modality, without the fixed rate, whose own wait would hide the rest."""
    cases = report["modalities"]
    figure, panels = plt.subplots(1, len(cases), figsize=(4.2 * len(cases), 4), squeeze=False, sharey=True)
    for axes, (modality, case) in zip(panels[0], cases.items(), strict=True):
        there = [n for n in contenders if n != RATE and case["samples_us"].get(n)]
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
