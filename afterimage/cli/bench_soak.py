"""``afterimage bench soak``: ten million messages with everything that can happen to them, and the books at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, SeedOption, write_json
from afterimage.cli.bench_model import ModelArgument, model_folders
from configs.errors import import_extra


def soak(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    messages: Annotated[int, typer.Option(min=1000, help="How many to send.")] = 10_000_000,
    seed: SeedOption = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A rough look: 50,000 messages.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file.")] = None,
) -> None:
    """Run a real node on a virtual clock, faster than time, and hold its counters against what was sent to it.

    Four sensors send through real sockets, with seeded faults: messages dropped, doubled, reordered, damaged in every
    way, astray, late, in bursts, beyond what queues hold; samples frozen, spoilt or NaN; clocks that step and drift;
    silences and restarts. Reported are memory over messages, the drift of the ticks, and every counter that is not
    what it must be. Exit code 1 if any is, or if a message is unaccounted for.

    Examples:

      afterimage bench soak --json soak.json --plot soak.png

      afterimage bench soak runs/svae --messages 1000000 --seed 7
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from afterimage.bench.soak import SoakPlan, run_soak
    from afterimage.bench.soak_report import summary, tables

    drawing = import_extra("afterimage.bench.soak_plot", "the picture") if plot is not None else None
    bundle, _ = model_folders(model)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("preparing", total=1.0)

        def say(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        report = run_soak(bundle, SoakPlan(messages=50_000 if quick else messages, seed=seed), say)
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    if plot is not None and drawing is not None:
        drawing.draw(report, plot)
    if json_file is None or str(json_file) != "-":
        console = Console()
        for table in tables(report):
            console.print(table)
        console.print(summary(report), highlight=False, markup=False, soft_wrap=True)
    if report["discrepancies"] or report["unaccounted"]:
        raise typer.Exit(1)
