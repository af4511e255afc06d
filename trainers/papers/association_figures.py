"""Figures of the associator paper's protocols: accuracy against the share of pairs, and generated examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainers.fusion.association_paths import Path as Route
from trainers.papers.association import CLASSES, Domain, generate, observations
from trainers.papers.protocol import Cell
from trainers.systems.associators import Associators

COLUMNS = CLASSES


def save_examples(
    path: Path, system: Associators, routes: Sequence[Route], domains: Mapping[str, Domain], split: str
) -> None:
    """Write one sample of every class along every route: ``<route> source`` and ``<route> generated``, as pictures."""
    kept: dict[str, Any] = {}
    for route in routes:
        source = domains[route[0]]
        rows = getattr(source.recordings, split)
        labels = source.recordings.labels[rows]
        rows = rows[[int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels)]]
        shown = observations(system.network(route[0]), source.windows[rows]).numpy()
        made = generate(system, route, source.windows[rows]).numpy()
        name = "→".join(route)
        kept[f"{name} source"] = _pictures(shown, source)
        kept[f"{name} generated"] = _pictures(made, domains[route[-1]])
    np.savez_compressed(path, **kept)


def _pictures(values: npt.NDArray[np.float32], domain: Domain) -> npt.NDArray[np.uint8]:
    """Observations as (N, H, W) grey: images as they are, MFCC as their mel spectra with low bands at the bottom."""
    if domain.judged_as == "audio":
        from trainers.evaluation.judge import inverse_cosine_transform

        values = np.einsum("ab,nbt->nat", inverse_cosine_transform(values.shape[1]).numpy(), values)[:, ::-1]
        low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
        values = 255.0 * (values - low) / np.maximum(high - low, 1e-6)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def draw_shares(cells: Sequence[Cell], names: Sequence[str], shares: Mapping[str, float], path: Path) -> Path:
    """Draw accuracy of every route against the share of paired rows, mean and range over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms = [arm for arm in shares if any(cell.arm == arm for cell in cells)]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    places = [100 * shares[arm] for arm in arms]
    for number, name in enumerate(names):
        values = [[cell.metrics[name] for cell in cells if cell.arm == arm] for arm in arms]
        means = [float(np.mean(v)) for v in values]
        axes.plot(places, means, marker="os^Dv<>"[number % 7], markersize=5, label=name)
        axes.fill_between(places, [min(v) for v in values], [max(v) for v in values], alpha=0.15)
    axes.set_xscale("log")
    axes.set_xticks(places, arms)
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("training recordings that have a partner")
    axes.set_ylabel("recognised, %")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def draw_routes(examples: Path, path: Path) -> Path:
    """Draw one recording of each class, and below it what every route generated from it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with np.load(examples) as stored:
        pictures = {name: stored[name] for name in stored.files}
    figure, grid = pyplot.subplots(
        len(pictures), COLUMNS, figsize=(COLUMNS * 0.8, len(pictures) * 0.8 + 0.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, (name, shown) in zip(grid, pictures.items(), strict=True):
        for axes, picture in zip(line, shown, strict=False):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect="auto")
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name.replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=6)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path
