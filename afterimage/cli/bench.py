"""``afterimage bench``: measure this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, RigOption
from afterimage.cli.bench_model import ModelArgument, model_folders
from afterimage.cli.bench_output import PlotOption, progress, show_report
from configs.errors import import_extra

bench = typer.Typer(help="Measure what this machine can do.", no_args_is_help=True)


@bench.command("engines")
def engines(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            help="A target's name or file, besides the CPU; may be repeated. Default: every shipped one.",
        ),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave a backend out, by its name in the report.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads, the same for every backend.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough look: batches 1 and 8, a few seconds each.")
    ] = False,
    plot: PlotOption = None,
) -> None:
    """Measure every engine that runs here, and PyTorch, on each graph and on whole ticks, turn by turn in one run.

    Latency (p50, p99), throughput, load time, time to the first decision and memory at batch 1, 8, 32 and 128; what
    each graph would cost at this machine's measured peak; and whether a decision takes as long whatever is missing.
    Takes about five minutes, some of them for compiling with PyTorch.

    Examples:

      afterimage bench engines --json engines.json --plot engines.png

      afterimage bench engines runs/svae --target cpu --without pytorch-compiled --quick
    """
    from afterimage.bench.engines.contenders import gather
    from afterimage.bench.engines.measurement import QUICK, Effort, measure_engines
    from afterimage.bench.engines.report import summary, tables, with_floors, with_ratios

    draw = None if plot is None else import_extra("afterimage.bench.engines.plot", "--plot").draw
    bundle, checkpoint = model_folders(model)
    with progress() as say:
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
    show_report(report, json_file, tables(report), summary(report), plot=plot, draw=draw)


@bench.command("latency")
def latency(
    model: ModelArgument = None,
    rig: RigOption = "commands-4",
    json_file: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough look: one sensor, half a minute.")] = False,
    plot: PlotOption = None,
) -> None:
    """Measure how long a frame takes from its sensor's process to the decision in a client's process.

    In the same run, turn by turn, the least that it could take: raw ZeroMQ and the same engine calls. Takes about six
    minutes; leave the machine alone meanwhile.

    Examples:

      afterimage bench latency --json latency.json --plot latency.png

      afterimage bench latency runs/svae --quick
    """
    from rich.console import Console

    from afterimage.bench.latency.report import latency_summary, latency_table, measure_latency
    from runtime.rig import load_rig

    draw = None if plot is None else import_extra("afterimage.bench.latency.plot", "--plot").draw_latency
    bundle, _ = model_folders(model)
    with Console(stderr=True).status("preparing") as status:
        report = measure_latency(bundle, load_rig(rig), quick=quick, say=status.update)
    show_report(report, json_file, [latency_table(report)], latency_summary(report), plot=plot, draw=draw)
