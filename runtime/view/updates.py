"""Updates: what a browser is sent, as one binary message: ``[length of the JSON, uint32][JSON][bytes of the panes]``.

A browser gets the next message only when it has taken the earlier ones (:mod:`runtime.view.browser`). Each message
carries the newest of everything, and all of the history that the browser does not have yet. So a slow browser misses
pictures, but no tick of the last minute, and nothing waits for it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S
from runtime.rig import Rig, SensorSpec
from runtime.view.panes import Pane, PaneMaker
from runtime.view.state import Point, Seen, Snapshot, imputed_shares
from runtime.wire import Decision, Observation, Statistics

HISTOGRAM_EDGES_MS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Edges of the latency histogram; its last bin has no upper edge."""
_SUM_EVERY_NS = 500_000_000


class SensorSwitches(Protocol):
    """Kill switches of a demo: they end the processes of sensors."""

    def states(self) -> Mapping[str, str]:
        """Modality -> ``playing``, ``dropped``, ``restoring``, or why it could not be restored."""
        ...

    def drop(self, modality: str) -> None:
        """Silence a sensor; returns at once."""
        ...

    def restore(self, modality: str) -> None:
        """Let a sensor play again; returns at once."""
        ...


class Commentary(Protocol):
    """What only a demo knows: the class that is really shown, and the fault that was made on purpose."""

    def at(self, node_ns: int) -> Mapping[str, str]:
        """``truth`` (a class) and ``fault`` (words) at a time of the node's clock; what is not known is left out."""
        ...


class UpdateMaker:
    """Makes the messages of one browser from snapshots; what the browser has already is not sent again."""

    def __init__(
        self,
        rig: Rig,
        panes: PaneMaker,
        switches: SensorSwitches | None = None,
        commentary: Commentary | None = None,
    ) -> None:
        """Begin for a browser that has nothing yet.

        Args:
            rig: of the node.
            panes: shared by all browsers.
            switches: of a demo.
            commentary: of a demo.
        """
        self._rig = rig
        self._panes = panes
        self._switches = switches
        self._commentary = commentary
        self._run: int | None = None
        self._classes: tuple[str, ...] = ()
        self._sent: dict[tuple[str, str], Pane] = {}
        self._statistics: Seen | None = None
        self._summed_ns: int | None = None
        self._last_point = 0
        self._last_event = 0

    def update(self, snapshot: Snapshot) -> bytes:
        """The next message."""
        node_s = None if snapshot.node_ns is None else snapshot.node_ns / NS_PER_S
        body: dict[str, Any] = {
            "status": snapshot.status,
            "silent_s": _rounded(snapshot.silent_s),
            "now_s": node_s,
        }
        decision = snapshot.decision
        classes = tuple(decision.probabilities) if decision is not None else ()
        if snapshot.run != self._run or classes != self._classes:
            self._run, self._classes, self._sent = snapshot.run, classes, {}
            self._statistics, self._summed_ns, self._last_point, self._last_event = None, None, 0, 0
            body["rig"] = self._introduction(classes)
        if decision is not None:
            body["decision"] = _decision(decision)
            body["sensors"] = {m: self._sensor(m, snapshot, decision) for m in self._rig.modality_names}
        self._add_history(body, snapshot)
        if self._switches is not None:
            body["switches"] = dict(self._switches.states())
        if self._commentary is not None and snapshot.node_ns is not None:
            body["commentary"] = dict(self._commentary.at(snapshot.node_ns))
        if snapshot.statistics is not None and snapshot.statistics is not self._statistics:
            self._statistics = snapshot.statistics
            body["numbers"] = _numbers(snapshot.statistics.message, snapshot.lost)
        blobs = self._add_panes(body, snapshot)
        head = json.dumps(body, separators=(",", ":")).encode()
        return b"".join([struct.pack("<I", len(head)), head, *blobs])

    def _introduction(self, classes: tuple[str, ...]) -> dict[str, Any]:
        return {
            "name": self._rig.name,
            "classes": classes,
            "tick_hz": self._rig.tick.rate_hz,
            "edges_ms": HISTOGRAM_EDGES_MS,
            "sensors": [
                {
                    "name": s.modality,
                    "kind": s.kind,
                    "rate_hz": round(s.rate_hz / s.chunk, 2),
                    "channels": _channel_names(s),
                }
                for s in self._rig.sensors
            ],
        }

    def _add_history(self, body: dict[str, Any], snapshot: Snapshot) -> None:
        """Add what the browser lacks of decisions and state changes, and now and then sums over the last minute."""
        new = list(takewhile(lambda p: p.serial > self._last_point, reversed(snapshot.points)))
        body["points"] = [_point(p) for p in reversed(new)]
        events = list(takewhile(lambda e: e[0] > self._last_event, reversed(snapshot.events)))
        body["events"] = [
            [n, e.at_ns / NS_PER_S, e.modality, e.previous, e.state, e.reason, e.detail]
            for n, e in reversed(events)
        ]
        self._last_point = new[0].serial if new else self._last_point
        self._last_event = events[0][0] if events else self._last_event
        now_ns = snapshot.node_ns
        if now_ns is not None and (self._summed_ns is None or now_ns - self._summed_ns > _SUM_EVERY_NS):
            self._summed_ns = now_ns
            frame_ms = [p.frame_to_decision_ms for p in snapshot.points if p.frame_to_decision_ms is not None]
            body["latency"] = {
                "lateness": latency_summary(np.array([p.lateness_ms for p in snapshot.points])),
                "frame_to_decision": latency_summary(np.array(frame_ms)),
            }
            body["imputed_share"] = {
                m: round(s, 3) for m, s in imputed_shares(self._rig.modality_names, snapshot.points).items()
            }

    def _sensor(self, modality: str, snapshot: Snapshot, decision: Decision) -> dict[str, Any]:
        report = decision.modalities.get(modality)
        shown: dict[str, Any] = {
            "rate_hz": _rounded(snapshot.rates_hz.get(modality), 1),
        }
        if report is not None:
            shown |= {
                "state": report.state,
                "reason": report.reason,
                "age_ms": _rounded(report.age_ms, 0),
                "weight": report.weight,
                "imputed": report.imputed,
            }
        return shown

    def _add_panes(self, body: dict[str, Any], snapshot: Snapshot) -> list[bytes]:
        """Add a description of each pane that changed; gives their bytes in the same order."""
        described, blobs = [], []
        for key, seen in snapshot.observations.items():
            observation: Observation = seen.message
            pane = self._panes.pane(observation)
            if self._sent.get(key) is pane:
                continue
            self._sent[key] = pane
            described.append(
                {
                    "modality": observation.modality,
                    "stream": observation.stream,
                    "imputed": observation.imputed,
                    "sources": list(observation.sources),
                    "at_s": observation.published_ns / NS_PER_S,
                    "form": pane.form,
                    "shape": pane.shape,
                    "unit": pane.unit,
                    "low": pane.low,
                    "high": pane.high,
                    "step": pane.step,
                    "bytes": len(pane.data),
                }
            )
            blobs.append(pane.data)
        body["panes"] = described
        return blobs


