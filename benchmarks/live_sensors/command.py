"""``python -m benchmarks live_sensors``: a rig of real sources, each killed in turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, write_json
from configs.errors import import_extra


def live_sensors(
    bundle: Annotated[Path, typer.Argument(help="Bundle of commands-4.", exists=True, file_okay=False)],
    seconds: Annotated[float, typer.Option(min=0, help="Steady running before the first kill.")] = 60.0,
    json_file: JsonOption = None,
) -> None:
    """Run a node with files, a video and an LSL stream as sensors, then kill and restart every source in turn.

    While nothing is killed, every sensor has to be live. Each killed source has to be flagged, imputed, and live
    again, while the node goes on without missing a tick. Needs the extras audio and lsl.

    Examples:

      python -m benchmarks live_sensors runs/svae/bundle --seconds 60 --json live.json
    """
    run = import_extra("benchmarks.live_sensors.run", "the live sources")
    text = json.dumps(run.run_live_sensors(bundle, seconds), indent=1)
    if json_file is not None:
        write_json(json_file, text)
    if json_file is None or str(json_file) != "-":
        typer.echo(text)
