"""``afterimage train``: train a system and export its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import DataOption, SeedOption, SyntheticOption, data_name
from configs.errors import import_extra


def train(
    system: Annotated[
        str,
        typer.Argument(
            help="A shipped model (svae, hmvae-kl, mmali, dsml, associators, ...; see README), or a model file's path."
        ),
    ] = "svae",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run. Default: runs/SYSTEM.")
    ] = None,
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    seed: SeedOption = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Time budget; training stops then and exports the model as it is.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")
    ] = False,
) -> None:
    """Train a system on the recorded packs or the synthetic rig, calibrate it, and export a bundle.

    Examples:

      afterimage train svae --out runs/svae

      afterimage train associators --synthetic --minutes 3
    """
    from runtime.signals.opening import open_source

    training = import_extra("trainers.training", "training")
    source = open_source(data_name(data, synthetic), data)
    out = out or Path("runs") / Path(system).stem
    bundle = training.train(system, source, out, seed=seed, minutes=minutes, resume=resume)
    typer.echo(f"bundle: {bundle}")
