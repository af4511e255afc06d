"""The report of ``python -m benchmarks dropout`` for people: false alarms first, then delays, then the live part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def tables(report: Mapping[str, Any]) -> list[Table]:
    """False alarms by policy and jitter, and delays by fault and period at one jitter; the report has all jitters."""
    return [_alarms(report), _delays(report)]


def _alarms(report: Mapping[str, Any]) -> Table:
    rows = report["false_alarms"]
    jitters = sorted({r["jitter"] for r in rows})
    table = Table(title="false alarms per hour (silence), by jitter (half-normal, scale over the period)")
    for name in ("period", "silence_periods", "limit", *(f"{j:.0%}" for j in jitters)):
        table.add_column(name, justify="right")
    cells = {(r["period_ms"], r["silence_periods"], r["jitter"]): r for r in rows}
    for period, periods in sorted({(p, s) for p, s, _ in cells}):
        of = [cells[period, periods, j] for j in jitters]
        shown = [
            f"{r['per_hour']:,.1f}" if r["false_alarms"] else f"< {r['per_hour_below']:,.1f}" for r in of
        ]
        table.add_row(f"{period:.0f} ms", f"{periods:g}", f"{of[0]['limit_ms']:.0f} ms", *shown)
    return table


def _delays(report: Mapping[str, Any]) -> Table:
    jitters = sorted({r["jitter"] for r in report["delays"]})
    shown = jitters[min(1, len(jitters) - 1)] if jitters else 0.0
    table = Table(title=f"detection and recovery, ms (median, worst), at a jitter of {shown:.0%}")
    columns = ("sensor", "fault", "period", "min", "rule", "found after", "missed", "live again")
    for name in columns:
        table.add_column(name, justify="left" if name in ("sensor", "fault") else "right")
    for r in (r for r in report["delays"] if r["jitter"] == shown):
        table.add_row(
            r["modality"],
            r["fault"],
            f"{r['period_ms']:.0f}",
            f"{r['minimum_ms']:.0f}",
            f"{r['rule_ms']:.0f}",
            _median_and_worst(r["delay_ms"]),
            str(r["undetected"]),
            _median_and_worst(r["recovery_ms"]),
        )
    return table


def _median_and_worst(of: Mapping[str, float] | None) -> str:
    return "-" if of is None else f"{of['p50']:.0f}, {of['max']:.0f}"


def summary(report: Mapping[str, Any]) -> str:
    """The live part in words."""
    live = report.get("live")
    if not live or live["delay_ms"] is None:
        return "live: not measured"
    client, over = live["delay_at_client_ms"], live["over_rule_ms"]
    return (
        f"live: {live['delay_ms']['n']} silences found, {live['undetected']} not; p95 {client['p95']:.1f} ms from the "
        f"end of data to the client; the node is {over['p95']:+.1f} ms from its rule (p95); {live['missed_ticks']} "
        f"ticks missed; largest gap between decisions around a fault {live['largest_gap_ms']:.1f} ms"
    )
