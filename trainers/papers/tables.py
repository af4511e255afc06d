"""A protocol's results as a Markdown table: ours, mean and standard deviation over seeds, beside the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.papers.protocol import Budget, Cell, Protocol


def markdown_table(
    protocol: Protocol,
    cells: Sequence[Cell],
    budget: Budget,
    machine: Mapping[str, Any],
    pictures: Sequence[Path],
) -> str:
    """Markdown of a run; arms are rows, or columns where there are more metrics than arms.

    Args:
        protocol: with the paper's numbers and notes.
        cells: of all arms and seeds.
        budget: that they ran at.
        machine: of :func:`trainers.papers.runner.machine`.
        pictures: figures to show, beside the Markdown file.
    """
    seeds = sorted({cell.seed for cell in cells})
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    metrics = list(dict.fromkeys(m for cell in cells for m in cell.metrics))
    metrics += [m for row in protocol.published.values() for m in row if m not in metrics]
    metrics = list(dict.fromkeys(metrics))
    rows = [(arm, {m: mean_and_deviation(cells, arm, m) for m in metrics}) for arm in arms]
    rows += [
        (f"*{row} (paper)*", {m: _printed(v.get(m)) for m in metrics})
        for row, v in protocol.published.items()
    ]
    lines = [
        f"## {protocol.name}: {protocol.title}",
        "",
        f"{protocol.reference}. Budget `{budget}`, {_drawn(seeds)}, "
        f"{_place(machine)}, {sum(cell.seconds for cell in cells) / 60:.1f} core minutes.",
        "",
        *_grid(metrics, rows),
        "",
        *(f"- {note}" for note in protocol.notes),
        *(f"\n![{picture.stem}]({picture.name})" for picture in pictures),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _grid(metrics: Sequence[str], rows: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    if len(metrics) > len(rows):
        head = [name for name, _ in rows]
        body = [(metric, [values[metric] for _, values in rows]) for metric in metrics]
    else:
        head, body = list(metrics), [(name, [values[m] for m in metrics]) for name, values in rows]
    return [
        "| | " + " | ".join(head) + " |",
        "|---" * (len(head) + 1) + "|",
        *(f"| {name} | " + " | ".join(values) + " |" for name, values in body),
    ]


def mean_and_deviation(cells: Sequence[Cell], arm: str, metric: str) -> str:
    """``mean ± sample standard deviation`` over the seeds of an arm; without ± for one seed, empty for none."""
    values = [cell.metrics[metric] for cell in cells if cell.arm == arm and metric in cell.metrics]
    if not values:
        return ""
    mean = _printed(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {_printed(statistics.stdev(values))}"


def _drawn(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"seeds {', '.join(map(str, seeds))} (mean ± standard deviation)"


def _printed(value: float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _place(machine: Mapping[str, Any]) -> str:
    if machine["gpu"]:
        return str(machine["gpu"])
    return f"{machine['cores']} cores of {machine['processor']}, no GPU"
