"""Metrics: the text that Prometheus scrapes, read with Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from published import MS, NAMES, decision, statistics

from runtime.rig import load_rig
from runtime.view.state import ViewState

pytest.importorskip("prometheus_client", reason="of the `view` extra, which is not installed")
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from runtime.view.metrics import NodeMetrics

S = 1000 * MS
RIG = load_rig("commands-4")
Value = Callable[..., float | None]


def scrape(metrics: NodeMetrics, state: ViewState, now_ns: int) -> Value:
    text, content_type = metrics.text(state.snapshot(now_ns), now_ns, browsers=2)
    assert content_type.startswith("text/plain; version=")
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }
    names = [name for name, _ in samples]
    assert names
    assert all(name.startswith("afterimage_") for name in names)
    return lambda name, **labels: samples.get((f"afterimage_{name}", tuple(sorted(labels.items()))))


def test_a_live_node_in_full() -> None:
    state, metrics = ViewState(RIG), NodeMetrics(RIG, "1.2.3")
    for tick in range(20):
        one = decision(tick, tick * 50 * MS, ("depth",) if tick >= 15 else ())
        state.add(one, tick * 50 * MS)
        metrics.decided(one)
    state.add(statistics(0, received=100), 0)
    state.add(statistics(S, received=130), S)
    value = scrape(metrics, state, S)
    assert value("node_up") == 1
    assert value("page_browsers") == 2
    assert (
        value(
            "build_info", version="1.2.3", rig="commands-4", bundle="b", fill="impute", backend="onnxruntime"
        )
        == 1
    )
    assert value("sensor_state", modality="depth", state="missing") == 1
    assert value("sensor_state", modality="depth", state="live") == 0
    assert value("sensor_state", modality="rgb", state="live") == 1
    assert value("sensor_age_seconds", modality="rgb") == 0.02
    assert value("sensor_rate_hertz", modality="eeg") == 30
    assert value("imputed_ratio", modality="depth") == 0.25
    assert value("imputed_decisions_total", modality="depth") == 5
    assert value("imputed_decisions_total", modality="rgb") == 0
    assert value("decisions_seen_total") == 20
    assert value("decision_lateness_seconds_count") == 20
    assert value("decision_lateness_seconds_bucket", le="0.001") == 20
    assert value("decision_lateness_seconds_bucket", le="0.0005") == 0
    assert value("frame_to_decision_seconds_sum") == pytest.approx(0.4)
    assert value("ticks_total", outcome="published") == 240
    assert value("ticks_total", outcome="missed") == 1
    assert value("messages_received_total", modality="audio") == 130
    assert value("messages_dropped_total", modality="audio", reason="superseded") == 2
    assert value("messages_lost_total", modality="rgb") == 5
    assert value("messages_unaccounted") == 0
    assert value("windows_total", modality="rgb", outcome="encoded") == 90
    assert value("engine_errors_total", stage="encode_rgb") == 2
    assert value("stage_latency_seconds", stage="fuse", quantile="0.99") == 0.004
    assert value("stage_latency_seconds_count", stage="fuse") == 4
    assert value("stage_latency_seconds_sum", stage="fuse") == 0.008
    assert value("scrape_errors_total", what="decision") is None


def test_a_node_that_does_not_answer_leaves_its_series_out_and_counts_as_a_scrape_error() -> None:
    state, metrics = ViewState(RIG), NodeMetrics(RIG, "1")
    value = scrape(metrics, state, 0)
    assert (value("node_up"), value("scrape_errors_total", what="decision")) == (0, 1)
    assert value("scrape_errors_total", what="statistics") == 1
    one = decision(0, 0)
    state.add(one, 0)
    metrics.decided(one)
    state.add(statistics(0), 0)
    assert scrape(metrics, state, S)("node_up") == 1
    value = scrape(metrics, state, 20 * S)
    assert (value("node_up"), value("scrape_errors_total", what="decision")) == (0, 2)
    for m in NAMES:
        assert value("sensor_age_seconds", modality=m) is None
        assert value("messages_received_total", modality=m) is None
    assert value("decisions_seen_total") == 1, "what was counted here stays counted"


def test_open_metrics_for_those_who_ask_for_it() -> None:
    state, metrics = ViewState(RIG), NodeMetrics(RIG, "1")
    state.add(decision(0, 0), 0)
    state.add(statistics(0), 0)
    accept = "application/openmetrics-text; version=1.0.0"
    text, content_type = metrics.text(state.snapshot(0), 0, 0, accept)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert len(list(parse_openmetrics(text.decode()))) > 15
