"""Statistics of a node: how long every stage took, what failed, what was published; and when to publish them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runtime.core.clock import NS_PER_S
from runtime.core.pipeline import TickPlan
from runtime.latency import LatencyReservoir

_EVERY_NS = NS_PER_S
_COST_NS = 2_000_000
"""What summing up is assumed to cost before it was measured."""


class NodeStatistics:
    """Bounded measurements of one run."""

    def __init__(self) -> None:
        self.latency: defaultdict[str, LatencyReservoir] = defaultdict(LatencyReservoir)
        """Stage -> durations. ``tick``: from starting on a due tick to its decision sent. ``tick_lateness``: from
        its deadline to its decision sent. ``frame_to_decision``: from the capture of the newest sample
        that counted in it to its decision sent."""
        self.published: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.last_error: dict[str, str] = {}
        self._started_ns: int | None = None
        self._cpu_started_ns: int | None = None
        self._cpu_ns = 0

    @contextmanager
    def run_measured(self, start_ns: int) -> Iterator[None]:
        """Measure the CPU time of this thread until the block ends.

        Args:
            start_ns: now, node clock.
        """
        self._started_ns, self._cpu_started_ns = start_ns, time.thread_time_ns()
        try:
            yield
        finally:
            self._cpu_ns, self._cpu_started_ns = time.thread_time_ns() - self._cpu_started_ns, None

    def run_time(self, now_ns: int) -> dict[str, float]:
        """``seconds`` since the run began and ``cpu_seconds`` of its thread; for that thread, or after the run."""
        if self._cpu_started_ns is not None:
            self._cpu_ns = time.thread_time_ns() - self._cpu_started_ns
        seconds = 0.0 if self._started_ns is None else (now_ns - self._started_ns) / NS_PER_S
        return {"seconds": seconds, "cpu_seconds": self._cpu_ns / NS_PER_S}

    def tick_published(self, plan: TickPlan, begin_ns: int, sent_ns: int) -> None:
        """The decision of a tick was sent."""
        self.latency["tick"].add((sent_ns - begin_ns) / 1e6)
        self.latency["tick_lateness"].add((sent_ns - plan.deadline_ns) / 1e6)
        if plan.capture_ns is not None:
            self.latency["frame_to_decision"].add((sent_ns - plan.capture_ns) / 1e6)

    def failed(self, stage: str, detail: str) -> None:
        """Something failed in a stage; the node goes on."""
        self.errors[stage] += 1
        self.last_error[stage] = detail[:500]

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


class StatisticsTimer:
    """When to publish statistics: about once a second, and only with enough time before the next tick."""

    def __init__(self) -> None:
        self._last_ns = 0
        self._cost_ns = _COST_NS

    def is_due(self, now_ns: int, deadline_ns: int) -> bool:
        """Whether it is time again, and time enough."""
        return now_ns - self._last_ns > _EVERY_NS and deadline_ns - now_ns > 2 * self._cost_ns

    def restart(self, now_ns: int) -> None:
        """Statistics were due at ``now_ns``, whether anybody subscribed to them or not."""
        self._last_ns = now_ns

    def published(self, duration_ns: int) -> None:
        """Learn what it cost; bounded, so that one slow time does not end the publishing for good."""
        self._cost_ns = min(duration_ns, 4 * _COST_NS)
