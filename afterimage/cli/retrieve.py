"""``afterimage retrieve``: query by one sensor, get the nearest recorded moments of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afterimage.cli.arguments import (
    DataOption,
    JsonOption,
    SeedOption,
    SyntheticOption,
    data_name,
    write_json,
)
from configs.errors import import_extra

if TYPE_CHECKING:
    from rich.table import Table


def retrieve(
    bundle: Annotated[Path, typer.Argument(help="A bundle or a compiled engine folder.", exists=True)],
    source: Annotated[str, typer.Option("--from", help="Sensor to query by.")],
    target: Annotated[str, typer.Option("--to", help="Sensor whose moments are searched.")],
    moment: Annotated[int, typer.Option(help="Moment of the split to query by.", min=0)] = 0,
    top: Annotated[int, typer.Option(help="How many moments to show.", min=1)] = 5,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Query by one sensor's window, and find the recorded moments of another sensor that are most similar.

    Moments of the query's class (as the model decides) come first, then the others, each by distance in the target's
    latent space; the ranking uses no labels. Also prints the mean average precision over all moments of the split, in
    which the moments of the query's true class are relevant.

    Examples:

      afterimage retrieve runs/svae/bundle --from rgb --to audio

      afterimage retrieve runs/svae/bundle --from audio --to depth --moment 7 --top 10 --json -
    """
    from rich.console import Console

    from engines.opening import open_session
    from runtime.signals.moments import SPLITS
    from runtime.signals.opening import open_source

    if split not in SPLITS:
        raise typer.BadParameter(f"split should be one of {', '.join(SPLITS)}, got {split!r}")
    evaluation = import_extra("trainers.evaluation.retrieval", "retrieval")
    recordings = open_source(data_name(data, synthetic), data)
    with open_session(bundle) as session:
        result = evaluation.retrieve_moments(
            session, recordings, source, target, split=split, moment=moment, top=top, seed=seed
        )
    if json_file is not None:
        write_json(json_file, json.dumps(result, indent=1))
    if json_file is None or str(json_file) != "-":
        console = Console()
        console.print(_table(result))
        console.print(
            f"mean average precision over the {result['moments']} moments of the {split} split: "
            f"{result['mean_average_precision']:.3f} (by distance alone {result['by_distance_alone']:.3f}, "
            f"by chance {result['by_chance']:.3f})"
        )


def _table(result: dict[str, Any]) -> Table:
    from rich.table import Table

    query = result["query"]
    table = Table(
        title=f"{result['to']} moments nearest to {result['from']} of moment {query['moment']}: shows "
        f"{query['label']}, taken for {query['decided']} ({query['probability']:.2f})"
    )
    for heading in ("", "moment", "recording", "label", "taken for", "distance"):
        table.add_column(heading, justify="left" if heading in ("label", "taken for") else "right")
    for place, found in enumerate(result["found"], start=1):
        style = None if found["label"] == query["label"] else "red"
        table.add_row(
            str(place), str(found["moment"]), str(found["recording"]), found["label"],
            f"{found['decided']} ({found['probability']:.2f})", f"{found['distance']:.3f}", style=style,
        )  # fmt: skip
    return table
