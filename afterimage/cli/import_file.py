"""``afterimage import``: an EEG file as a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import RigOption


def import_file(
    file: Annotated[Path, typer.Argument(help="XDF, FIF, EDF, BDF or BrainVision.", exists=True)],
    out: Annotated[Path, typer.Argument(help="The recording to write (MCAP); it must not exist yet.")],
    rig: RigOption = "commands-4",
    modality: Annotated[str, typer.Option(help="The sensor of the rig whose data the file holds.")] = "eeg",
    stream: Annotated[
        str | None, typer.Option(help="XDF: name or type of the stream, if the file has several.")
    ] = None,
) -> None:
    """Write an EEG file as a recording, through the `transform` that the rig declares for that sensor.

    Examples:

      afterimage import session.xdf session.mcap --rig my-rig.yaml

      afterimage replay session.mcap runs/svae/bundle --free
    """
    from runtime.rig import load_rig
    from runtime.sensors.importing import import_eeg_file

    frames = import_eeg_file(file, out, load_rig(rig), modality, stream=stream)
    typer.echo(f"{out}: {frames} frames of {modality}")
