from __future__ import annotations

import json

import numpy as np
import pytest

from runtime.latency import LatencyReservoir


def test_percentiles_are_exact_while_all_is_kept() -> None:
    reservoir = LatencyReservoir(1000)
    values = np.random.default_rng(0).exponential(5.0, 1000)
    for v in values:
        reservoir.add(float(v))
    summary = reservoir.summary()
    assert summary["p50"] == pytest.approx(np.percentile(values, 50))
    assert summary["p99"] == pytest.approx(np.percentile(values, 99))
    assert summary["max"] == values.max()
    assert summary["mean"] == pytest.approx(values.mean())


def test_a_long_run_keeps_its_beginning_and_its_worst_in_bounded_memory() -> None:
    reservoir = LatencyReservoir(500)
    reservoir.add(1e6)
    for i in range(20_000):
        reservoir.add(float(i % 100))
    for _ in range(20_000):
        reservoir.add(1000.0)
    assert reservoir.count == 40_001
    assert reservoir.maximum_ms == 1e6
    below = reservoir.percentile(40)
    assert below is not None
    assert below < 100, "the first half still counts"
    above = reservoir.percentile(60)
    assert above == 1000


def test_an_empty_one_says_so_in_json() -> None:
    assert json.loads(json.dumps(LatencyReservoir().summary()))["p99"] is None
