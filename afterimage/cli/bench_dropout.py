"""``afterimage bench dropout``: how fast a failing sensor is noticed, and how often a good one is accused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, SeedOption, write_json
from afterimage.cli.bench_model import ModelArgument, model_folders
from configs.errors import import_extra


def dropout(
    model: ModelArgument = None,
    json_file: JsonOption = None,
    seed: SeedOption = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough look: one period, two jitters, no live part.")
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the delays into this file.")] = None,
) -> None:
    """Measure false alarms, detection delay and recovery of every fault, against period and jitter, on a virtual clock.

    And once live, with sensor processes that fall silent.

    Examples:

      afterimage bench dropout --quick

      afterimage bench dropout --json dropout.json --plot dropout.png
    """
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from afterimage.bench.dropout import QUICK, DropoutPlan, read_samples
    from afterimage.bench.dropout_live import measure_live
    from afterimage.bench.dropout_measurement import measure
    from afterimage.bench.dropout_report import summary, tables
    from afterimage.bench.machine import describe_machine
    from engines.bundle import load_manifest
    from runtime.rig import load_rig

    drawing = import_extra("afterimage.bench.dropout_plot", "the picture") if plot is not None else None
    bundle, _ = model_folders(model)
    plan = replace(QUICK if quick else DropoutPlan(), seed=seed)
    manifest = load_manifest(bundle)
    rig = load_rig(manifest.rig)
    with Progress(transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task("preparing", total=1.0)

        def say(what: str, share: float) -> None:
            bar.update(task, description=what, completed=share)

        report = measure(rig, manifest, read_samples(rig, seed), plan, say)
        if plan.live_rounds:
            report["live"] = measure_live(bundle, rig, plan.live_rounds, seed, say)
    report["machine"] = describe_machine()
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    if plot is not None and drawing is not None:
        drawing.draw(report, plot)
    if json_file is None or str(json_file) != "-":
        console = Console()
        for table in tables(report):
            console.print(table)
        console.print(summary(report), highlight=False, markup=False, soft_wrap=True)
