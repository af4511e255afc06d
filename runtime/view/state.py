"""The view's state: the newest of everything a node published, as a function of (messages, now).

Nothing here grows: a topic's newest message replaces the one before it, and what is kept over time (decisions of the
last minute, state changes) is in rings. ``now`` is the view's own clock and gives ages only. Times that are shown are
the node's, so that a view on another machine shows the same ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runtime.core.clock import NS_PER_S
from runtime.rig import Rig
from runtime.wire import Decision, HealthEvent, Observation, Output, Statistics

HISTORY_S = 60.0
"""How far back the page looks."""

_LONGEST_HISTORY = 2400
_CLOSEST_POINTS_NS = 25_000_000
"""Points of history are at least this far apart, so that 60 s of them fit into the ring at any tick rate."""
_LONGEST_EVENTS = 256
_STALE_S = 1.0
_STALE_PERIODS = 3.0

Status = Literal["absent", "live", "stopped"]
"""``absent``: no decision has come yet; ``stopped``: decisions came, but not for a while."""


@dataclass(frozen=True, slots=True)
class Point:
    """One decision as history keeps it.

    Attributes:
        serial: number of the point, so that a reader is sent only those that it does not have.
        at_ns: when the tick was due, node clock.
        probabilities: in the order of the classes.
        entropy: in nats.
        lateness_ms: from the tick's deadline to the sending of its decision.
        frame_to_decision_ms: from the newest capture in it to the sending of its decision; None without one.
        states: of the sensors, in the order of the rig.
        imputed: for each sensor, whether the decision stood on an estimate of it.
    """

    serial: int
    at_ns: int
    probabilities: tuple[float, ...]
    entropy: float
    lateness_ms: float
    frame_to_decision_ms: float | None
    states: tuple[str, ...]
    imputed: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """A message and when it came, on the view's clock."""

    message: Any
    at_ns: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is known at one moment; immutable, so that it can be encoded without a lock.

    Attributes:
        status: whether the node answers.
        silent_s: seconds since the last decision came; None before the first.
        node_ns: now on the node's clock, derived from the last decision; None before the first.
        run: counts the runs of the node that were seen; readers start afresh when it changes.
        decision: the newest.
        points: the history of decisions, oldest first.
        events: (number, state change), oldest first; numbers only grow.
        observations: (modality, stream) -> the newest of each, with its arrival.
        statistics: the node's newest, or None.
        rates_hz: modality -> messages per second, between the two newest statistics.
        lost: decisions that did not reach the view.
    """

    status: Status
    silent_s: float | None
    node_ns: int | None
    run: int
    decision: Decision | None
    points: tuple[Point, ...]
    events: tuple[tuple[int, HealthEvent], ...]
    observations: Mapping[tuple[str, str], Seen]
    statistics: Seen | None
    rates_hz: Mapping[str, float]
    lost: int


class ViewState:
    """Takes in what a node publishes, and gives what is known now."""

    def __init__(self, rig: Rig) -> None:
        """Begin with nothing known of the node of a rig."""
        self.rig = rig
        self.names = rig.modality_names
        self.lost = 0
        self.run = 0
        self._decision: Seen | None = None
        self._serial = 0
        self._points: deque[Point] = deque(maxlen=_LONGEST_HISTORY)
        self._event_number = 0
        self._events: deque[tuple[int, HealthEvent]] = deque(maxlen=_LONGEST_EVENTS)
        self._observations: dict[tuple[str, str], Seen] = {}
        self._statistics: deque[Seen] = deque(maxlen=2)
        self._stale_s = max(_STALE_S, _STALE_PERIODS / rig.tick.rate_hz)

    def add(self, message: Output, now_ns: int) -> None:
        """Take in one message of the node; one that names no sensor of the rig is left out."""
        if isinstance(message, Decision):
            self._add_decision(message, now_ns)
        elif isinstance(message, HealthEvent):
            if message.modality in self.names:
                self._event_number += 1
                self._events.append((self._event_number, message))
        elif isinstance(message, Observation):
            if message.modality in self.names:
                self._observations[message.modality, message.stream] = Seen(message, now_ns)
        elif isinstance(message, Statistics):
            if self._statistics and message.at_ns <= self._statistics[-1].message.at_ns:
                self._statistics.clear()  # from another run, on another clock
            self._statistics.append(Seen(message, now_ns))

    def forget_observations(self) -> None:
        """Forget the observations, when the last browser leaves: the next one must not be shown old ones."""
        self._observations.clear()

    def status(self, now_ns: int) -> Status:
        """Whether the node answers: ``live`` if a decision came within a second (or three periods of a slow tick)."""
        if self._decision is None:
            return "absent"
        return "live" if now_ns - self._decision.at_ns <= self._stale_s * NS_PER_S else "stopped"

    def snapshot(self, now_ns: int) -> Snapshot:
        """What is known now, on the same clock as ``add``."""
        seen = self._decision
        silent_ns = None if seen is None else now_ns - seen.at_ns
        node_ns = None if seen is None or silent_ns is None else seen.message.published_ns + max(0, silent_ns)
        self._drop_old(node_ns)
        return Snapshot(
            status=self.status(now_ns),
            silent_s=None if silent_ns is None else silent_ns / NS_PER_S,
            node_ns=node_ns,
            run=self.run,
            decision=None if seen is None else seen.message,
            points=tuple(self._points),
            events=tuple(self._events),
            observations=dict(self._observations),
            statistics=self._statistics[-1] if self._statistics else None,
            rates_hz=self._rates(),
            lost=self.lost,
        )

    def _add_decision(self, decision: Decision, now_ns: int) -> None:
        last = self._decision.message if self._decision is not None else None
        if last is not None and (decision.tick <= last.tick or decision.bundle != last.bundle):
            # Another run of the node, or another bundle. A new run may be on another machine, with another clock.
            self.run += 1
            if decision.deadline_ns <= last.deadline_ns or decision.bundle != last.bundle:
                self._points.clear()
                self._events.clear()
            self._statistics.clear()
            self._observations.clear()
        self._decision = Seen(decision, now_ns)
        states = tuple(self._report(decision, m, "state") for m in self.names)
        newest = self._points[-1] if self._points else None
        if (
            newest is not None
            and newest.states == states
            and decision.deadline_ns - newest.at_ns < _CLOSEST_POINTS_NS
        ):
            return
        self._serial += 1
        capture = decision.capture_ns
        self._points.append(
            Point(
                serial=self._serial,
                at_ns=decision.deadline_ns,
                probabilities=tuple(decision.probabilities.values()),
                entropy=decision.entropy,
                lateness_ms=(decision.published_ns - decision.deadline_ns) / 1e6,
                frame_to_decision_ms=None if capture is None else (decision.published_ns - capture) / 1e6,
                states=states,
                imputed=tuple(bool(self._report(decision, m, "imputed")) for m in self.names),
            )
        )

    @staticmethod
    def _report(decision: Decision, modality: str, field: str) -> Any:
        report = decision.modalities.get(modality)
        return getattr(report, field) if report is not None else ""

    def _drop_old(self, node_ns: int | None) -> None:
        if node_ns is None:
            return
        oldest = node_ns - round(HISTORY_S * NS_PER_S)
        while self._points and self._points[0].at_ns < oldest:
            self._points.popleft()

    def _rates(self) -> dict[str, float]:
        if len(self._statistics) < 2:
            return {}
        before, after = (s.message for s in self._statistics)
        seconds = (after.at_ns - before.at_ns) / NS_PER_S
        old, new = received_by_modality(before), received_by_modality(after)
        return {m: (new[m] - old[m]) / seconds for m in self.names if m in new and m in old}


def imputed_shares(names: Sequence[str], points: Sequence[Point]) -> dict[str, float]:
    """Modality -> share of these decisions that stood on an estimate of it; empty without decisions."""
    return {m: sum(p.imputed[i] for p in points) / len(points) for i, m in enumerate(names)} if points else {}


def received_by_modality(statistics: Statistics) -> dict[str, int]:
    """Modality -> messages received, from a node's statistics; modalities without a count are left out."""
    modalities = statistics.values.get("messages", {}).get("modalities", {})
    return {m: c["received"] for m, c in modalities.items() if isinstance(c.get("received"), int)}
