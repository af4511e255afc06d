"""``afterimage dataset``: look at recorded sessions before anything is trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afterimage.cli.arguments import JsonOption, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from runtime.sessions.checking import CheckReport
    from runtime.sessions.dataset import Dataset
    from trainers.own_data import Scores

SplitOption = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="Own sessions: split by session, by time, or by a tag such as person. Default: by session from 3 on.",
    ),
]
TestOption = Annotated[
    list[str] | None,
    typer.Option(
        "--test", help="Own sessions: a session, or a value of the tag, that is the test; repeatable."
    ),
]

dataset = typer.Typer(no_args_is_help=True, help="Look at recorded sessions before training on them.")


@dataset.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder with sessions (*.mcap).")],
    rig: Annotated[
        str | None,
        typer.Option(help="Rig file: which sensors to look at. Default: those of the first session."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Split by session, by time, or by a tag such as person. Default: by session if there are 3."
        ),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="A session, or a value of the tag, that is the test; repeatable.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the sessions into this file (PNG, PDF).")] = None,
    json_path: JsonOption = None,
) -> None:
    """Count classes, minutes and gaps; compare rates with what the rig promises; look for leaks between the splits.

    Exit code 1 if there is something to mend.

    Examples:

      afterimage dataset check sessions/

      afterimage dataset check sessions/ --by person --test ada --picture sessions.png
    """
    from runtime.sessions.checking import check_dataset
    from runtime.sessions.dataset import default_lengths

    data = open_sessions(folder, rig, by, test)
    report = check_dataset(data, default_lengths(data))
    if picture is not None:
        from runtime.sessions.picture import draw_dataset

        draw_dataset(data, picture)
    if json_path is not None:
        write_json(json_path, json.dumps(report.as_json(), indent=1))
    if json_path is None or str(json_path) != "-":
        _show(data, report)
    if report.problems:
        raise typer.Exit(1)


def has_sessions(folder: Path) -> bool:
    """Whether a folder holds sessions, and not the packs of the shipped rig."""
    return any(folder.glob("*.mcap"))


def open_sessions(folder: Path, rig: str | None, by: str | None, test: list[str] | None) -> Dataset:
    """The data set of a folder, split as the options say.

    Raises:
        RecordingError, RigError, DatasetError: see there.
    """
    from runtime.rig import load_rig
    from runtime.sessions.dataset import Dataset
    from runtime.sessions.splits import SplitPlan

    chosen = load_rig(rig) if rig else None
    if by is None and not test:
        return Dataset.load(folder, rig=chosen)
    return Dataset.load(folder, rig=chosen, plan=SplitPlan(by=by or "session", test=tuple(test or ())))


def show_scores(console: Console, scores: Scores, split: str) -> None:
    """Print what a bundle does on a split, beside plain features and chance; warnings come last."""
    from rich.table import Table

    table = Table(
        f"sensors present ({split}, {scores.windows} windows)", "model", "plain features", "calibration error"
    )
    for pattern, share in scores.accuracy.items():
        table.add_row(
            pattern, f"{share:.3f}", f"{scores.plain_features[pattern]:.3f}", f"{scores.ece[pattern]:.3f}"
        )
    table.add_row("none (chance)", f"{scores.chance:.3f}", "", "")
    console.print(table)
    for name, errors in scores.imputation.items():
        console.print(
            f"imputed {name}: error {errors['nmse']:.3f}, class mean {errors['class_mean_nmse']:.3f}",
            highlight=False,
        )
    for warning in scores.warnings:
        console.print(f"[bold red]warning:[/] {warning}", highlight=False, soft_wrap=True)


def _show(data: Dataset, report: CheckReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("session", *data.rig.modality_names, *data.classes, title=f"rig {data.rig.name}")
    for name, sensors in report.sessions.items():
        minutes = [
            f"{s.minutes:.1f} min, {s.gaps} gaps" if (s := sensors.get(m)) else "-"
            for m in data.rig.modality_names
        ]
        counts = [
            f"{n} x {t / n:.1f} s" if n else "-"
            for n, t in (report.labels[name].get(c, (0, 0.0)) for c in data.classes)
        ]
        table.add_row(name, *minutes, *counts)
    console.print(table)
    for split, spans in report.splits.items():
        console.print(f"{split}: " + ", ".join(f"{c} {n}" for c, n in spans.items()), highlight=False)
    if c := report.controls:
        console.print(
            f"plain features {c['plain_features']:.3f}, with shuffled labels {c['shuffled_labels']:.3f}, "
            f"chance {c['chance']:.3f}",
            highlight=False,
        )
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    for problem in report.problems:
        console.print(f"[red]to mend:[/] {problem}", highlight=False, soft_wrap=True)
