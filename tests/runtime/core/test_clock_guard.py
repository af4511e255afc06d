"""Clocks that jump, drift, or were never right: noticed, followed where that is possible, and never for long."""

from __future__ import annotations

import pytest
from pipeline_bench import MS, SECOND, START, Bench

from runtime.core.clock_guard import ClockGuard
from runtime.core.pipeline import Received, State
from runtime.wire import Clock

DELAY = 5 * MS


@pytest.fixture
def steady(live: Bench) -> Bench:
    """All live, audio taking five milliseconds to arrive."""
    live.delay_ns["audio"] = DELAY
    live.run(1.0)
    live.events.clear()
    live.encoded.clear()
    return live


def alignment_errors(bench: Bench, since_ns: int) -> list[int]:
    """How far the capture times of audio windows are from the truth; windows end with the message that came last."""
    return [
        abs(capture - (at - DELAY))
        for modality, capture, at in bench.encoded
        if modality == "audio" and at > since_ns
    ]


@pytest.mark.parametrize("jump_s", [-3600.0, -2.0, -0.3, 0.2, 10.0, 86400.0])
def test_a_clock_that_is_set_is_bad_then_followed_and_aligned_again(steady: Bench, jump_s: float) -> None:
    since = steady.now
    steady.stamp["audio"] = lambda true: true + round(jump_s * SECOND)
    steady.run(2.0)
    reason = "backward" if jump_s < 0 else "future"
    assert steady.changes("audio") == [("live", "bad_clock", reason), ("bad_clock", "live", "recovered")]
    counters = steady.pipeline.counters()
    assert counters["modalities"]["audio"]["dropped"][reason] == 2, (
        "three messages prove it, the third is used"
    )
    assert counters["unaccounted"] == 0
    assert counters["modalities"]["audio"]["clock_reanchored"] == 1
    errors = alignment_errors(steady, since + SECOND)
    assert len(errors) > 10
    assert max(errors) <= 2 * MS


def test_a_clock_that_is_set_right_again_needs_no_correction(steady: Bench) -> None:
    steady.stamp["audio"] = lambda true: true - 2 * SECOND
    steady.run(2.0)
    del steady.stamp["audio"]
    steady.run(2.0)
    assert steady.pipeline.state("audio") is State.LIVE
    assert steady.pipeline.counters()["modalities"]["audio"]["clock_reanchored"] == 2
    assert max(alignment_errors(steady, steady.now - SECOND)) <= 1, "corrected by nothing, so exact"


def test_a_clock_set_right_again_is_not_corrected_by_what_its_messages_then_take_longer() -> None:
    guard = ClockGuard(agreeing=3, late_ns=250 * MS, period_ns=20 * MS)
    guard.accepted(START - DELAY, START)
    for set_back_ns, takes_ns, corrected_ns in ((2 * SECOND, DELAY, 2 * SECOND), (0, DELAY + 4 * MS, 0)):
        for number in range(3):
            now_ns = START + number * 20 * MS
            captured_ns = now_ns - takes_ns - set_back_ns + guard.correction_ns
            assert guard.refused(number, captured_ns, now_ns) == (number == 2)
        assert guard.correction_ns == corrected_ns


@pytest.mark.parametrize("jump_s", [-50.0, 50.0])
def test_one_wrong_stamp_costs_one_message(steady: Bench, jump_s: float) -> None:
    steady.send("rgb", capture_ns=steady.now + round(jump_s * SECOND))
    steady.run(1.0)
    assert steady.events == []
    assert steady.pipeline.state("rgb") is State.LIVE


def test_wrong_stamps_that_do_not_agree_are_never_followed(steady: Bench) -> None:
    wild = [7, 3600, 12, 900, 44, 5, 5000, 61, 33, 2]
    for seconds in wild:
        steady.now += steady.period("audio")
        steady.send("audio", capture_ns=steady.now + seconds * SECOND)
        steady.pipeline.check(steady.now)
    assert steady.pipeline.counters()["modalities"]["audio"]["clock_reanchored"] == 0
    assert steady.pipeline.counters()["modalities"]["audio"]["dropped"]["future"] == len(wild)


def test_a_clock_that_was_never_right_stays_bad(bench: Bench) -> None:
    """Nothing tells how long its messages take, so nothing can correct it."""
    bench.stamp["audio"] = lambda true: true + 100 * SECOND
    bench.run(3.0)
    assert bench.pipeline.state("audio") is State.BAD_CLOCK
    assert bench.pipeline.state("rgb") is State.LIVE
    assert bench.pipeline.counters()["modalities"]["audio"]["clock_reanchored"] == 0


def test_a_clock_that_runs_fast_is_flagged_and_kept_within_the_tolerance(steady: Bench) -> None:
    """One per cent: 50 ms ahead every five seconds."""
    since = steady.now
    steady.stamp["audio"] = lambda true: true + (true - since) // 100
    steady.run(20.0)
    assert 2 <= steady.pipeline.counters()["modalities"]["audio"]["clock_reanchored"] <= 5
    assert ("live", "bad_clock", "future") in steady.changes("audio")
    assert max(alignment_errors(steady, since)) <= 60 * MS


def test_an_offset_that_is_not_known_well_enough_is_a_bad_clock(steady: Bench) -> None:
    vague = Clock("device", offset_ns=0, uncertainty_ns=150 * MS)
    for _ in range(3):
        steady.now += steady.period("rgb")
        assert isinstance(steady.send("rgb", clock=vague), Received)
        steady.pipeline.check(steady.now)
    event = steady.pipeline.events()[0]
    assert (event.modality, event.state, event.reason) == ("rgb", "bad_clock", "uncertain")
    assert "0.150 s" in event.detail


def test_an_offset_known_just_well_enough_is_no_fault(steady: Bench) -> None:
    barely = Clock(
        "device", offset_ns=0, uncertainty_ns=round(steady.rig.health.clock_uncertainty_s * SECOND)
    )
    steady.now += steady.period("rgb")
    assert isinstance(steady.send("rgb", clock=barely), Received)
    steady.pipeline.check(steady.now)
    assert steady.pipeline.events() == []


def test_a_set_clock_never_lets_time_run_backwards_in_what_is_encoded(steady: Bench) -> None:
    for jump in (-5, 4, -1, 3):
        steady.stamp["audio"] = lambda true, jump=jump: true + jump * SECOND
        steady.run(1.0)
    captures = [capture for modality, capture, _ in steady.encoded if modality == "audio"]
    assert captures == sorted(captures)
    assert captures[0] > START
