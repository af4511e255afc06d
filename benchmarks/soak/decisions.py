"""What a reader of a soak's decisions and health events saw, and whether it is what it must have seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.core.clock import NS_PER_S
from runtime.wire import Decision, HealthEvent


@dataclass
class DecisionLedger:
    """The decisions and health events of one run, as a reader received them.

    Attributes:
        start_ns: when the node's ticks began.
        rate_hz: of the ticks.
        seen: decisions.
        last: number of the last one.
        gaps: numbers that were left out.
        drift_ns: largest distance of a deadline from start + number / rate.
        lateness_ns: longest time from a deadline to its decision, on the node's clock.
        states: modality -> state of its last health event.
        events: "modality state reason" -> how often.
        broken_chains: health events that do not begin where the last one of their modality ended.
        wrong_masks: modalities in decisions that were trusted though not live, or live and not trusted.
    """

    start_ns: int
    rate_hz: float
    seen: int = 0
    last: int = -1
    gaps: int = 0
    drift_ns: float = 0.0
    lateness_ns: int = 0
    states: dict[str, str] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)
    broken_chains: int = 0
    wrong_masks: int = 0

    def add(self, message: object) -> None:
        """Note a message that was read; only decisions and health events count."""
        if isinstance(message, Decision):
            after_ns = message.deadline_ns - self.start_ns
            self.drift_ns = max(self.drift_ns, abs(after_ns - (message.tick + 1) * NS_PER_S / self.rate_hz))
            self.lateness_ns = max(self.lateness_ns, message.published_ns - message.deadline_ns)
            self.gaps += message.tick - self.last - 1
            self.seen, self.last = self.seen + 1, message.tick
            self.wrong_masks += sum(
                (r.state != "live") == bool(message.presence[m]) for m, r in message.modalities.items()
            )
        elif isinstance(message, HealthEvent):
            self.events[f"{message.modality} {message.state} {message.reason}"] += 1
            self.broken_chains += message.previous != self.states.get(message.modality, "waiting")
            self.states[message.modality] = message.state

    def discrepancies(self, counted: Mapping[str, Any], now_ns: int, modalities: Sequence[str]) -> list[str]:
        """What is not as it must be, one line each; every sensor must be live by now.

        Args:
            counted: ``published`` and ``missed`` ticks, as the node counted.
            now_ns: on the node's clock.
            modalities: of the rig.
        """
        checks = (
            (
                "ticks published",
                int((now_ns - self.start_ns) * self.rate_hz // NS_PER_S),
                counted["published"],
            ),
            ("ticks missed", 0, counted["missed"]),
            ("decisions read", counted["published"], self.seen),
            ("gaps in the numbers of decisions", 0, self.gaps),
            ("ns that a deadline is off, whole ones", 0, int(self.drift_ns)),
            ("health events that do not begin where the last one ended", 0, self.broken_chains),
            ("masks that differ from the states", 0, self.wrong_masks),
        )
        wrong = [f"{what}: must be {must}, was {did}" for what, must, did in checks if must != did]
        down = sorted(m for m in modalities if self.states.get(m) != "live")
        return wrong + [f"{m}: must be live at the end, was {self.states.get(m, 'waiting')}" for m in down]
