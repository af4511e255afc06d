"""How benchmarks show what they do and what they found; for ``afterimage bench`` and for ``python -m benchmarks``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from afterimage.cli.arguments import write_json
from engines.measuring.interleaving import Say

PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file.")]


@contextmanager
def progress() -> Iterator[Say]:
    """A bar on stderr."""
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("preparing", total=1.0)

        def say(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        yield say


def show_report(
    report: Mapping[str, Any],
    json_file: Path | None,
    tables: Sequence[Table],
    summary: str = "",
    *,
    plot: Path | None = None,
    draw: Callable[[Mapping[str, Any], Path], None] | None = None,
) -> None:
    """Write a report as JSON, draw it, and print it for people, unless the JSON went to stdout.

    Args:
        report: ready for JSON.
        json_file: where to write it; ``-`` is stdout; None writes nothing.
        tables: for people.
        summary: lines below the tables.
        plot: where to draw it.
        draw: draws it.
    """
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    if plot is not None and draw is not None:
        draw(report, plot)
    if json_file is None or str(json_file) != "-":
        console = Console()
        for table in tables:
            console.print(table)
        if summary:
            console.print(summary, highlight=False, markup=False, soft_wrap=True)
