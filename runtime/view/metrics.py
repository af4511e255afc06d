"""Metrics: what is known of a node, as Prometheus text. Needs the ``view`` extra.

Counters and stage latencies are the node's own, from its statistics. Histograms of decisions are counted here, from
every decision that reached this process. While the node does not answer, its series are left out, because a scraper
would take an old value for a new one, and ``afterimage_node_up`` is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from runtime.core.clock import NS_PER_S
from runtime.core.health import State
from runtime.rig import Rig
from runtime.view.state import Snapshot, imputed_shares
from runtime.wire import Decision, Statistics

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_QUANTILES = {"0.5": "p50", "0.95": "p95", "0.99": "p99"}
_STATISTICS_STALE_S = 10.0


class NodeMetrics:
    """The metrics of one node, and the histograms of its decisions."""

    def __init__(self, rig: Rig, version: str) -> None:
        """Begin to count.

        Args:
            rig: of the node.
            version: of this package, for the build info.
        """
        self._registry = CollectorRegistry()
        self._lateness = Histogram(
            "afterimage_decision_lateness_seconds",
            "From a tick's deadline to its decision sent.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._frame = Histogram(
            "afterimage_frame_to_decision_seconds",
            "From the newest capture in a decision to its decision sent.",
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._imputed = Counter(
            "afterimage_imputed_decisions",
            "Decisions that stood on an estimate of the modality.",
            ["modality"],
            registry=self._registry,
        )
        self._decisions = Counter(
            "afterimage_decisions_seen", "Decisions that reached this exporter.", registry=self._registry
        )
        self._failures = Counter(
            "afterimage_scrape_errors",
            "Scrapes at which the node gave no decision or no statistics.",
            ["what"],
            registry=self._registry,
        )
        for modality in rig.modality_names:
            self._imputed.labels(modality)
        self._rig = rig
        self._version = version

    def decided(self, decision: Decision) -> None:
        """Count one decision."""
        self._decisions.inc()
        self._lateness.observe((decision.published_ns - decision.deadline_ns) / NS_PER_S)
        if decision.capture_ns is not None:
            self._frame.observe((decision.published_ns - decision.capture_ns) / NS_PER_S)
        for modality, report in decision.modalities.items():
            if report.imputed and modality in self._rig.modality_names:
                self._imputed.labels(modality).inc()

    def text(self, snapshot: Snapshot, now_ns: int, browsers: int, accept: str = "") -> tuple[bytes, str]:
        """The metrics in the format that the scraper asked for.

        Args:
            snapshot: what is known of the node.
            now_ns: now, on the clock of the snapshot.
            browsers: connected to the page.
            accept: the scraper's Accept header.

        Returns:
            The text and its content type.
        """
        statistics = snapshot.statistics
        stale = statistics is None or now_ns - statistics.at_ns > _STATISTICS_STALE_S * NS_PER_S
        if snapshot.status != "live":
            self._failures.labels("decision").inc()
        if stale:
            self._failures.labels("statistics").inc()
        families = list(self._of_view(snapshot, browsers))
        if snapshot.status == "live" and snapshot.decision is not None:
            families += self._of_decision(snapshot, snapshot.decision)
        if statistics is not None and not stale:
            families += _of_statistics(statistics.message)
        encoder, content_type = choose_encoder(accept)
        once = CollectorRegistry()
        once.register(_Ready(lambda: [*families, *self._registry.collect()]))
        return encoder(once), content_type

    def _of_view(self, snapshot: Snapshot, browsers: int) -> Iterable[Metric]:
        build = {"version": self._version, "rig": self._rig.name}
        if snapshot.decision is not None:
            build |= {"bundle": snapshot.decision.bundle, "fill": snapshot.decision.fill}
        if snapshot.statistics is not None:
            build["backend"] = str(snapshot.statistics.message.values.get("backend", ""))
        yield InfoMetricFamily("afterimage_build", "What runs.", value=build)
        yield GaugeMetricFamily(
            "afterimage_node_up", "Whether decisions come.", value=float(snapshot.status == "live")
        )
        yield GaugeMetricFamily("afterimage_page_browsers", "Browsers on the page.", value=browsers)
        yield CounterMetricFamily(
            "afterimage_decisions_lost",
            "Decisions that the node missed or that did not reach this exporter.",
            value=snapshot.lost,
        )

    def _of_decision(self, snapshot: Snapshot, decision: Decision) -> Iterable[Metric]:
        states = GaugeMetricFamily(
            "afterimage_sensor_state", "1 for the state that the sensor is in.", labels=["modality", "state"]
        )
        age = GaugeMetricFamily(
            "afterimage_sensor_age_seconds", "Age of the newest evidence at the tick.", labels=["modality"]
        )
        share = GaugeMetricFamily(
            "afterimage_imputed_ratio",
            "Share of the last minute's decisions that stood on an estimate of the modality.",
            labels=["modality"],
        )
        rate = GaugeMetricFamily(
            "afterimage_sensor_rate_hertz", "Messages per second over the last second.", labels=["modality"]
        )
        for modality, report in decision.modalities.items():
            for state in State:
                states.add_metric([modality, state.value], float(report.state == state.value))
            if report.age_ms is not None:
                age.add_metric([modality], report.age_ms / 1000)
        for modality, value in imputed_shares(self._rig.modality_names, snapshot.points).items():
            share.add_metric([modality], value)
        for modality, value in snapshot.rates_hz.items():
            rate.add_metric([modality], value)
        yield from (states, age, share, rate)
        yield GaugeMetricFamily(
            "afterimage_decision_entropy_nats", "Entropy of the newest decision.", value=decision.entropy
        )


def _of_statistics(statistics: Statistics) -> list[Metric]:
    """The node's own counters and latencies."""
    messages: Mapping[str, Any] = statistics.values.get("messages", {})
    ticks = CounterMetricFamily("afterimage_ticks", "Ticks, by what became of them.", labels=["outcome"])
    for outcome, count in messages.get("ticks", {}).items():
        ticks.add_metric([outcome], count)
    errors = CounterMetricFamily("afterimage_engine_errors", "Failures of the engine.", labels=["stage"])
    for stage, error in statistics.values.get("errors", {}).items():
        errors.add_metric([stage], error.get("count", 0))
    latency = Metric(
        "afterimage_stage_latency_seconds", "Duration of the node's stages since its start.", "summary"
    )
    for stage, summary in statistics.values.get("latency_ms", {}).items():
        _add_summary(latency, stage, summary)
    return [
        ticks,
        errors,
        latency,
        *_of_messages(messages),
        GaugeMetricFamily(
            "afterimage_messages_unaccounted",
            "Messages that went nowhere; always 0.",
            value=messages.get("unaccounted", 0),
        ),
        CounterMetricFamily(
            "afterimage_node_cpu_seconds",
            "CPU time of the node.",
            value=statistics.values.get("cpu_seconds", 0),
        ),
        GaugeMetricFamily(
            "afterimage_node_uptime_seconds",
            "Since the node's start.",
            value=statistics.values.get("seconds", 0),
        ),
    ]


