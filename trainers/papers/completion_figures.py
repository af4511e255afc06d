"""The figures of MNIST-Split: accuracy against supervision, and completed digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.papers.completion import SYNERGY
from trainers.papers.protocol import Cell
from trainers.papers.stripes import Stripes

SplitArm = Callable[[str], tuple[str, float]]
"""The system and the share of pairs of an arm."""


def draw_supervision(cells: Sequence[Cell], stripes: Stripes, split: SplitArm, path: Path) -> Path:
    """Accuracy from all stripes and from each alone against the share of pairs, a line for each system."""
    pyplot = _pyplot()
    panels = (SYNERGY, *stripes.names)
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.4), sharey=True, layout="constrained"
    )
    arms = [(arm, *split(arm)) for arm in dict.fromkeys(cell.arm for cell in cells)]
    systems = list(dict.fromkeys(system for _, system, _ in arms))
    for panel, axis in zip(panels, axes, strict=True):
        for number, system in enumerate(systems):
            points = sorted(
                (100 * share, np.mean([c.metrics[panel] for c in cells if c.arm == arm]))
                for arm, of, share in arms
                if of == system
            )
            axis.plot(*zip(*points, strict=True), marker="os^Dv<"[number % 6], markersize=5, label=system)
        axis.axhline(cells[0].metrics["oracle"], color="0.6", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_title(f"from {panel}")
        axis.set_xlabel("digits kept together, %")
    axes[0].set_ylabel("accuracy of the whole, % (dotted: real digits)")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def draw_completions(grids: Mapping[str, Mapping[str, npt.NDArray[Any]]], path: Path) -> Path:
    """One digit of each class: measured, and by arm completed from every set of stripes.

    Args:
        grids: arm -> ``measured`` and sets of stripes -> (C, 28, 28) uint8.
        path: of the picture.
    """
    pyplot = _pyplot()
    rows = [("measured", next(iter(grids.values()))["measured"])]
    rows += [
        (f"{arm}: {kind}", grid[kind]) for arm, grid in grids.items() for kind in grid if kind != "measured"
    ]
    picture = np.concatenate([np.pad(np.concatenate(list(r), axis=1), ((0, 2), (0, 0))) for _, r in rows])
    figure, axis = pyplot.subplots(figsize=(6, 0.5 * len(rows) + 0.5), layout="constrained")
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_yticks([30 * i + 14 for i in range(len(rows))], [name for name, _ in rows], fontsize=8)
    axis.set_xticks([])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
