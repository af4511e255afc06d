"""``afterimage demo``: train, then break every sensor live and show what the runtime makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import (
    DataOption,
    JsonOption,
    SeedOption,
    SyntheticOption,
    data_name,
    import_optional,
    write_json,
)


def demo(
    system: Annotated[
        str, typer.Option("--system", help="As for `afterimage train`: svae, associators, ...")
    ] = "svae",
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Use this bundle instead of training.", exists=True)
    ] = None,
    headless: Annotated[bool, typer.Option("--headless", help="No live view; a line per fault.")] = False,
    json_file: JsonOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for bundle, engine and picture.")] = None,
    seed: SeedOption = 0,
    minutes: Annotated[float, typer.Option(help="At most this long for training.")] = 3.5,
    fault_seconds: Annotated[float, typer.Option(help="How long each fault lasts.")] = 2.0,
) -> None:
    """Train a model, play test recordings as four live sensors, break them one after the other, and report.

    Without --data the recorded packs are used if they are found ($AFTERIMAGE_DATA, ../shared/data), else the
    synthetic rig, which needs nothing. Ends with a table, a picture and, on request, JSON.

    Examples:

      afterimage demo

      afterimage demo --headless --json report.json

      afterimage demo --system associators --bundle runs/associators/bundle
    """
    from rich.console import Console

    import_optional("torch")
    import_optional("matplotlib")
    from afterimage.demo.run import DemoOptions, run_demo

    name = data_name(data, synthetic)
    out = out or Path("runs") / f"demo-{system}"
    to_stdout = json_file is not None and str(json_file) == "-"
    console = Console(stderr=to_stdout)
    report = run_demo(
        DemoOptions(system, name, data, bundle, out, seed, minutes, fault_seconds, headless), console
    )
    if json_file is not None:
        write_json(json_file, json.dumps(report, indent=1))
    console.print(f"picture: {out / 'report.png'}", highlight=False)
