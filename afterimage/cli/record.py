"""``afterimage record``: write what a node receives and decides to an MCAP file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import KeysOption, RigOption, ServerKeyOption, read_keys
from runtime.stopping import stop_on_signals


def record(
    out: Annotated[
        Path | None, typer.Argument(help="A new file. Default: RIG-DATE-TIME.mcap in this folder.")
    ] = None,
    rig: RigOption = "commands-4",
    endpoint: Annotated[
        str | None, typer.Option(help="The node's decisions endpoint. Default: the rig's.")
    ] = None,
    observations: Annotated[
        bool,
        typer.Option("--observations", help="Record observations too; the node then decodes on every tick."),
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")
    ] = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Record a node's frames, health and decisions to MCAP, which any MCAP reader opens.

    It may start while the node runs. Only a recording that begins with the node replays bit for bit:
    `afterimage run --record FILE`. If this process is killed, the file is readable up to its last chunk.

    Exit code 1 if no message came.

    Examples:

      afterimage record session.mcap

      afterimage record --seconds 60 --observations
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from runtime.record.recorder import record as run
    from runtime.record.writer import RecordingWriter, default_name
    from runtime.rig import load_rig

    loaded = load_rig(rig)
    path = out or default_name(loaded.name)
    stop = stop_on_signals()
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def report(writer: RecordingWriter) -> None:
            size = path.stat().st_size / 1e6
            live.update(
                Text(f"{path}: {sum(writer.received.values())} messages, {size:.1f} MB"), refresh=True
            )

        writer = run(
            loaded,
            path,
            stop,
            endpoint=endpoint,
            observations=observations,
            until_s=seconds,
            report=report,
            keys=read_keys(keys, server_key),
        )
    received, lost = sum(writer.received.values()), sum(writer.lost.values())
    typer.echo(f"{path}: {received} messages, {lost} lost", err=True)
    if not received:
        typer.echo(
            "afterimage: no message came; is a node running? start one with `afterimage run`", err=True
        )
        raise typer.Exit(1)
