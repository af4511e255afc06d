"""The report of a soak for people: tables and a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

_ACCEPTED = ("superseded", "broken_window", "corrupt", "frozen")
"""Reasons for which messages are dropped that were accepted first."""


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Where every message went, and which faults were injected."""
    return [_message_table(report), _fault_table(report)]


def summary(report: Mapping[str, Any]) -> str:
    """The figures in a few lines, and every disagreement."""
    ticks = report["ticks"]
    lines = [
        f"{report['messages']:,} messages in {report['seconds']:,.0f} s ({report['messages_per_s']:,.0f}/s, "
        f"{report['virtual_seconds'] / 3600:.2f} h of the node's time), seed {report['seed']}: "
        f"{report['unaccounted']} unaccounted for",
        "memory after the warm-up, per million messages: "
        + ", ".join(
            f"{what} {_slope(report[key + '_slope' + unit + '_per_million'], report[key + '_slope_se'])}"
            for what, key, unit in (
                ("resident kB", "rss", "_kb"),
                ("heap in use kB", "heap", "_kb"),
                ("Python blocks", "blocks", ""),
                ("Python objects", "objects", ""),
            )
        ),
        f"ticks: {ticks['published']:,} published, {ticks['missed']} missed, {ticks['read']:,} read; deadlines are off "
        f"by at most {report['deadline_drift_ns']:g} ns after {report['virtual_seconds']:,.0f} s",
        f"lost in full queues, where that was meant: {report['lost_in_queues']:,}",
    ]
    wrong = report["discrepancies"]
    lines.append(
        f"the node's counters and the ledgers of what was sent: {len(wrong)} disagreements" if wrong
        else "the node's counters and the ledgers of what was sent agree"
    )  # fmt: skip
    return "\n".join([*lines, *(f"  {line}" for line in wrong)])


def _slope(value: float | None, error: float | None) -> str:
    return "not measured" if value is None else f"{value:+,.1f} ± {error:,.1f}"


def _message_table(report: Mapping[str, Any]) -> Table:
    counters = report["counters"]
    parts = {**counters["modalities"], "no modality": counters["unattributed"]}
    table = Table(title="where every message went, as the node counted")
    table.add_column("", no_wrap=True)
    for name in (*parts, "in all"):
        table.add_column(name, justify="right")
    sent = {m: n for m, n in report["sent"].items() if m != "astray"}
    sent["no modality"] = report["sent"]["astray"] + report["hellos"]
    _row(table, "sent", [sent[name] for name in parts])
    for what in ("received", "used", "pending"):
        _row(table, what, [of[what] for of in parts.values()])
    for reason in sorted(counters["dropped"], key=lambda r: (r in _ACCEPTED, r)):
        _row(table, f"dropped: {reason}", [of["dropped"].get(reason, 0) for of in parts.values()])
    _row(table, "unaccounted", [of["unaccounted"] for of in parts.values()])
    for what in ("lost", "restarts", "clock_reanchored"):
        _row(table, what, [of.get(what, 0) for of in parts.values()])
    return table


def _fault_table(report: Mapping[str, Any]) -> Table:
    injected: Mapping[str, Mapping[str, int]] = report["injected"]
    table = Table(title="faults that were injected")
    table.add_column("", no_wrap=True)
    for name in (*injected, "in all"):
        table.add_column(name, justify="right")
    every: Counter[str] = Counter()
    for of in injected.values():
        every.update(of)
    for kind in sorted(every):
        _row(table, kind, [of.get(kind, 0) for of in injected.values()])
    return table


def _row(table: Table, what: str, numbers: list[int]) -> None:
    table.add_row(what, *(f"{n:,}" if n else "·" for n in (*numbers, sum(numbers))))
