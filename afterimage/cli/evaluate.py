"""``afterimage evaluate``: measure a bundle or a checkpoint in every missing pattern."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afterimage.cli.arguments import (
    DataOption,
    JsonOption,
    SyntheticOption,
    data_name,
    write_json,
)
from afterimage.cli.dataset import SplitOption, TestOption, has_sessions, open_sessions, show_scores
from configs.errors import import_extra

if TYPE_CHECKING:
    from rich.table import Table


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            help="A bundle, a compiled engine, a checkpoint, or the folder of a training run (its bundle, or its "
            "checkpoint if it has no bundle yet).",
            exists=True,
            file_okay=False,
        ),
    ],
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    json_file: JsonOption = None,
    rig: Annotated[
        str | None,
        typer.Option(help="Own sessions: rig file; which sensors. Default: those of the first session."),
    ] = None,
    by: SplitOption = None,
    test: TestOption = None,
) -> None:
    """Measure a model on a split: all missing patterns, three fill policies, calibration, imputation, retrieval.

    A checkpoint is calibrated on the validation split first, as it would be at the end of training. --data with a
    folder of sessions (*.mcap) measures a bundle on those, split as it was for training: give the same --by and --test.

    Examples:

      afterimage evaluate runs/svae/bundle --json evaluation.json

      afterimage evaluate runs/svae/checkpoint

      afterimage evaluate runs/mine/bundle --data sessions/ --by person --test ada
    """
    from rich.console import Console

    from afterimage.demo.report import accuracy_table
    from engines.opening import open_session
    from runtime.signals.moments import SPLITS
    from runtime.signals.opening import open_source

    if split not in SPLITS:
        raise typer.BadParameter(f"split should be one of {', '.join(SPLITS)}, got {split!r}")
    checkpoints = import_extra("trainers.checkpoint_evaluation", "evaluation")
    found = checkpoints.find_model(model)
    if data is not None and has_sessions(data):
        scores = import_extra("trainers.own_data", "evaluation").open_and_score(
            found, open_sessions(data, rig, by, test), split
        )
        if json_file is not None:
            write_json(json_file, json.dumps({"split": split, **vars(scores)}, indent=1))
        if json_file is None or str(json_file) != "-":
            show_scores(Console(), scores, split)
        return
    source = open_source(data_name(data, synthetic), data)
    if checkpoints.is_checkpoint(found):
        result = checkpoints.evaluate_checkpoint(found, source, split=split)
    else:
        with open_session(found) as session:
            result = checkpoints.evaluate_bundle(session, source, split=split)
    if json_file is not None:
        write_json(json_file, json.dumps(result, indent=1))
    if json_file is None or str(json_file) != "-":
        console = Console()
        console.print(accuracy_table(result["accuracy"]))
        console.print(imputation_table(result))
        console.print(summary(result))


def imputation_table(result: dict[str, Any]) -> Table:
    """A row per sensor: the scores of its latent, and of its imputation from all other sensors."""
    from rich.table import Table

    table = Table(title=f"each sensor on the {result['split']} split, imputed from all others")
    headings = (
        "sensor",
        "latent accuracy",
        "active units",
        "shows the class",
        "judge's ceiling",
        "NMSE",
        "covered",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "sensor" else "right")
    for name, of in result["imputation"].items():
        units = result["active_units"][name]
        covered = (result["coverage"] or {"by_pattern": {}})["by_pattern"].get(of["from"], {}).get(name)
        table.add_row(
            name,
            f"{result['latent_accuracy'][name]:.3f}",
            f"{units['active']} of {units['size']}",
            f"{of['semantic_accuracy']:.3f}",
            f"{of['judge_accuracy']:.3f}",
            f"{of['nmse']:.3f}",
            "" if covered is None else f"{covered:.3f}",
        )
    return table


def summary(result: dict[str, Any]) -> str:
    """All other results, in a few lines."""
    cross = [share for of in result["coherence"]["cross"].values() for share in of.values()]
    precision = list(result["retrieval"]["mean_average_precision"].values())
    ece, coverage = result["calibration"]["ece"], result["coverage"]
    lines = [f"calibration error: all sensors {ece['all']:.3f}, worst pattern {ece['worst_pattern']:.3f}"]
    if cross:
        lines.append(
            f"cross coherence: mean of all patterns {sum(cross) / len(cross):.3f}, worst {min(cross):.3f}; "
            f"retrieval mAP {sum(precision) / len(precision):.3f}, by chance {result['retrieval']['by_chance']:.3f}"
        )
    if result["coherence"]["joint"] is not None:
        lines.append(f"joint coherence of draws from the prior: {result['coherence']['joint']:.3f}")
    if coverage is not None:
        lines.append(
            f"intervals of {coverage['level']:.0%} around imputations: mean coverage {coverage['mean']:.3f}, lowest "
            f"{coverage['lowest']:.3f}"
        )
    return "\n".join(lines)
