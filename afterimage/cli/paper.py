"""``afterimage paper``: run a table of the papers, and print ours beside theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, write_json
from configs.errors import AfterimageError, import_extra

PROTOCOL_NAMES = (
    "multimnist", "mnist-split-2", "mnist-split-3", "mnist-transpose", "fashion-mnist", "mnist-speech", "rgbd-5pct",
    "commands-4",
)  # fmt: skip


class CloneNeededError(AfterimageError):
    """A command that runs from a clone of the repository only."""


class BudgetName(StrEnum):
    """How much to train."""

    smoke = "smoke"
    small = "small"
    full = "full"


def paper(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(PROTOCOL_NAMES)}.")],
    budget: Annotated[
        BudgetName,
        typer.Option(help="smoke: under a minute; small: at most 30 minutes on 2 cores; full: the paper's."),
    ] = BudgetName.small,
    seeds: Annotated[
        int, typer.Option(help="Seeds 0 .. SEEDS - 1; tables show mean and deviation.", min=1)
    ] = 1,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, each in a process of its own.", min=1)] = 1,
    arm: Annotated[
        list[str] | None, typer.Option(help="Only this arm of the table; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the recorded packs. Default: $AFTERIMAGE_DATA, then ../shared/data."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run. Default: runs/paper/NAME-BUDGET.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Run a table of the seed papers: train every arm, measure it as the paper does, write table and figures.

    Finished arms are kept in the run's folder. Run the same command again to continue interrupted ones from their
    checkpoint.

    Examples:

      afterimage paper mnist-split-2 --budget small --seeds 3 --jobs 2

      afterimage paper rgbd-5pct --budget smoke --json -
    """
    from runtime.signals.opening import find_data_dir
    from runtime.signals.packs import PackError

    if find_spec("trainers.papers") is None:
        raise CloneNeededError(
            "afterimage paper: runs from a clone of the repository, and this is an installed wheel"
        )
    runner = import_extra("trainers.papers.runner", "the papers' tables")
    folder = find_data_dir(data)
    if folder is None:
        raise PackError(
            "no data folder: give --data DIR or $AFTERIMAGE_DATA; the papers' tables need the packs"
        )
    out = out or Path("runs") / "paper" / f"{name}-{budget.value}"
    with _bars() as report:
        run = runner.run_protocol(
            name, budget.value, folder, out, seeds=seeds, jobs=jobs, arms=arm, report=report
        )
    if json_file is not None:
        write_json(json_file, json.dumps(run.as_json(), indent=1))
    if json_file is None or str(json_file) != "-":
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown((out / "results.md").read_text()))
        typer.echo(f"results: {out / 'results.md'}")


@contextmanager
def _bars() -> Iterator[Callable[[str, int, str, int, int], None]]:
    """A bar per arm and seed, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(),
    )
    tasks: dict[tuple[str, int], TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def report(arm: str, seed: int, what: str, done: int, of: int) -> None:
            if (arm, seed) not in tasks:
                tasks[arm, seed] = bars.add_task(f"{arm}, seed {seed}", total=None, what=what)
            if what == "done":
                bars.update(tasks[arm, seed], total=1, completed=1, what=what)
            else:
                bars.update(tasks[arm, seed], total=of, completed=done, what=f"{what} {done}/{of}")

        yield report
