"""What a step of the throughput benchmark shows, and which step comes next: pure functions of what was counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

REACHED = 0.9
"""A sender that reaches less than this share of the rate it was asked for is itself the limit."""

_LOWERED = 3
"""How often the first load is lowered if it is too much."""


@dataclass(frozen=True)
class Step:
    """One step: what was asked for, and what was counted.

    Attributes:
        load: what was raised: messages per second, times the rig's rates, or rigs.
        asked_hz: messages per second of all sensors together that were asked for.
        sent_hz: that were sent.
        sent: messages sent.
        received: messages that the node took in.
        gaps: messages that were lost according to the sequence numbers.
        unseen: sent, but neither taken in nor noticed as a gap, because they were lost at the very end.
        unaccounted: taken in, but in no counter; always 0.
        refused: taken in and refused, by reason; a window that came too late for the engine is not among them.
        windows: given to the engine.
        superseded: windows that a newer one replaced before the engine had time for them; no message is lost by that.
        ticks: published.
        missed: ticks not published.
        lateness_p99_ms: of the ticks; the worst of several nodes.
        node_share: ``node_cpu_seconds`` over the time that was played.
        engine_share: ``engine_cpu_seconds`` over the same.
        waited_share: time that the nodes' threads were ready to run and had no core, over the same: other processes
            had it, with nodes on one core the other nodes among them.
        rows_per_call: windows in one call of an encoder.
        node_seconds: how long the (longest) node ran, waiting for senders and for stragglers included.
        node_cpu_seconds: CPU time of the nodes' threads without the engine's calls.
        engine_cpu_seconds: CPU time of the engine's calls.
        process_cpu_seconds: CPU time of the whole node processes without the engine's calls: ZeroMQ's threads too.
    """

    load: float
    asked_hz: float
    sent_hz: float
    sent: int
    received: int
    gaps: int
    unseen: int
    unaccounted: int
    refused: Mapping[str, int]
    windows: int
    superseded: int
    ticks: int
    missed: int
    lateness_p99_ms: float | None
    node_share: float
    engine_share: float
    waited_share: float
    rows_per_call: float
    node_seconds: float
    node_cpu_seconds: float
    engine_cpu_seconds: float
    process_cpu_seconds: float

    @property
    def broken(self) -> str | None:
        """Why the load is too much: ``lost``, ``unaccounted``, ``refused``, ``ticks``; None if it is carried."""
        if self.gaps or self.unseen:
            return "lost"
        if self.unaccounted:
            return "unaccounted"
        if self.refused:
            return "refused"
        return "ticks" if self.missed else None

    @property
    def out_of_reach(self) -> bool:
        """Whether the senders could not make this load."""
        return self.sent_hz < REACHED * self.asked_hz

    def described(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "broken": self.broken, "out_of_reach": self.out_of_reach}


# Reasons for which a window is dropped, although none of its messages was refused.
_HARMLESS = ("superseded", "broken_window", "frozen", "corrupt")


def judged(
    load: float, asked_hz: float, sent: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]
) -> Step:
    """A step from what its processes counted.

    Args:
        load: what is being raised.
        asked_hz: messages per second in all.
        sent: of every sender ``messages`` and ``seconds``.
        nodes: of every node what :func:`benchmarks.throughput.node_process.step` gives.
    """

    def total(*path: str) -> float:
        found = 0.0
        for node in nodes:
            value: Any = node
            for key in path:
                value = value[key]
            found += value
        return found

    messages = sum(int(s["messages"]) for s in sent)
    received, gaps = int(total("messages", "received")), int(total("messages", "lost"))
    refused: dict[str, int] = {}
    for node in nodes:
        for reason, count in node["messages"]["dropped"].items():
            if count and reason not in _HARMLESS:
                refused[reason] = refused.get(reason, 0) + count
    # Not the nodes' own time: they also wait for the senders to connect, and in the end for lost messages.
    seconds = max(float(s["seconds"]) for s in sent) if sent else max(float(n["seconds"]) for n in nodes)
    engine_cpu = total("engine_cpu_seconds")
    late = [n["tick_lateness_p99_ms"] for n in nodes if n["tick_lateness_p99_ms"] is not None]
    return Step(
        load=load,
        asked_hz=asked_hz,
        sent_hz=sum(s["messages"] / s["seconds"] for s in sent),
        sent=messages,
        received=received,
        gaps=gaps,
        unseen=max(0, messages - received - gaps),
        unaccounted=int(total("messages", "unaccounted")),
        refused=refused,
        windows=int(total("messages", "windows", "encoded")),
        superseded=int(total("messages", "windows", "superseded")),
        ticks=int(total("messages", "ticks", "published")),
        missed=int(total("messages", "ticks", "missed")),
        lateness_p99_ms=max(late, default=None),
        node_share=(total("cpu_seconds") - engine_cpu) / seconds,
        engine_share=engine_cpu / seconds,
        waited_share=total("waited_seconds") / seconds,
        rows_per_call=total("encode_rows") / max(1.0, total("encode_calls")),
        node_seconds=max(float(n["seconds"]) for n in nodes),
        node_cpu_seconds=total("cpu_seconds") - engine_cpu,
        engine_cpu_seconds=engine_cpu,
        process_cpu_seconds=total("process_cpu_seconds") - engine_cpu,
    )


def rise(
    step: Callable[[float], Step],
    first: float,
    factor: float,
    largest: float,
    refinements: int,
    whole: bool = False,
) -> Iterator[Step]:
    """Raise the load until it is too much, then close in on the limit between the last two loads.

    Args:
        step: tries a load.
        first: the least load; if that is too much already, it is lowered instead.
        factor: above 1.
        largest: never more than this.
        refinements: how often to try the geometric middle.
        whole: whether only whole loads exist, such as rigs.
    """

    def rounded(load: float) -> float:
        return float(max(1, round(load))) if whole else load

    carried, broken, load, lowered = 0.0, math.inf, rounded(first), 0
    while load <= largest:
        done = step(load)
        yield done
        if done.out_of_reach and done.broken is None:
            return
        if done.broken is None:
            carried = load
            if broken < math.inf:
                break
            load = rounded(load * factor)
        else:
            broken = load
            lowered += 1
            if carried or lowered > _LOWERED or (whole and load <= 1):
                break
            load = rounded(load / factor)
    for _ in range(refinements):
        middle = rounded(math.sqrt(carried * broken)) if carried and broken < math.inf else 0.0
        if not carried < middle < broken:
            return
        done = step(middle)
        yield done
        if done.broken is None:
            carried = middle
        else:
            broken = middle


def conclusion(steps: Sequence[Step]) -> dict[str, Any]:
    """What a rise showed.

    Returns:
        ``carried`` (the greatest load below every one that was too much; 0 if none), ``carried_hz`` (messages per
        second that it was), ``broken_at`` and ``broken_by`` (the least load that was too much, and how; None if none
        was), ``engine_full_at`` (the least load at which more than 2 % of the windows were superseded: from there on
        the engine decides how many windows become evidence; None if none), ``limit`` (``engine``, ``node``, ``sender``
        ``cores`` or ``none found``: what ran out where it broke; ``cores``: others had them) and ``steps``.
    """
    ordered = sorted(steps, key=lambda s: s.load)
    broken = next((s for s in ordered if s.broken is not None), None)
    good = [s for s in ordered if s.broken is None and (broken is None or s.load < broken.load)]
    best = good[-1] if good else None
    full = next((s for s in ordered if s.superseded > s.windows * 0.02), None)
    return {
        "carried": 0.0 if best is None else best.load,
        "carried_hz": 0.0 if best is None else round(best.sent_hz, 1),
        "broken_at": None if broken is None else broken.load,
        "broken_by": None if broken is None else broken.broken,
        "engine_full_at": None if full is None else full.load,
        "limit": _limit(ordered, broken),
        "steps": [s.described() for s in steps],
    }


def _limit(ordered: Sequence[Step], broken: Step | None) -> str:
    if broken is None:
        return "sender" if ordered and ordered[-1].out_of_reach else "none found"
    if broken.waited_share > broken.node_share + broken.engine_share:
        return "cores"
    return "engine" if broken.engine_share > broken.node_share else "node"
