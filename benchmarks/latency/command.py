"""``python -m benchmarks latency``: from a frame to its decision, beside the floor and peers."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, RigOption
from afterimage.cli.bench_model import ModelArgument, model_folders
from afterimage.cli.bench_output import PlotOption, show_report
from configs.errors import import_extra


def latency(
    model: ModelArgument = None,
    rig: RigOption = "commands-4",
    json_file: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough look: one sensor, a minute.")] = False,
    plot: PlotOption = None,
) -> None:
    """Measure how long a frame takes from its sensor's process to the decision in a client's process.

    In the same run, turn by turn: the floor (raw ZeroMQ and the same engine calls), a plain pyzmq loop, ezmsg and
    dora-rs (extra bench), all with the same engine. Then every sensor at once, with raw images of 640 x 480 at 30 Hz.
    Takes about twelve minutes; leave the machine alone meanwhile.

    Examples:

      python -m benchmarks latency --json latency.json --plot latency.png

      python -m benchmarks latency runs/svae --quick
    """
    from functools import partial

    from rich.console import Console

    from runtime.rig import load_rig

    own = import_extra("afterimage.bench.latency.report", "the latency benchmark")
    report_module = import_extra("benchmarks.latency.report", "the latency benchmark")
    draw = None
    if plot is not None:
        draw_latency = import_extra("afterimage.bench.latency.plot", "--plot").draw_latency
        draw = partial(draw_latency, contenders=report_module.CONTENDERS)
    bundle, _ = model_folders(model)
    with Console(stderr=True).status("preparing") as status:
        report = report_module.measure_latency(bundle, load_rig(rig), quick=quick, say=status.update)
    table = own.latency_table(report, report_module.CONTENDERS)
    show_report(report, json_file, [table], report_module.latency_summary(report), plot=plot, draw=draw)
