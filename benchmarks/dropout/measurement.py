"""The dropout benchmark on a virtual clock: every fault at every period and jitter, and false alarms by policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.dropout.episodes import (
    WINDOW_FAULTS,
    Bench,
    DropoutPlan,
    Episode,
    faults_of,
    make_bench,
    plan_episodes,
    play,
)
from engines.bundle import Manifest
from engines.measuring.interleaving import Say
from runtime.core.clock import NS_PER_S
from runtime.rig import Rig

_ALARM_MODALITY = "depth"
"""Silence is judged in the same way for every sensor; this one's messages are small, and each is a window."""


def measure_delays(
    rig: Rig, manifest: Manifest, samples: Mapping[str, npt.NDArray[Any]], plan: DropoutPlan, say: Say
) -> list[dict[str, Any]]:
    """One row for each (modality, fault, period, jitter), all in milliseconds."""
    kinds = [(s.modality, f) for s in rig.sensors for f in faults_of(s.kind)]
    rows = []
    for number, (modality, fault) in enumerate(kinds):
        say(f"{modality}: {fault}", number / len(kinds))
        for period_ms in plan.periods_ms:
            bench = make_bench(rig, manifest, modality, samples[modality], period_ms)
            for jitter in plan.jitters:
                # The same faults and the same draws of the delays at every jitter.
                seed = plan.seed + 1000 * number + round(period_ms)
                rng = np.random.default_rng(seed)
                episodes = plan_episodes(bench, fault, plan.repetitions, rng)
                seconds = (episodes[-1].end_ns - episodes[0].start_ns) / NS_PER_S * (
                    1 + 2 / plan.repetitions
                ) + 10
                run = play(bench, episodes, jitter, seconds, seed)
                rows.append(
                    {
                        "modality": modality,
                        "fault": fault,
                        "period_ms": 1000 * bench.period_s,
                        "jitter": jitter,
                        **_times(bench, fault, jitter, run.episodes),
                        "false_alarms": sum(run.false_alarms.values()),
                        "false_alarm_reasons": dict(run.false_alarms),
                        "good_s": run.good_s,
                    }
                )
    return rows


def _times(bench: Bench, fault: str, jitter: float, episodes: Sequence[Episode]) -> dict[str, Any]:
    # A clock that was set may be followed before a tick judges it; what is seen when it is set back does not count.
    found = [e for e in episodes if e.detected_ns is not None and e.detected_ns <= e.end_ns]
    delays = [(e.detected_ns - _truth_ns(e)) / 1e6 for e in found if e.detected_ns is not None]
    back = [(e.live_ns - e.back_ns) / 1e6 for e in found if e.live_ns is not None and e.back_ns is not None]
    least, rule = limits_ms(bench, fault, jitter, episodes)
    return {
        "minimum_ms": least,
        "rule_ms": rule,
        "delay_ms": summarize(delays),
        "undetected": len(episodes) - len(found),
        "states": dict(Counter(e.state for e in found)),
        "least_recovery_ms": least_recovery_ms(bench, fault),
        "recovery_ms": summarize(back),
        "unrecovered": len(found) - len(back),
    }


def _truth_ns(episode: Episode) -> int:
    if episode.fault in ("silence", "late") or episode.first_bad_ns is None:
        return episode.last_good_ns
    return episode.first_bad_ns


def limits_ms(bench: Bench, fault: str, jitter: float, episodes: Iterable[Episode]) -> tuple[float, float]:
    """Least possible delay and what the rule allows; see :mod:`benchmarks.dropout.episodes` for the formulas."""
    health, period_ms = bench.rig.health, 1000 * bench.period_s
    tick_ms = 1000 / bench.rig.tick.rate_hz
    if fault in ("silence", "late"):
        rule = max(health.silence_periods * period_ms, 1000 * health.silence_floor_s)
        return period_ms * (1 + jitter), rule
    if fault == "freeze":
        return 0.0, (health.frozen_frames - 2) * period_ms + tick_ms
    if fault == "clock_step":
        return 0.0, period_ms + tick_ms
    if fault == "nan":
        return 0.0, tick_ms
    if fault in WINDOW_FAULTS:
        told = [
            (e.least_ns - e.first_bad_ns) / 1e6
            for e in episodes
            if e.least_ns is not None and e.first_bad_ns is not None
        ]
        least = float(np.median(told)) if told else float("inf")
        # A window ends at the first message that completes a hop.
        return least, least + max(1000 * bench.spec.hop / bench.spec.rate_hz, period_ms)
    return 0.0, 0.0


def least_recovery_ms(bench: Bench, fault: str) -> float:
    """The least time to recovery: recover_frames good messages, and after a gap in the samples a whole window."""
    gap = fault in ("silence", "freeze", "nan", "clock_step") and bench.spec.window > 1
    whole = bench.window_s - bench.period_s if gap else 0.0
    return 1000 * max((bench.rig.health.recover_frames - 1) * bench.period_s, whole)


def measure_false_alarms(
    rig: Rig, manifest: Manifest, samples: Mapping[str, npt.NDArray[Any]], plan: DropoutPlan, say: Say
) -> list[dict[str, Any]]:
    """Good streams under each policy: one row for each (period, silence_periods, jitter).

    ``per_hour`` counts changes to ``missing`` by silence, ``others_per_hour`` all else (late data, mostly);
    ``per_hour_below`` is the 95 % bound where none was seen (three over the hours watched). Every policy sees the same
    arrivals.
    """
    modality = _ALARM_MODALITY if _ALARM_MODALITY in rig.modality_names else rig.modality_names[0]
    rows: list[dict[str, Any]] = []
    cells = [(p, j) for p in plan.alarm_periods_ms for j in plan.jitters]
    for number, (period_ms, jitter) in enumerate(cells):
        say("false alarms", number / len(cells))
        bench = make_bench(rig, manifest, modality, samples[modality], period_ms)
        seconds = plan.alarm_messages * bench.period_s
        for periods in plan.silence_periods:
            run = play(bench.with_silence(periods), [], jitter, seconds, plan.seed + number)
            silences = run.false_alarms["missing silence"]
            others = sum(run.false_alarms.values()) - silences
            hours = seconds / 3600
            rows.append(
                {
                    "period_ms": 1000 * bench.period_s,
                    "jitter": jitter,
                    "silence_periods": periods,
                    "limit_ms": 1000 * max(periods * bench.period_s, rig.health.silence_floor_s),
                    "false_alarms": silences,
                    "per_hour": silences / hours,
                    "per_hour_below": 3 / hours if not silences else None,
                    "others_per_hour": others / hours,
                    "hours": hours,
                }
            )
    return rows


def summarize(values: Sequence[float]) -> dict[str, float] | None:
    """``p50``, ``p95``, ``max`` and ``n``; None if there are no values."""
    if not values:
        return None
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": float(p50), "p95": float(p95), "max": max(values), "n": len(values)}


def measure(
    rig: Rig, manifest: Manifest, samples: Mapping[str, npt.NDArray[Any]], plan: DropoutPlan, say: Say
) -> dict[str, Any]:
    """False alarms, then delays; ready for JSON."""
    return {
        "plan": asdict(plan),
        "false_alarms": measure_false_alarms(rig, manifest, samples, plan, say),
        "delays": measure_delays(rig, manifest, samples, plan, say),
    }
