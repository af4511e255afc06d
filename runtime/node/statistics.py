"""Statistics of a node: how long every stage took, what failed, what was published."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from runtime.latency import LatencyReservoir


class NodeStatistics:
    """Bounded measurements of one run."""

    def __init__(self) -> None:
        self.latency: defaultdict[str, LatencyReservoir] = defaultdict(LatencyReservoir)
        """Stage -> durations. ``tick``: from starting on a due tick to its decision sent. ``tick_lateness``: from
        its deadline to its decision sent. ``frame_to_decision``: from the capture of the newest sample
        that counted
        in it to its decision sent."""
        self.published: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.last_error: dict[str, str] = {}

    def failed(self, stage: str, error: Exception) -> None:
        """An engine failed in a stage; the node goes on."""
        self.errors[stage] += 1
        self.last_error[stage] = str(error)[:500]

    def summary(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "latency_ms": {stage: r.summary() for stage, r in sorted(self.latency.items())},
            "published": dict(self.published),
            "errors": {
                stage: {"count": n, "last": self.last_error[stage]}
                for stage, n in sorted(self.errors.items())
            },
        }
