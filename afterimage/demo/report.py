"""The demo's report: one dictionary that programs read, and the tables that people read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from afterimage.demo.recording import LiveRecording
from afterimage.demo.scoring import (
    accuracy_by_pattern,
    detection_delays,
    false_alarms,
    percentiles,
    recovery_times,
)
from engines.bundle import Manifest
from runtime.rig import Rig


def live_report(
    recording: LiveRecording, rig: Rig, manifest: Manifest, span_s: tuple[float, float]
) -> dict[str, Any]:
    """What the live run showed: detection, recovery, false alarms, accuracy of settled ticks, latency.

    Args:
        recording: the run.
        rig: its sensors, for their periods.
        manifest: of the bundle that ran.
        span_s: seconds of the run that count.
    """
    names = manifest.modality_names
    faults = recording.faults()
    window_s = {m.name: m.window / m.rate_hz for m in manifest.modalities}
    # A modality is trusted again once a whole window has arrived since the fault, plus a hop and a margin.
    recovery_s = {m.name: window_s[m.name] + m.hop / m.rate_hz + 0.5 for m in manifest.modalities}
    delays = detection_delays(recording.health, faults)
    noticed = {}
    for kind in sorted({f.kind for f in faults} - {"silence"}):
        for modality, values in detection_delays(recording.health, faults, kind).items():
            noticed[f"{kind} {modality}"] = percentiles(milliseconds(values), 50, 95)
    tick_s = 1 / rig.tick.rate_hz
    bound = {
        s.modality: 1e3 * (max(rig.health.silence_periods * s.period_s, rig.health.silence_floor_s) + tick_s)
        for s in rig.sensors
    }
    return {
        "detection_ms": {
            n: {
                **percentiles(milliseconds(delays.get(n, [])), 50, 95),
                "bound": bound[n],
                "faults": len(delays.get(n, [])),
            }
            for n in names
        },
        "other_faults_detection_ms": noticed,
        "recovery_ms": {
            n: percentiles(milliseconds(v), 50, 95)
            for n, v in recovery_times(recording.health, faults).items()
        },
        "false_alarms_per_hour": false_alarms(recording.health, faults, names, span_s, recovery_s),
        "live_accuracy": accuracy_by_pattern(recording.ticks, names),
        "latency_ms": {
            "frame_to_decision": percentiles([t.frame_to_decision_ms for t in recording.ticks], 50, 99),
            "tick": percentiles([t.lateness_ms for t in recording.ticks], 50, 99),
        },
    }


def milliseconds(seconds: Sequence[float]) -> list[float]:
    """Seconds to milliseconds."""
    return [1e3 * s for s in seconds]


def json_ready(value: Any) -> Any:
    """The value with None for infinities and NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def accuracy_table(accuracy: Mapping[str, Mapping[str, float]]) -> Table:
    """Accuracy per pattern of present sensors under ``impute``, ``hold``, ``zero``; the best of a row is marked."""
    table = Table(title="accuracy on the test split, by the sensors that are left", title_justify="left")
    table.add_column("sensors present")
    policies = list(accuracy)
    for policy in policies:
        table.add_column(policy, justify="right")
    for pattern in accuracy[policies[0]]:
        row = [accuracy[p].get(pattern, float("nan")) for p in policies]
        best = max(row)
        table.add_row(pattern, *(f"[bold green]{v:.3f}[/]" if v == best else f"{v:.3f}" for v in row))
    return table


def summary_table(report: Mapping[str, Any]) -> Table:
    """Per modality: how fast silence was noticed, false alarms, and how good its imputations are."""
    table = Table(title="per sensor", title_justify="left")
    for heading in (
        "sensor",
        "silence noticed p95",
        "bound",
        "false alarms/h",
        "imputed recognised",
        "NMSE",
        "class mean",
    ):
        table.add_column(heading, justify="left" if heading == "sensor" else "right")
    for name, delay in report["detection_ms"].items():
        quality = report["imputation"].get(name, {})
        table.add_row(
            name,
            _number(delay["p95"], "{:.0f} ms"),
            _number(delay["bound"], "{:.0f} ms"),
            _number(report["false_alarms_per_hour"][name], "{:.1f}"),
            _number(quality.get("semantic_accuracy"), "{:.3f}")
            + _number(quality.get("judge_accuracy"), " (judge on real {:.3f})", ""),
            _number(quality.get("nmse"), "{:.3f}"),
            _number(quality.get("baseline_mean_nmse"), "{:.3f}"),
        )
    return table


def _number(value: float | None, form: str, absent: str = "–") -> str:
    return absent if value is None or not math.isfinite(value) else form.format(value)
