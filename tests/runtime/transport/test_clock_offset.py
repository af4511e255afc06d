"""Offsets from probes: the truth is always within what is claimed, whatever the network does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.transport.clock_offset import OffsetEstimator
from runtime.wire.control import Probe

MS = 1_000_000
SECOND = 1000 * MS
MICROSECONDS = st.integers(1_000, 20 * MS)


def probe(sent_node_ns: int, offset: float, rate: float, out: int, back: int, work: int = 50_000) -> Probe:
    """A round trip of a sensor whose clock shows ``t + offset + rate * t`` at node time t."""

    def shown(t: int) -> int:
        return round(t + offset + rate * t)

    received = sent_node_ns + out
    return Probe(shown(sent_node_ns), received, received + work, shown(received + work + back))


@settings(max_examples=60, deadline=None)
@given(
    offset=st.integers(-(10**15), 10**15),
    rate=st.floats(-199e-6, 199e-6),
    delays=st.lists(st.tuples(MICROSECONDS, MICROSECONDS), min_size=1, max_size=40),
    late=st.integers(0, 30 * SECOND),
)
# The clock drifts while the answer is on its way: what the question told is older than the answer.
@example(offset=0, rate=-199e-6, delays=[(1000, 20 * MS)], late=0)
def test_the_true_offset_is_within_the_uncertainty_for_any_delays(
    offset: int, rate: float, delays: list[tuple[int, int]], late: int
) -> None:
    estimator, t = OffsetEstimator(drift_ppm=200), 0
    for out, back in delays:
        assert estimator.add(probe(t, offset, rate, out, back))
        t += SECOND
    assert estimator.reanchored == 0
    t += late
    found = estimator.offset(round(t + offset + rate * t))
    assert found is not None
    assert abs(found.offset_ns - (offset + rate * t)) <= found.uncertainty_ns + 2


def test_the_shortest_round_trips_decide() -> None:
    """One probe of 100 us among slow ones: the uncertainty is that one's, plus drift since."""
    estimator = OffsetEstimator(drift_ppm=100)
    for n, (out, back) in enumerate([(9 * MS, 1 * MS), (50_000, 50_000), (20 * MS, 100_000)]):
        estimator.add(probe(n * SECOND, 5 * SECOND, 0.0, out, back))
    found = estimator.offset(2 * SECOND + 5 * SECOND)
    assert found is not None
    assert abs(found.offset_ns - 5 * SECOND) <= found.uncertainty_ns <= 50_000 + 100_000


def test_a_clock_that_is_set_is_found_out_by_the_next_probe() -> None:
    estimator = OffsetEstimator()
    for n in range(10):
        estimator.add(probe(n * SECOND, 0, 0.0, MS, MS))
    estimator.add(probe(10 * SECOND, 3 * SECOND, 0.0, MS, MS))
    assert estimator.reanchored == 1
    found = estimator.offset(13 * SECOND)
    assert found is not None
    assert abs(found.offset_ns - 3 * SECOND) <= found.uncertainty_ns <= 2 * MS


def test_drift_beyond_the_limit_is_counted() -> None:
    estimator = OffsetEstimator(drift_ppm=50)
    for n in range(60):
        estimator.add(probe(n * SECOND, 0, 5000e-6, 100_000, 100_000))
    assert estimator.reanchored > 10


@pytest.mark.parametrize(
    "impossible",
    [Probe(10, 0, 5, 9), Probe(0, 5, 4, 10), Probe(0, 0, 100, 50)],
    ids=["returned", "replied", "bounds"],
)
def test_what_cannot_be_is_left_out(impossible: Probe) -> None:
    estimator = OffsetEstimator()
    assert not estimator.add(impossible)
    assert estimator.offset(0) is None


def test_nothing_known_is_none() -> None:
    assert OffsetEstimator().offset(0) is None


def test_uncertainty_grows_with_time_without_probes() -> None:
    estimator = OffsetEstimator(drift_ppm=100)
    estimator.add(probe(0, 0, 0.0, 0, 0, work=0))
    widths = [estimator.offset(n * SECOND).uncertainty_ns for n in (0, 1, 10)]  # type: ignore[union-attr]
    np.testing.assert_allclose(widths, [0, 100_000, 1_000_000], atol=1)
