"""``python -m benchmarks throughput``: how much one node carries on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption
from afterimage.cli.bench_model import ModelArgument, model_folders
from afterimage.cli.bench_output import PlotOption, progress, show_report
from configs.errors import import_extra


def throughput(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A rough look in half a minute: ipc only, small frames, short steps."),
    ] = False,
) -> None:
    """Measure what a node carries: sensors and rates until the first drop, CPU per message, rigs on a core.

    A real node process with the real engine, and a sender process for each modality. A load is too much as soon as one
    message is lost, refused or unaccounted, or one tick is missed. Takes about four minutes.

    Examples:

      python -m benchmarks throughput --json throughput.json --plot throughput.png

      python -m benchmarks throughput runs/svae --quick
    """
    from benchmarks.throughput.measurement import QUICK_THROUGHPUT, ThroughputEffort, measure_throughput
    from benchmarks.throughput.report import throughput_tables
    from runtime.rig import load_rig

    draw = None if plot is None else import_extra("benchmarks.throughput.plot", "--plot").draw_throughput
    bundle, _ = model_folders(model)
    with progress() as say:
        effort = QUICK_THROUGHPUT if quick else ThroughputEffort()
        report = measure_throughput(bundle, load_rig("commands-4"), effort, say)
    summary = "\n".join(f"left out: {line}" for line in report["skipped"])
    show_report(report, json_file, throughput_tables(report), summary, plot=plot, draw=draw)
