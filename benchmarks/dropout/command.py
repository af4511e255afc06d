"""``python -m benchmarks dropout``: how fast a failing sensor is noticed, and how often a good one is accused."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, SeedOption
from afterimage.cli.bench_model import ModelArgument, model_folders
from afterimage.cli.bench_output import PlotOption, progress, show_report
from configs.errors import import_extra


def dropout(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    seed: SeedOption = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough look: one period, two jitters, no live part.")
    ] = False,
    plot: PlotOption = None,
) -> None:
    """Measure false alarms, detection delay and recovery of every fault, against period and jitter.

    First on a virtual clock, then live, with sensor processes that fall silent.

    Examples:

      python -m benchmarks dropout --quick

      python -m benchmarks dropout --json dropout.json --plot dropout.png
    """
    from dataclasses import replace

    from benchmarks.dropout.episodes import QUICK, DropoutPlan, read_samples
    from benchmarks.dropout.live import measure_live
    from benchmarks.dropout.measurement import measure
    from benchmarks.dropout.report import summary, tables
    from engines.bundle import load_manifest
    from engines.measuring.machine import describe_machine
    from runtime.rig import load_rig

    draw = None if plot is None else import_extra("benchmarks.dropout.plot", "--plot").draw
    bundle, _ = model_folders(model)
    plan = replace(QUICK if quick else DropoutPlan(), seed=seed)
    manifest = load_manifest(bundle)
    rig = load_rig(manifest.rig)
    with progress() as say:
        report = measure(rig, manifest, read_samples(rig, seed), plan, say)
        if plan.live_rounds:
            report["live"] = measure_live(bundle, rig, plan.live_rounds, seed, say)
    report["machine"] = describe_machine()
    show_report(report, json_file, tables(report), summary(report), plot=plot, draw=draw)
