"""The report of ``afterimage bench latency``: what is measured, its ratios, and what people read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from afterimage.bench.latency.measurement import ARRIVAL, FLOOR, RATE, measure_case
from engines.measuring.machine import describe_machine
from runtime.rig import Rig

HEADLINE = "rgb"
"""The modality whose figures are the report's own: each of a camera's frames is a window, and brings a decision."""

ROUNDS = {"rgb": 6, "depth": 4, "audio": 4, "eeg": 4}
QUICK_ROUNDS = {HEADLINE: 2}

CONTENDERS = {
    FLOOR: "floor: raw ZeroMQ and the engine's calls",
    ARRIVAL: "Afterimage, a tick on arrival",
    RATE: "Afterimage, ticks at 20 Hz",
}

MeasureCase = Callable[..., dict[str, Any]]
"""As :func:`~afterimage.bench.latency.measurement.measure_case`, with its contenders chosen."""


def measure_latency(
    bundle: Path,
    rig: Rig,
    *,
    quick: bool = False,
    measure: MeasureCase = measure_case,
    compared_with: Sequence[str] = (FLOOR,),
    say: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure every modality.

    Args:
        bundle: of commands-4.
        rig: that feeds it.
        quick: one modality, few turns.
        measure: measures one modality.
        compared_with: contenders over whose latency Afterimage's is reported.
        say: told what is being measured.

    Returns:
        ``machine``; ``headline``, and ``floor``, ``afterimage``, ``ratios``, ``tick_overhead_us`` and ``imputed`` of
        that modality; ``modalities``: all that was measured of each.

    Raises:
        ProcessError: a process of the benchmark failed.
    """
    cases = {
        m: measure(bundle, rig, m, rounds, imputed="depth" if m == HEADLINE else None, say=say)
        for m, rounds in (QUICK_ROUNDS if quick else ROUNDS).items()
    }
    headline = cases[HEADLINE]
    return {
        "machine": describe_machine(),
        "headline": HEADLINE,
        "floor": headline[FLOOR],
        "afterimage": headline[ARRIVAL],
        "ratios": ratios(headline, compared_with),
        "tick_overhead_us": headline["tick_overhead_us"],
        "imputed": headline["imputed"],
        "modalities": {m: case | {"ratios": ratios(case, compared_with)} for m, case in cases.items()},
    }


def ratios(case: Mapping[str, Any], compared_with: Iterable[str]) -> dict[str, float]:
    """Afterimage's latency over that of others, p50 and p99; without those that took no part in the case."""
    return {
        f"vs_{other}_{p}": round(case[ARRIVAL][f"{p}_us"] / case[other][f"{p}_us"], 3)
        for other in compared_with
        if other in case
        for p in ("p50", "p99")
    }


def latency_table(report: Mapping[str, Any], contenders: Mapping[str, str] = CONTENDERS) -> Table:
    """For people: every contender's latency for each sensor.

    Args:
        report: of :func:`measure_latency`.
        contenders: name -> words for it, in order.
    """
    latency = Table(title="From a frame's publication to its decision's arrival, ms")
    for heading in ("sensor", "contender", "p50", "p99", "over the floor, p50", "p99", "frames"):
        latency.add_column(heading, justify="left" if heading in ("sensor", "contender") else "right")
    for modality, case in report["modalities"].items():
        for name, words in contenders.items():
            if name not in case:
                continue
            own, floor = case[name], case[FLOOR]
            over = [f"{own[f'{p}_us'] / floor[f'{p}_us']:.2f}" for p in ("p50", "p99")]
            times = [f"{own[f'{p}_us'] / 1e3:.2f}" for p in ("p50", "p99")]
            latency.add_row(modality, words, *times, *over, str(own["count"]))
    return latency


def latency_summary(report: Mapping[str, Any]) -> str:
    """What the table does not show, in words."""
    imputed, own = report["imputed"], report["tick_overhead_us"]
    return (
        f"imputed depth arrives {imputed['p50_us'] / 1e3:.2f} ms (p50), {imputed['p99_us'] / 1e3:.2f} ms (p99) "
        f"after the {report['headline']} frame it was made from\n"
        f"a tick takes the node {own['p50']:.0f} us (p50) besides the engine's calls"
    )
