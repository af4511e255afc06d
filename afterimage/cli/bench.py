"""``afterimage bench``: measure this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, import_optional, write_json

bench = typer.Typer(help="Measure what this machine can do.", no_args_is_help=True)

_KNOWN_RUNS = ("runs/demo-svae", "runs/svae", "runs/bench-svae")
_TRAINING_MINUTES = 1.0


@bench.command("engines")
def engines(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE_OR_RUN",
            help="A training run, or its bundle (PyTorch is measured where the checkpoint is beside it). Default: "
            f"{', '.join(_KNOWN_RUNS)}, whichever is there; else one is trained on the synthetic rig in a minute.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
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

    drawing = import_optional("afterimage.bench.plot") if plot is not None else None
    bundle, checkpoint = _model_folders(model)
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


def _model_folders(model: Path | None) -> tuple[Path, Path | None]:
    """The bundle, and the checkpoint it came from where that is beside it; trains a model where there is none."""
    from engines.bundle import MANIFEST_NAME

    if model is None:
        known = (Path(name) for name in _KNOWN_RUNS)
        model = next((run for run in known if (run / "bundle" / MANIFEST_NAME).is_file()), None) or _train()
    run = model if (model / "bundle" / MANIFEST_NAME).is_file() else model.parent
    bundle = run / "bundle" if run is model else model
    checkpoint = run / "checkpoint"
    return bundle, checkpoint if (checkpoint / "state.json").is_file() else None


def _train() -> Path:
    """A model to measure, where nobody has trained one: the weights do not matter to speed, the shapes do."""
    from runtime.sensors.sources import open_source

    training = import_optional("trainers.training")
    out = Path(_KNOWN_RUNS[-1])
    typer.echo(
        f"no trained model in {', '.join(_KNOWN_RUNS)}: training one on the synthetic rig for "
        f"{_TRAINING_MINUTES:.0f} minute into {out}",
        err=True,
    )
    training.train("svae", open_source("synthetic"), out, minutes=_TRAINING_MINUTES)
    return out
