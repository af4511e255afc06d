"""The model that a benchmark runs: one that exists already, or one trained for a minute on the synthetic rig."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from configs.errors import import_extra

KNOWN_RUNS = ("runs/demo-svae", "runs/svae", "runs/bench-svae")
"""Folders where a trained run is looked for, in this order; if there is none, the last is where one is trained."""

_TRAINING_MINUTES = 1.0

ModelArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="BUNDLE_OR_RUN",
        help=f"A training run, or its bundle. Default: the first of {', '.join(KNOWN_RUNS)} that exists; else one is "
        "trained on the synthetic rig in a minute.",
        exists=True,
        file_okay=False,
    ),
]
"""The argument of every benchmark that needs a model."""


def model_folders(model: Path | None) -> tuple[Path, Path | None]:
    """The bundle to measure, and the checkpoint it came from where that is beside it.

    A short training will do: speed depends on the model's shapes, not on its weights.

    Args:
        model: a training run or its bundle; None takes the first of :data:`KNOWN_RUNS` that exists, or trains one.
    """
    from engines.bundle import MANIFEST_NAME

    if model is None:
        known = (Path(name) for name in KNOWN_RUNS)
        model = next((run for run in known if (run / "bundle" / MANIFEST_NAME).is_file()), None) or _train()
    run = model if (model / "bundle" / MANIFEST_NAME).is_file() else model.parent
    bundle = run / "bundle" if run is model else model
    checkpoint = run / "checkpoint"
    return bundle, checkpoint if (checkpoint / "state.json").is_file() else None


def _train() -> Path:
    from runtime.signals.opening import open_source

    training = import_extra("trainers.training", "training a model to measure")
    out = Path(KNOWN_RUNS[-1])
    typer.echo(
        f"no trained model in {', '.join(KNOWN_RUNS)}: training one on the synthetic rig for "
        f"{_TRAINING_MINUTES:.0f} minute into {out}",
        err=True,
    )
    training.train("svae", open_source("synthetic"), out, minutes=_TRAINING_MINUTES)
    return out
