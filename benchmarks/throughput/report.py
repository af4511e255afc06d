"""The report of ``python -m benchmarks throughput`` as tables that people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


def throughput_tables(report: Mapping[str, Any]) -> list[Table]:
    """A table each for sensors alone and together, the cost of a message, and rigs on a core."""
    tables = [_loads(report), _costs(report)]
    return [*tables, _rigs(report)] if report["rigs_per_core"] else tables


def _loads(report: Mapping[str, Any]) -> Table:
    table = Table(title="messages a second until the first drop", box=SIMPLE_HEAD)
    table.add_column("sensor")
    table.add_column("over")
    for column in ("carried", "MB/s", "too much", "why", "sheds from", "limit"):
        table.add_column(column, justify="right")
    for row in report["single"]:
        megabytes = row["carried_hz"] * row["message_bytes"] / 1e6
        table.add_row(
            row["modality"] if row["size"] == "small" else f"{row['modality']} {row['size']}",
            row["transport"],
            f"{row['carried_hz']:,.0f}",
            f"{megabytes:,.1f}",
            *_end(row),
        )
    for size, row in report["together"].items():
        of_all = sum(row["rates_hz"].values())
        table.add_row(
            "all" if size == "small" else f"all {size}",
            "ipc",
            f"{row['carried_hz']:,.0f}",
            "",
            *_end(row, of_all),
        )
    return table


def _end(row: Mapping[str, Any], each: float = 1.0) -> tuple[str, str, str, str]:
    """Where and why it ended; ``each`` is how many messages per second a load of 1 is."""

    def load(value: float | None) -> str:
        return "-" if value is None else f"{value * each:,.0f}"

    return load(row["broken_at"]), row["broken_by"] or "-", load(row["engine_full_at"]), row["limit"]


def _costs(report: Mapping[str, Any]) -> Table:
    idle = report["cpu_per_message"]["idle"]["node"]
    table = Table(
        title=f"CPU of the node per message, engine aside (idle tick: {idle['us_per_tick']:.0f} µs)"
    )
    table.add_column("sensor")
    for column in ("at", "messages", "node thread µs", "bare socket µs", "process µs", "engine µs"):
        table.add_column(column, justify="right")
    for modality, of in report["cpu_per_message"].items():
        for cost in of.values() if modality != "idle" else ():
            table.add_row(
                modality,
                f"{cost['hz']:,.0f} Hz",
                str(cost["messages"]),
                *(f"{cost[k]:,.0f}" for k in ("node_us", "bare_us", "process_us", "engine_us")),
            )
    return table


def _rigs(report: Mapping[str, Any]) -> Table:
    table = Table(title="rigs on one core")
    table.add_column("hosted by")
    for column in ("carried", "too much at", "because of", "windows shed from", "windows per call", "limit"):
        table.add_column(column, justify="right")
    for name, row in report["rigs_per_core"].items():
        steps = {s["load"]: s for s in row["steps"]}
        batched = steps[row["carried"]]["rows_per_call"] if row["carried"] in steps else None
        broken_at, broken_by, full_at, limit = _end(row)
        table.add_row(
            {"one_node": "one node", "own_nodes": "a node each"}[name],
            f"{row['carried']:.0f}",
            broken_at,
            broken_by,
            full_at,
            "-" if batched is None else f"{batched:.1f}",
            limit,
        )
    return table
