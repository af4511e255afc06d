"""``afterimage evaluate``: accuracy, calibration and imputation of a bundle in every missing pattern."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import (
    DataOption,
    JsonOption,
    SyntheticOption,
    data_name,
    import_optional,
    write_json,
)


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle or a compiled engine folder.", exists=True)],
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    json_file: JsonOption = None,
) -> None:
    """Measure a bundle on a split: all missing patterns, three fill policies, calibration, imputation.

    Example:

      afterimage evaluate runs/svae/bundle --json evaluation.json
    """
    from rich.console import Console

    from afterimage.demo.report import accuracy_table
    from engines.session import open_session
    from runtime.sensors.sources import open_source

    evaluation = import_optional("trainers.evaluation.report")
    source = open_source(data_name(data, synthetic), data)
    with open_session(bundle) as session:
        result = evaluation.evaluate_bundle(session, source, split=split)
    if json_file is not None:
        write_json(json_file, json.dumps(result, indent=1))
    if json_file is None or str(json_file) != "-":
        Console().print(accuracy_table(result["accuracy"]))
