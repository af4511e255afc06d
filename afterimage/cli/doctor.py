"""``afterimage doctor``: what this machine can build and run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the inference backends: which can build an engine here, which can run one, and what is missing.

    Exit code 1 if nothing can run.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from engines.backends.availability import available_backends

    found = available_backends()
    if as_json:
        typer.echo(json.dumps([asdict(b) for b in found], indent=1))
    else:
        table = Table("backend", "version", "builds", "runs", "note")
        for b in found:
            marks = ["[green]yes[/]" if ok else "[red]no[/]" for ok in (b.can_build, b.can_run)]
            table.add_row(b.name, b.version or "–", *marks, escape(b.reason))
        Console().print(table)
    if not any(b.can_run for b in found):
        raise typer.Exit(1)
