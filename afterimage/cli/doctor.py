"""``afterimage doctor``: what this machine can build and run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from runtime.sensors.inspection import SensorReport


def doctor(
    rig: Annotated[
        str | None,
        typer.Option(
            help="Also open and read every sensor of this rig (name or file), and report what is wrong."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to read the sensors.", min=0.1)] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the inference backends: which can build an engine here, which can run one, and what is missing.

    Also the processor, and whether int8 is faster on it. Exit code 1 if no backend can run, or a sensor is not good.

    Examples:

      afterimage doctor

      afterimage doctor --rig my-rig.yaml

      afterimage doctor --json
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from engines.backends.availability import available_backends
    from engines.measuring.machine import describe_machine, int8_note

    found, machine = available_backends(), describe_machine()
    sensors = _inspected(rig, seconds)
    if as_json:
        report = {"backends": [asdict(b) for b in found], "machine": machine}
        if rig is not None:
            report["sensors"] = [asdict(s) | {"good": s.good} for s in sensors]
        typer.echo(json.dumps(report, indent=1))
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
        if rig is not None:
            console.print(sensor_table(sensors))
            for line in _remarks(sensors):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not any(b.can_run for b in found) or not all(s.good for s in sensors):
        raise typer.Exit(1)


def _inspected(rig: str | None, seconds: float) -> Sequence[SensorReport]:
    if rig is None:
        return ()
    from runtime.rig import load_rig
    from runtime.sensors.inspection import inspect_rig

    return inspect_rig(load_rig(rig), seconds=seconds)


def sensor_table(sensors: Sequence[SensorReport]) -> Table:
    """A row per sensor: what was read from it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("sensor", "source", "good", "rate", "between messages", "age", "samples", "clock")
    for s in sensors:
        interval, age = (
            f"{of['p50']:.1f} ms, p99 {of['p99']:.1f}" if of else "" for of in (s.interval_ms, s.age_ms)
        )
        samples = f"{s.shape} {s.dtype} {s.unit}" if s.dtype else ""
        clock = f"{s.clock} {s.offset_ns / 1e6:+.3f} ± {s.uncertainty_ns / 1e6:.3f} ms" if s.clock else ""
        rate = "" if s.rate_hz is None else f"{s.rate_hz:.1f} Hz"
        mark = "[green]yes[/]" if s.good else "[red]no[/]"
        table.add_row(s.modality, escape(s.source), mark, rate, interval, age, escape(samples), escape(clock))
    return table


def _remarks(sensors: Sequence[SensorReport]) -> list[str]:
    return [f"{s.modality}: {text}" for s in sensors for text in (*s.problems, *s.notes)]
