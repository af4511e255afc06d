"""``afterimage watch``: follow a node on a live page, or in the terminal."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from afterimage.cli.arguments import KeysOption, RigOption, ServerKeyOption, read_keys
from runtime.stopping import stop_on_signals

if TYPE_CHECKING:
    from runtime.transport.keys import Keys

_NOTHING_CAME = "afterimage: no decision came; is a node running? start one with `afterimage run`"


def watch(
    rig: RigOption = "commands-4",
    endpoint: Annotated[
        str | None, typer.Option(help="The node's decisions endpoint. Default: the rig's.")
    ] = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
    terminal: Annotated[
        bool, typer.Option("--terminal", help="Show one live line in this terminal instead of the page.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON object per line instead of the page.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="Address on which the page is served; beyond this machine it needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            help="Port of the page; 0: any free one. Default: 8765, or a free one.", min=0, max=65535
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Token needed to read the page. Default: none on this machine, a random one beyond it.",
            envvar="AFTERIMAGE_TOKEN",
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")
    ] = None,
) -> None:
    """Show a node's decisions and what they stand on: every sensor beside its imputation, states, latencies.

    Serves one page for browsers, with /metrics for Prometheus and /health. With --terminal or --json it writes each
    decision to the terminal instead. Exit code 1 if no decision came.

    Examples:

      afterimage watch

      afterimage watch --host 0.0.0.0 --port 8765 --no-browser

      afterimage watch --terminal

      afterimage watch --json --seconds 5 > decisions.jsonl
    """
    own = read_keys(keys, server_key)
    stop = stop_on_signals()
    if terminal or as_json:
        came = _watch_in_terminal(rig, endpoint, own, seconds, stop, as_json=as_json)
    else:
        from runtime.client import Client
        from runtime.view.serving import PageOptions, serving_page

        client = Client(rig, ("fused", "health", "statistics"), endpoint=endpoint, keys=own)
        options = PageOptions(host, port, token, browser=not no_browser)
        with serving_page(
            client, options, lambda line: typer.echo(f"{line} (Ctrl-C ends it)", err=True)
        ) as feed:
            stop.wait(seconds)
            came = feed.decisions
    if not came:
        typer.echo(_NOTHING_CAME, err=True)
        raise typer.Exit(1)


def _watch_in_terminal(
    rig: str,
    endpoint: str | None,
    keys: Keys | None,
    seconds: float | None,
    stop: threading.Event,
    *,
    as_json: bool,
) -> int:
    """Write what comes; gives the number of messages."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.live import Live

    from runtime.client import Client
    from runtime.wire import Decision, HealthEvent

    until = float("inf") if seconds is None else time.monotonic() + seconds
    console = Console()
    seen, drawn_s = 0, 0.0
    with (
        Client(rig, endpoint=endpoint, keys=keys) as client,
        Live(console=console, auto_refresh=False) as live,
    ):
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            message = client.receive(timeout_s=min(left, 0.2))
            if not isinstance(message, (Decision, HealthEvent)):
                continue
            seen += 1
            if as_json:
                typer.echo(json.dumps({"type": type(message).__name__.lower()} | asdict(message)))
            elif isinstance(message, HealthEvent):
                console.print(f"{message.modality}: {message.previous} -> {message.state} ({message.reason})")
            elif time.monotonic() - drawn_s > 0.1:
                live.update(_line(message), refresh=True)
                drawn_s = time.monotonic()
    return seen


def _line(decision: object) -> str:
    from runtime.wire import Decision

    assert isinstance(decision, Decision)
    sensors = "  ".join(
        f"{m} [bold magenta]IMPUTED ({r.state})[/]" if r.imputed else f"{m} [green]{r.state}[/]"
        for m, r in decision.modalities.items()
    )
    return f"[bold]{decision.label}[/] {decision.probabilities[decision.label]:.2f}   {sensors}   tick {decision.tick}"