def _of_messages(messages: Mapping[str, Any]) -> list[Metric]:
    """What became of messages, by modality; it is empty for messages that belong to none."""
    received = CounterMetricFamily("afterimage_messages_received", "Messages that came.", labels=["modality"])
    used = CounterMetricFamily(
        "afterimage_messages_used", "Messages in a window encoded.", labels=["modality"]
    )
    lost = CounterMetricFamily("afterimage_messages_lost", "Messages that never came.", labels=["modality"])
    restarts = CounterMetricFamily(
        "afterimage_sensor_restarts", "Restarts of the sensor.", labels=["modality"]
    )
    pending = GaugeMetricFamily("afterimage_messages_pending", "Messages in the buffer.", labels=["modality"])
    dropped = CounterMetricFamily(
        "afterimage_messages_dropped", "Messages that did not reach the model.", labels=["modality", "reason"]
    )
    windows = CounterMetricFamily(
        "afterimage_windows", "Windows, by what became of them.", labels=["modality", "outcome"]
    )
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        "received": received,
        "used": used,
        "lost": lost,
        "restarts": restarts,
        "pending": pending,
    }
    for modality, counters in {
        **messages.get("modalities", {}),
        "": messages.get("unattributed", {}),
    }.items():
        for key, family in families.items():
            if key in counters:
                family.add_metric([modality], counters[key])
        for reason, count in counters.get("dropped", {}).items():
            dropped.add_metric([modality, reason], count)
        for outcome, count in counters.get("windows", {}).items():
            windows.add_metric([modality, outcome], count)
    return [*families.values(), dropped, windows]


def _add_summary(family: Metric, stage: str, summary: Mapping[str, Any]) -> None:
    count, mean = summary.get("count", 0), summary.get("mean")
    for quantile, key in _QUANTILES.items():
        if summary.get(key) is not None:
            family.add_sample(family.name, {"stage": stage, "quantile": quantile}, summary[key] / 1000)
    family.add_sample(f"{family.name}_count", {"stage": stage}, count)
    family.add_sample(f"{family.name}_sum", {"stage": stage}, count * (mean or 0.0) / 1000)


class _Ready(Collector):
    """A collector of metrics that were made elsewhere."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        return self._families()
