"""``afterimage bench``: measure this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, write_json
from afterimage.cli.bench_dropout import dropout
from afterimage.cli.bench_latency import latency
from afterimage.cli.bench_model import ModelArgument, model_folders
from afterimage.cli.bench_soak import soak
from afterimage.cli.bench_throughput import throughput
from configs.errors import import_extra

bench = typer.Typer(help="Measure what this machine can do.", no_args_is_help=True)
bench.command("latency")(latency)
bench.command("throughput")(throughput)
bench.command("dropout")(dropout)
bench.command("soak")(soak)


@bench.command("engines")
def engines(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="A target's name or file, besides the CPU; repeat it. Default: every shipped one.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave a backend out by its name in the report.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, alike for every backend.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough look: batches 1 and 8, a few seconds each.")
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file.")] = None,
) -> None:
    """Measure every engine that runs here, and PyTorch, on each graph and on whole ticks, turn by turn in one run.

    Latency (p50, p99), throughput, load time, time to the first decision and memory at batch 1, 8, 32 and 128; what
    each graph would cost at this machine's measured peak; and whether a decision takes as long whatever is missing.
    Takes about five minutes; compiling with PyTorch is some of that.

    Examples:

      afterimage bench engines --json engines.json --plot engines.png

      afterimage bench engines runs/svae --target cpu --without pytorch-compiled --quick
    """
    from rich.console import Console
    from rich.progress import Progress

    from afterimage.bench.contenders import gather
    from afterimage.bench.engine_latency import QUICK, Effort, measure_engines
    from afterimage.bench.report import summary, tables, with_floors, with_ratios

    drawing = import_extra("afterimage.bench.plot", "the picture") if plot is not None else None
    bundle, checkpoint = model_folders(model)
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("preparing", total=1.0)

        def say(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        effort = QUICK if quick else Effort()
        field = gather(
            bundle,
            checkpoint,
            target or (),
            threads=threads,
            largest_batch=max(effort.batches),
            without=without or (),
            say=lambda what: say(what, 0.0),
        )
        try:
            measured = measure_engines(bundle, checkpoint, field, effort, threads=threads, say=say)
        finally:
            field.close()
        say("measuring the machine's peak", 1.0)
        report = with_floors(with_ratios(measured), bundle, threads)
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    if plot is not None and drawing is not None:
        drawing.draw(report, plot)
    if json_file is None or str(json_file) != "-":
        console = Console()
        for table in tables(report):
            console.print(table)
        console.print(summary(report), highlight=False, markup=False, soft_wrap=True)
