"""What a live run showed: pure functions from recorded ticks, health events and the fault schedule to figures.

Times are seconds since the run's start, on the node's clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engines.bundle import pattern_key


@dataclass(frozen=True)
class TickRecord:
    """One published decision, with the truth beside it.

    Attributes:
        time_s: when its deadline was.
        label: the decision; ``truth`` is what played at that time.
        settled: every window that the tick trusted began after the truth last changed (see :func:`is_settled`).
        states: modality -> health state.
        imputed: modalities that the model filled in.
        probabilities: of the classes, in the bundle's order.
        others: policy -> the label that policy would have given on the same tick.
        frame_to_decision_ms: from the newest contributing capture to publishing, as the node measured it.
        lateness_ms: published after its deadline.
    """

    time_s: float
    label: str
    truth: str
    settled: bool
    states: Mapping[str, str]
    imputed: tuple[str, ...]
    probabilities: tuple[float, ...]
    others: Mapping[str, str] = field(default_factory=dict)
    frame_to_decision_ms: float = float("nan")
    lateness_ms: float = float("nan")


@dataclass(frozen=True)
class HealthRecord:
    """One change of a modality's state."""

    time_s: float
    modality: str
    before: str
    after: str
    reason: str


@dataclass(frozen=True)
class FaultInterval:
    """When one modality was broken, and how."""

    modality: str
    kind: str
    start_s: float
    end_s: float


EXPECTED_STATE = {
    "silence": ("missing",),
    "freeze": ("frozen",),
    "rail": ("corrupt",),
    "holes": ("corrupt",),
    "clip": ("corrupt",),
    "stale": ("implausible",),
}
"""Fault kind -> the states that count as having noticed it."""


def is_settled(time_s: float, changed_s: float, window_s: Mapping[str, float], live: Iterable[str]) -> bool:
    """Whether every trusted window lies after the last change of class at ``changed_s``.

    A window that straddles the change holds two classes; a decision on it has no single truth.
    """
    longest = max((window_s[m] for m in live), default=0.0)
    return time_s - changed_s > longest + 0.1


def accuracy_by_pattern(
    ticks: Sequence[TickRecord], names: tuple[str, ...]
) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy of settled ticks per policy and presence pattern.

    Returns:
        policy -> pattern key -> ``{"accuracy", "ticks"}``; only patterns that occurred.
    """
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for t in ticks:
        if not t.settled:
            continue
        key = pattern_key(names, tuple(int(t.states[n] == "live") for n in names))
        hits["impute", key].append(t.label == t.truth)
        for policy, label in t.others.items():
            hits[policy, key].append(label == t.truth)
    table: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (policy, key), h in hits.items():
        table[policy][key] = {"accuracy": float(np.mean(h)), "ticks": len(h)}
    return dict(table)


def detection_delays(
    events: Sequence[HealthRecord], faults: Sequence[FaultInterval], kind: str | None = "silence"
) -> dict[str, list[float]]:
    """Seconds from a fault's start until the state that names it, per modality.

    A fault that was never noticed before it ended counts as ``inf``, so it cannot hide.

    Args:
        events: state changes in order.
        faults: what was broken when.
        kind: only faults of this kind; None for all.
    """
    delays: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        if kind is not None and fault.kind != kind:
            continue
        wanted = EXPECTED_STATE.get(fault.kind, ())
        seen = [
            e.time_s - fault.start_s
            for e in events
            if e.modality == fault.modality and e.after in wanted and fault.start_s <= e.time_s <= fault.end_s
        ]
        delays[fault.modality].append(min(seen, default=float("inf")))
    return dict(delays)


def false_alarms(
    events: Sequence[HealthRecord],
    faults: Sequence[FaultInterval],
    names: Iterable[str],
    span_s: tuple[float, float],
    recovery_s: Mapping[str, float],
) -> dict[str, float]:
    """Alarms per hour of healthy time: departures from ``live`` outside every fault of that modality.

    Args:
        events: state changes in order.
        faults: what was broken when.
        names: modalities to report.
        span_s: first and last second that counts.
        recovery_s: modality -> seconds after a fault during which a change still belongs to it.
    """
    rates = {}
    for name in names:
        broken = [(f.start_s, f.end_s + recovery_s[name]) for f in faults if f.modality == name]
        healthy_s = (span_s[1] - span_s[0]) - sum(min(b, span_s[1]) - max(a, span_s[0]) for a, b in broken)
        alarms = sum(
            e.modality == name
            and e.before == "live"
            and span_s[0] <= e.time_s <= span_s[1]
            and not any(a <= e.time_s <= b for a, b in broken)
            for e in events
        )
        rates[name] = 3600.0 * alarms / healthy_s if healthy_s > 0 else float("nan")
    return rates


def recovery_times(events: Sequence[HealthRecord], faults: Sequence[FaultInterval]) -> dict[str, list[float]]:
    """Seconds from a fault's end until its modality is ``live`` again; ``inf`` where it never was."""
    times: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        later = [f.start_s for f in faults if f.modality == fault.modality and f.start_s >= fault.end_s]
        until = min(later, default=float("inf"))
        back = [
            e.time_s - fault.end_s
            for e in events
            if e.modality == fault.modality and e.after == "live" and fault.end_s <= e.time_s <= until
        ]
        times[fault.modality].append(min(back, default=float("inf")))
    return dict(times)


def percentiles(values: Sequence[float], *wanted: float) -> dict[str, float | None]:
    """``{"p50": ..}`` of finite or infinite values; None where there are none (JSON has no NaN)."""
    if not len(values):
        return {f"p{w:g}": None for w in wanted}
    ordered = np.sort(np.asarray(values, dtype=float))
    index = [min(len(ordered) - 1, int(np.ceil(w / 100 * len(ordered))) - 1) for w in wanted]
    return {f"p{w:g}": float(ordered[max(i, 0)]) for w, i in zip(wanted, index, strict=True)}
