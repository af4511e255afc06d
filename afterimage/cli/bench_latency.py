"""``afterimage bench latency``: from a frame to its decision, beside the floor and peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, RigOption, write_json
from afterimage.cli.bench_model import ModelArgument, model_folders
from configs.errors import import_extra


def latency(
    model: ModelArgument = None,
    rig: RigOption = "commands-4",
    json_file: JsonOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rough look: one sensor, half a minute.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the result into this file.")] = None,
) -> None:
    """Measure how long a frame takes from its sensor's process to the decision in a client's process.

    In the same run, turn by turn: the floor (raw ZeroMQ and the same engine calls), a plain pyzmq loop, ezmsg and
    dora-rs (extra bench), all with the same engine. Then everything at once, with raw images of 640 x 480 at 30 Hz.
    About twelve minutes; leave the machine alone meanwhile.

    Examples:

      afterimage bench latency --json latency.json --plot latency.png

      afterimage bench latency runs/svae --quick
    """
    from rich.console import Console

    from runtime.rig import load_rig

    report_module = import_extra("afterimage.bench.latency_report", "the latency benchmark")
    bundle, _ = model_folders(model)
    console = Console(stderr=True)
    with console.status("preparing") as status:
        report = report_module.measure_latency(bundle, load_rig(rig), quick=quick, say=status.update)
    if plot is not None:
        report_module.draw_latency(report, plot)
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    if json_file is None or str(json_file) != "-":
        out = Console()
        for table in report_module.latency_tables(report):
            out.print(table)
        out.print(report_module.latency_summary(report), highlight=False, markup=False, soft_wrap=True)