def latency_summary(milliseconds: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Histogram over :data:`HISTOGRAM_EDGES_MS`, p50, p99 and count; percentiles are None without values."""
    counts = np.histogram(milliseconds, bins=np.array([*HISTOGRAM_EDGES_MS, np.inf]))[0]
    p50, p99 = np.percentile(milliseconds, [50, 99]) if len(milliseconds) else (None, None)
    return {
        "counts": counts.tolist(),
        "count": len(milliseconds),
        "p50": _rounded(p50, 2),
        "p99": _rounded(p99, 2),
    }


def _decision(decision: Decision) -> dict[str, Any]:
    return {
        "tick": decision.tick,
        "label": decision.label,
        "probabilities": [round(p, 4) for p in decision.probabilities.values()],
        "entropy": _rounded(decision.entropy),
        "fill": decision.fill,
        "bundle": decision.bundle,
        "compare": {policy: other.label for policy, other in decision.compare.items()},
    }


def _point(p: Point) -> list[Any]:
    return [
        round(p.at_ns / NS_PER_S, 3),
        [round(x, 3) for x in p.probabilities],
        round(p.entropy, 3),
        round(p.lateness_ms, 2),
        _rounded(p.frame_to_decision_ms, 1),
        p.states,
        [int(i) for i in p.imputed],
    ]


def _numbers(statistics: Statistics, lost: int) -> dict[str, Any]:
    """The node's counters and stage latencies, as the page shows them."""
    values = statistics.values
    messages = values.get("messages", {})
    return {
        "backend": values.get("backend"),
        "seconds": _rounded(values.get("seconds"), 1),
        "cpu_seconds": _rounded(values.get("cpu_seconds"), 2),
        "ticks": messages.get("ticks", {}),
        "total": {
            k: messages.get(k) for k in ("received", "used", "pending", "dropped", "lost", "unaccounted")
        },
        "modalities": messages.get("modalities", {}),
        "errors": values.get("errors", {}),
        "stages_ms": {
            stage: {k: _rounded(latency.get(k), 2) for k in ("p50", "p99", "max")}
            for stage, latency in values.get("latency_ms", {}).items()
        },
        "view_lost": lost,
    }


def _rounded(value: Any, digits: int = 3) -> float | None:
    return None if value is None else round(float(value), digits)


def _channel_names(sensor: SensorSpec) -> list[str]:
    """The rig's names of a sensor's channels; empty if it has none."""
    named = sensor.channels or getattr(sensor.transform, "channels", ()) or ()
    return [str(name) for name in named]
