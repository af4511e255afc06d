"""Afterimage's node in the latency benchmark, with the time of its engine's calls noted.

``python -m afterimage.bench.latency.node SPEC`` is such a process; see :mod:`afterimage.bench.latency.middle`.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from afterimage.bench.latency.middle import MiddleSpec, percentiles, ready, serve
from engines.session import Fused, Session
from runtime.node.node import Node
from runtime.transport.endpoints import Endpoints


class TimedSession(Session):
    """A session that notes how long its fusions take, so that the rest of a tick is the node's own time."""

    def __init__(self, inner: Session) -> None:
        self.__dict__.update(inner.__dict__)
        self.fused_us: list[float] = []

    def fuse(self, evidence: Any, presence: Any) -> Fused:
        """As the session's."""
        begin = time.perf_counter_ns()
        fused = super().fuse(evidence, presence)
        self.fused_us.append((time.perf_counter_ns() - begin) / 1e3)
        return fused

    def decode(self, modality: str, latent: Any) -> Any:
        """As the session's; the fusion just before it was for this observation and not for a tick."""
        self.fused_us.pop()
        return super().decode(modality, latent)


def run_node(spec: MiddleSpec, session: Session, stop: threading.Event) -> dict[str, Any]:
    """The real node, with its engine calls timed."""
    timed = TimedSession(session)
    with Node(spec.rig, timed, Endpoints(spec.frames, spec.decisions)) as node:
        timed.fused_us.clear()
        ready()
        statistics = node.run(stop)
        ticks = node.durations_ms("tick")
    pairs = min(len(ticks), len(timed.fused_us))
    overhead = [1e3 * t - f for t, f in zip(ticks[:pairs], timed.fused_us[:pairs], strict=True)]
    return {"statistics": statistics, "tick_overhead_us": percentiles(overhead)}


if __name__ == "__main__":
    sys.exit(serve(run_node, sys.argv[1]))
