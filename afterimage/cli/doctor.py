"""``afterimage doctor``: what this machine can build and run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the inference backends: which can build an engine here, which can run one, and what is missing.

    Also the processor, and whether int8 can pay on it. Exit code 1 if nothing can run.

    Examples:

      afterimage doctor

      afterimage doctor --json
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from afterimage.bench.machine import describe_machine, int8_note
    from engines.backends.availability import available_backends

    found, machine = available_backends(), describe_machine()
    if as_json:
        typer.echo(json.dumps({"backends": [asdict(b) for b in found], "machine": machine}, indent=1))
    else:
        table = Table("backend", "version", "builds", "runs", "what is missing")
        for b in found:
            marks = ["[green]yes[/]" if ok else "[red]no[/]" for ok in (b.can_build, b.can_run)]
            table.add_row(b.name, b.version or "–", *marks, escape(b.reason))
        console = Console()
        console.print(table)
        features = machine["features"] or {}
        has = ", ".join(n for n, there in features.items() if there) or "none of those that matter here"
        memory = f"{machine['memory_mib'] / 1024:.1f} GiB" if machine["memory_mib"] else "unknown"
        console.print(
            f"{machine['processor']} ({machine['architecture']}), {machine['cores']} cores, memory {memory}; "
            f"vector instructions: {has}\n{int8_note(machine['features'])}",
            highlight=False,
            markup=False,
        )
    if not any(b.can_run for b in found):
        raise typer.Exit(1)
