"""``afterimage watch``: follow a node's decisions in the terminal."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from afterimage.cli.arguments import RigOption


def watch(
    rig: RigOption = "commands-4",
    endpoint: Annotated[
        str | None, typer.Option(help="The node's decisions endpoint. Default: the rig's.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line instead of a live line.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")
    ] = None,
) -> None:
    """Show each decision as it comes: label, probability, the state of every sensor, and what was imputed.

    Exit code 1 if nothing came.

    Examples:

      afterimage watch

      afterimage watch --json --seconds 5 > decisions.jsonl
    """
    import time
    from dataclasses import asdict

    from rich.console import Console
    from rich.live import Live

    from runtime.client import Client
    from runtime.wire import Decision

    until = float("inf") if seconds is None else time.monotonic() + seconds
    console = Console()
    seen, drawn_s = 0, 0.0
    with Client(rig, endpoint=endpoint) as client, Live(console=console, auto_refresh=False) as live:
        while (left := until - time.monotonic()) > 0:
            message = client.receive(timeout_s=min(left, 1.0))
            if message is None:
                continue
            seen += 1
            if as_json:
                typer.echo(json.dumps({"type": type(message).__name__.lower()} | asdict(message)))
            elif not isinstance(message, Decision):
                console.print(f"{message.modality}: {message.previous} -> {message.state} ({message.reason})")
            elif time.monotonic() - drawn_s > 0.1:
                live.update(_line(message), refresh=True)
                drawn_s = time.monotonic()
    if not seen:
        typer.echo(
            "afterimage: no decision came; is a node running? start one with `afterimage run`", err=True
        )
        raise typer.Exit(1)


def _line(decision: object) -> str:
    from runtime.wire import Decision

    assert isinstance(decision, Decision)
    sensors = "  ".join(
        f"{m} [bold magenta]IMPUTED ({r.state})[/]" if r.imputed else f"{m} [green]{r.state}[/]"
        for m, r in decision.modalities.items()
    )
    return f"[bold]{decision.label}[/] {decision.probabilities[decision.label]:.2f}   {sensors}   tick {decision.tick}"
