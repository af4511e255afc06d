"""``python -m benchmarks soak``: ten million messages with every fault, and an account of each of them."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, SeedOption
from afterimage.cli.bench_model import ModelArgument, model_folders
from afterimage.cli.bench_output import PlotOption, progress, show_report
from configs.errors import import_extra


def soak(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    messages: Annotated[int, typer.Option(min=1000, help="How many to send.")] = 10_000_000,
    seed: SeedOption = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A rough look: 50,000 messages.")] = False,
    plot: PlotOption = None,
) -> None:
    """Run a real node on a virtual clock, faster than time, and compare its counters with what was sent to it.

    Four sensors send through real sockets, with seeded faults: messages dropped, doubled, reordered, damaged in every
    way, astray, late, in bursts, more than the queues hold; samples frozen, spoilt or NaN; clocks that step and drift;
    silences and restarts. The report has memory over messages, the drift of the ticks, and every counter that is not
    what it must be. Exit code 1 if there is one, or if a message is unaccounted for.

    Examples:

      python -m benchmarks soak --json soak.json --plot soak.png

      python -m benchmarks soak runs/svae --messages 1000000 --seed 7
    """
    from benchmarks.soak.report import summary, tables
    from benchmarks.soak.run import SoakPlan, run_soak

    draw = None if plot is None else import_extra("benchmarks.soak.plot", "--plot").draw
    bundle, _ = model_folders(model)
    with progress() as say:
        report = run_soak(bundle, SoakPlan(messages=50_000 if quick else messages, seed=seed), say)
    show_report(report, json_file, tables(report), summary(report), plot=plot, draw=draw)
    if report["discrepancies"] or report["unaccounted"]:
        raise typer.Exit(1)
