"""``afterimage bench throughput``: what a node carries on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, write_json
from afterimage.cli.bench_model import ModelArgument, model_folders
from configs.errors import import_extra


def throughput(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A rough look in half a minute: ipc only, small frames, short steps."),
    ] = False,
) -> None:
    """Measure what a node carries: sensors and rates until the first drop, CPU per message, rigs on a core.

    A real node process with the real engine, and a sender process for each modality. A load is too much as soon as one
    message is lost, refused or unaccounted, or one tick is missed. Takes about four minutes.

    Examples:

      afterimage bench throughput --json throughput.json --plot throughput.png

      afterimage bench throughput runs/svae --quick
    """
    from rich.console import Console
    from rich.progress import Progress

    from afterimage.bench.throughput import QUICK_THROUGHPUT, ThroughputEffort, measure_throughput
    from afterimage.bench.throughput_report import throughput_tables
    from runtime.rig import load_rig

    drawing = import_extra("afterimage.bench.throughput_plot", "the picture") if plot is not None else None
    bundle, _ = model_folders(model)
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("preparing", total=1.0)

        def say(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        effort = QUICK_THROUGHPUT if quick else ThroughputEffort()
        report = measure_throughput(bundle, load_rig("commands-4"), effort, say)
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    if plot is not None and drawing is not None:
        drawing.draw_throughput(report, plot)
    if json_file is None or str(json_file) != "-":
        console = Console()
        for table in throughput_tables(report):
            console.print(table)
        for line in report["skipped"]:
            console.print(f"left out: {line}", highlight=False, markup=False, soft_wrap=True)
