from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from process_under_test import python, run_to_end

from runtime.rig import Rig
from runtime.signals.moments import Moments, Split
from runtime.signals.playback import MomentPlan, Playback, plan_for


def make_rig(rate_hz: float = 256, chunk: int = 8) -> Rig:
    sensor = {"modality": "eeg", "kind": "eeg", "sample_shape": [2], "dtype": "float32", "unit": "uV"}
    return Rig.model_validate(
        {"version": 1, "name": "one", "sensors": [{**sensor, "rate_hz": rate_hz, "chunk": chunk}]}
    )


class CountingSource:
    """Every sample says which moment and which sample of it this is."""

    name = "synthetic"
    classes = ("a", "b", "c")

    def __init__(self, rig: Rig, duration_s: float = 2.0, labels: tuple[int, ...] = (0, 1, 2) * 5) -> None:
        self.rig = rig
        self.duration_s = duration_s
        self.settle_s: dict[str, float] = {}
        self.labels = np.array(labels, dtype=np.int64)

    def moments(self, split: Split) -> Moments:
        return Moments(self.labels, {})

    def read(self, split: Split, moment: int, modality: str, start: int, count: int) -> np.ndarray[Any, Any]:
        available = int(self.duration_s * self.rig.sensor(modality).rate_hz + 1e-6)
        if start < 0 or start + count > available:
            raise IndexError(f"{start}..{start + count} of {available}")
        index = np.arange(start, start + count, dtype=np.float32)
        return np.stack([np.full(count, moment, dtype=np.float32), index], axis=1)


def test_a_plan_never_plays_one_class_twice_in_a_row_and_balances_classes() -> None:
    for seed in range(20):
        plan = MomentPlan(np.repeat([0, 1, 2, 3], 5), 5.0, seed=seed, split="test")
        spans = [plan.at(i) for i in range(100)]
        labels = [s.label for s in spans]
        assert all(a != b for a, b in itertools.pairwise(labels))
        assert np.bincount(labels).tolist() == [25] * 4
        assert sorted(s.moment for s in spans[:20]) == list(range(20)), "a round visits every moment once"


def test_plans_differ_by_seed_and_by_split_and_not_by_process() -> None:
    labels = np.repeat([0, 1, 2, 3], 50)

    def order(seed: int, split: Split) -> list[int]:
        plan = MomentPlan(labels, 5.0, seed=seed, split=split)
        return [plan.at(i).moment for i in range(30)]

    assert order(1, "test") != order(2, "test")
    assert order(1, "test") != order(1, "train")
    code = (
        "import numpy as np; from runtime.signals.playback import MomentPlan;"
        "p = MomentPlan(np.repeat([0, 1, 2, 3], 50), 5.0, seed=1, split='test');"
        "print([p.at(i).moment for i in range(30)])"
    )
    assert run_to_end(python(code)).stdout.strip() == str(order(1, "test"))


def test_a_late_round_is_the_same_whether_or_not_the_rounds_before_were_played() -> None:
    labels = np.repeat([0, 1, 2], 4)
    played = MomentPlan(labels, 1.0, seed=3, split="test")
    for i in range(1000):
        played.at(i)
    assert MomentPlan(labels, 1.0, seed=3, split="test").at(5000) == played.at(5000)


@pytest.mark.parametrize("labels", [[0], [0, 1], [1, 1, 1], [2, 5]])
def test_small_splits_play(labels: list[int]) -> None:
    plan = MomentPlan(np.array(labels), 1.0, seed=0, split="test")
    assert {plan.at(i).label for i in range(20)} == set(labels)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no moments"):
        MomentPlan(np.array([], dtype=np.int64), 1.0, seed=0, split="test")


def test_span_at_gives_a_boundary_to_the_moment_that_ends_there() -> None:
    plan = MomentPlan(np.repeat([0, 1], 4), 2.0, seed=0, split="test")
    assert plan.span_at(0) is None
    assert plan.span_at(-5) is None
    for elapsed, position in [(1, 0), (2_000_000_000, 0), (2_000_000_001, 1), (4_000_000_000, 1)]:
        span = plan.span_at(elapsed)
        assert span is not None
        assert span.position == position
        assert span.start_ns < elapsed <= span.end_ns


def test_a_playback_delivers_every_sample_once_in_order_with_ideal_capture_times() -> None:
    source = CountingSource(make_rig())
    playback = Playback(source, "eeg", plan_for(source, "test", seed=0))
    chunks = [playback.read(i) for i in range(128)]  # 64 messages a moment
    flat = np.concatenate([c.samples for c in chunks])
    assert flat[:512, 1].tolist() == list(range(512))
    assert flat[512:, 1].tolist() == list(range(512))
    assert set(flat[:512, 0]) == {chunks[0].span.moment}
    assert set(flat[512:, 0]) == {chunks[64].span.moment}
    assert chunks[0].elapsed_ns == 31_250_000
    assert chunks[63].elapsed_ns == 2_000_000_000
    assert chunks[63].span.position == 0
    assert chunks[64].span.position == 1


def test_a_chunk_that_straddles_two_moments_takes_from_both() -> None:
    source = CountingSource(make_rig(rate_hz=10, chunk=8))  # 20 samples a moment
    playback = Playback(source, "eeg", plan_for(source, "test", seed=0))
    straddling = playback.read(2).samples
    assert straddling[:, 1].tolist() == [16, 17, 18, 19, 0, 1, 2, 3]
    assert straddling[3, 0] == playback.plan.at(0).moment
    assert straddling[4, 0] == playback.plan.at(1).moment


@pytest.mark.parametrize("rate_hz", [29.97, 30, 7.3, 1000.1])
def test_a_rate_that_does_not_divide_the_moment_neither_drifts_nor_overruns(rate_hz: float) -> None:
    source = CountingSource(make_rig(rate_hz=rate_hz, chunk=3))
    playback = Playback(source, "eeg", plan_for(source, "test", seed=0))
    for index in range(500):
        chunk = playback.read(index)
        assert chunk.samples.shape == (3, 2)
        assert chunk.elapsed_ns == pytest.approx((index + 1) * 3e9 / rate_hz, abs=1)
        assert chunk.samples[-1, 0] == chunk.span.moment


@pytest.mark.parametrize("elapsed_ns", [-10, 0, 1, 31_249_999, 31_250_000, 31_250_001, 10**12, 10**15 + 1])
def test_a_restarted_sensor_joins_in_at_the_first_message_still_to_come(elapsed_ns: int) -> None:
    source = CountingSource(make_rig())
    playback = Playback(source, "eeg", plan_for(source, "test", seed=0))
    index = playback.next_index(elapsed_ns)
    assert playback.elapsed_ns(index) >= elapsed_ns
    assert index == 0 or playback.elapsed_ns(index - 1) < elapsed_ns


def test_a_moment_shorter_than_a_message_is_refused() -> None:
    source = CountingSource(make_rig(rate_hz=10, chunk=50))
    with pytest.raises(ValueError, match="holds 20 samples"):
        Playback(source, "eeg", plan_for(source, "test", seed=0))
