"""``afterimage train``: train a system and export its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afterimage.cli.arguments import DataOption, SeedOption, SyntheticOption, data_name
from afterimage.cli.dataset import SplitOption, TestOption, has_sessions, open_sessions, show_scores
from configs.errors import import_extra

if TYPE_CHECKING:
    from runtime.sessions.dataset import Dataset


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
    rig: Annotated[
        str | None,
        typer.Option(help="Own sessions: rig file; which sensors. Default: those of the first session."),
    ] = None,
    by: SplitOption = None,
    test: TestOption = None,
    window: Annotated[
        list[str] | None, typer.Option(help="Own sessions: SENSOR=SECONDS of its window; repeatable.")
    ] = None,
) -> None:
    """Train a system, calibrate it, and export a bundle: on your own sessions, the recorded packs or the synthetic rig.

    --data with a folder of sessions (*.mcap, from `afterimage record` or `afterimage import`) trains on those.
    Windows, steps and splits then follow from the data; the test split stays untouched until `afterimage evaluate`.

    Examples:

      afterimage train svae --out runs/svae

      afterimage train associators --synthetic --minutes 3

      afterimage train svae --data sessions/ --by person --test ada --out runs/mine
    """
    training = import_extra("trainers.training", "training")
    out = out or Path("runs") / Path(system).stem
    if data is not None and has_sessions(data):
        bundle = _train_on_sessions(
            system, open_sessions(data, rig, by, test), out, window or [], minutes, seed, resume
        )
    else:
        from runtime.signals.opening import open_source

        source = open_source(data_name(data, synthetic), data)
        bundle = training.train(system, source, out, seed=seed, minutes=minutes, resume=resume)
    typer.echo(f"bundle: {bundle}")


def _train_on_sessions(
    system: str,
    dataset: Dataset,
    out: Path,
    windows: list[str],
    minutes: float | None,
    seed: int,
    resume: bool,
) -> Path:
    from rich.console import Console

    from runtime.sessions.dataset import default_lengths

    own_data = import_extra("trainers.own_data", "training")
    lengths = default_lengths(dataset)
    for item in windows:
        name, _, seconds = item.partition("=")
        if name not in lengths or not _is_positive(seconds):
            raise typer.BadParameter(
                f"--window takes SENSOR=SECONDS with one of {', '.join(lengths)}, got {item!r}"
            )
        lengths[name] = max(1, round(float(seconds) * dataset.rig.sensor(name).rate_hz))
    bundle: Path = own_data.train_on_sessions(
        system, dataset, out, lengths=lengths, minutes=minutes, seed=seed, resume=resume
    )
    show_scores(Console(), own_data.open_and_score(bundle, dataset, "validation"), "validation")
    return bundle


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
