"""What the demo keeps of a live run: the node's messages, beside the truth from the plan of the playback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from afterimage.demo.scoring import FaultInterval, HealthRecord, TickRecord, is_settled
from afterimage.demo.timeline import ImputedExample
from engines.session import Session
from runtime.core.clock import NS_PER_S
from runtime.signals.faults import FaultSchedule
from runtime.signals.moments import MomentSource
from runtime.signals.playback import MomentPlan
from runtime.wire import Decision, HealthEvent, Observation, Output


@dataclass
class LiveRecording:
    """A run's decisions, state changes and one imputed observation per modality.

    Attributes:
        classes: in the bundle's order.
        plan: what played when.
        start_ns: when the playback began, on the clock that node and sensors share.
        window_s: modality -> seconds of signal in one window; 0 for images.
        schedule: the faults that were injected.
        last: the newest decision.
    """

    classes: tuple[str, ...]
    plan: MomentPlan
    start_ns: int
    window_s: Mapping[str, float]
    schedule: FaultSchedule
    ticks: list[TickRecord] = field(default_factory=list)
    health: list[HealthRecord] = field(default_factory=list)
    imputed: dict[str, tuple[Observation, float]] = field(default_factory=dict)
    last: Decision | None = None

    def seconds(self, at_ns: int) -> float:
        """Seconds since the playback began."""
        return (at_ns - self.start_ns) / NS_PER_S

    def add(self, message: Output) -> None:
        """Keep one message of the node; those from before the playback are left out."""
        if isinstance(message, Decision):
            self._add_decision(message)
        elif isinstance(message, HealthEvent):
            self.health.append(
                HealthRecord(
                    self.seconds(message.at_ns),
                    message.modality,
                    message.previous,
                    message.state,
                    message.reason,
                )
            )
        elif message.imputed:
            self._add_imputed(message)

    def _add_decision(self, decision: Decision) -> None:
        self.last = decision
        elapsed_ns = decision.deadline_ns - self.start_ns
        span = self.plan.span_at(elapsed_ns)
        if span is None:
            return
        live = [m for m, present in decision.presence.items() if present]
        time_s = elapsed_ns / NS_PER_S
        capture = decision.capture_ns if decision.capture_ns is not None else decision.published_ns
        self.ticks.append(
            TickRecord(
                time_s=time_s,
                label=decision.label,
                truth=self.classes[span.label],
                settled=is_settled(time_s, span.start_ns / NS_PER_S, self.window_s, live),
                states={m: r.state for m, r in decision.modalities.items()},
                imputed=tuple(m for m, r in decision.modalities.items() if r.imputed),
                probabilities=tuple(decision.probabilities[c] for c in self.classes),
                others={policy: a.label for policy, a in decision.compare.items()},
                frame_to_decision_ms=(decision.published_ns - capture) / 1e6,
                lateness_ms=(decision.published_ns - decision.deadline_ns) / 1e6,
            )
        )

    def _add_imputed(self, seen: Observation) -> None:
        """Keep, for an absent sensor, the imputation from the most other sensors, once their windows have settled."""
        if self.last is None or self.last.presence[seen.modality]:
            return
        time_s = self.seconds(seen.published_ns)
        span = self.plan.span_at(seen.published_ns - self.start_ns)
        if span is None or not is_settled(time_s, span.start_ns / NS_PER_S, self.window_s, seen.sources):
            return
        kept = self.imputed.get(seen.modality)
        if kept is None or len(seen.sources) > len(kept[0].sources):
            self.imputed[seen.modality] = (seen, time_s)

    def examples(self, session: Session, source: MomentSource) -> list[ImputedExample]:
        """Every kept imputation beside what its sensor would have measured at that time, read from the source."""
        examples = []
        for spec in session.manifest.modalities:
            if spec.name not in self.imputed:
                continue
            seen, time_s = self.imputed[spec.name]
            span = self.plan.at(int(time_s * NS_PER_S) // self.plan.duration_ns)
            within = round((time_s - span.start_ns / NS_PER_S) * spec.rate_hz)
            window = source.read(
                self.plan.split, span.moment, spec.name, max(0, within - spec.window), spec.window
            )
            raw = window.reshape(1, *spec.window_shape)
            measured = session.observe(spec.name, raw)[0]
            examples.append(
                ImputedExample(
                    spec.name,
                    spec.kind,
                    self.classes[span.label],
                    seen.sources,
                    measured,
                    np.array(seen.values),
                )
            )
        return examples

    def faults(self) -> list[FaultInterval]:
        """The schedule, one entry per fault and modality."""
        return [
            FaultInterval(m, f.kind, f.start_s, f.end_s) for f in self.schedule.faults for m in f.modalities
        ]

    def is_broken(self, time_s: float) -> bool:
        """Whether a fault of the schedule is active."""
        return any(f.start_s < time_s <= f.end_s for f in self.schedule.faults)

    def fault_at(self, time_s: float) -> str:
        """What is broken now, in words."""
        active = [
            f"{f.kind} {' + '.join(f.modalities)}"
            for f in self.schedule.faults
            if f.start_s < time_s <= f.end_s
        ]
        return ", ".join(active) or "all sensors healthy"
