"""``afterimage import``: files of other programs as sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afterimage.cli.arguments import RigOption

if TYPE_CHECKING:
    from runtime.sessions.importing import Imported


def import_file(
    file: Annotated[Path, typer.Argument(help="XDF, FIF, EDF, BDF or BrainVision.", exists=True)],
    out: Annotated[Path, typer.Argument(help="A folder of sessions, or the session's file (.mcap).")],
    rig: RigOption = "commands-4",
    stream: Annotated[
        list[str] | None,
        typer.Option(help="SENSOR=NAME: name or type of the stream that a sensor becomes; repeatable."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="What markers mean (YAML); see docs/own-data.md.", exists=True, dir_okay=False),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            help="A table of onset, duration, label in seconds (CSV, BIDS events.tsv).", exists=True
        ),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of the whole session, such as person=ada; repeatable."),
    ] = None,
) -> None:
    """Write a file as a session: all its streams that the rig has a sensor for, and its markers as labels.

    Times and holes are the file's own. Each sensor's `transform` in the rig is applied. Markers that become no label
    are counted and shown. Without --labels, markers that have a duration are labels by their own text.

    Examples:

      afterimage import monday.xdf sessions/ --rig my-rig.yaml --stream emg=obci_eeg1 --labels markers.yaml

      afterimage import run-01.edf sessions/ --rig my-rig.yaml --events run-01_events.tsv --tag person=ada
    """
    from runtime.rig import load_rig
    from runtime.sessions.importing import import_recording
    from runtime.sessions.markers import load_marker_map, read_events_table

    imported = import_recording(
        file,
        out,
        load_rig(rig),
        streams=pairs("--stream", stream),
        meanings=load_marker_map(labels) if labels else None,
        events=read_events_table(events, 0) if events else (),
        tags=pairs("--tag", tag),
    )
    _show(imported)


def pairs(option: str, items: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` items as a map."""
    found = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{option} takes NAME=VALUE, got {item!r}")
        found[name] = value
    return found


def _show(imported: Imported) -> None:
    for modality, count in imported.samples.items():
        typer.echo(f"{imported.path}: {count} samples of {modality}, {imported.gaps[modality]} gaps")
    for author, report in imported.markers.items():
        counts = ", ".join(f"{name} {n}" for name, n in sorted(report.labels.items())) or "none"
        typer.echo(f"labels by {author}: {counts}")
        for problem in report.problems():
            typer.echo(f"  {problem}", err=True)
    if imported.unused:
        typer.echo(f"streams that no sensor took: {', '.join(imported.unused)}", err=True)
