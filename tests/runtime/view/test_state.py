"""The view's state under a clock of integers: latest wins, nothing grows, and it says what it does not know."""

from __future__ import annotations

import pytest
from published import MS, NAMES, decision, observation, statistics

from runtime.rig import TickPolicy, load_rig
from runtime.view.state import ViewState, imputed_shares
from runtime.wire import HealthEvent

S = 1000 * MS
APART = 7 * S  # the node's clock is not the view's


@pytest.fixture
def state() -> ViewState:
    return ViewState(load_rig("commands-4"))


def event(at_ns: int, modality: str = "depth") -> HealthEvent:
    return HealthEvent("commands-4", modality, at_ns, "live", "missing", "silence", "0.1 s")


def test_a_node_that_never_answered_is_absent_and_one_that_stopped_is_not_live(state: ViewState) -> None:
    assert (state.status(5 * S), state.snapshot(5 * S).silent_s) == ("absent", None)
    state.add(decision(0, 5 * S + APART), 5 * S)
    assert state.status(6 * S) == "live"
    assert state.status(6 * S + 1) == "stopped"
    snapshot = state.snapshot(8 * S)
    assert (snapshot.status, snapshot.silent_s) == ("stopped", 3.0)
    assert snapshot.node_ns == 8 * S + APART + MS
    state.add(decision(1, 8 * S + APART), 8 * S)
    assert state.status(8 * S) == "live"


def test_a_slow_tick_is_given_three_periods() -> None:
    rig = load_rig("commands-4").model_copy(update={"tick": TickPolicy(rate_hz=0.5)})
    state = ViewState(rig)
    state.add(decision(0, 0), 0)
    assert state.status(6 * S) == "live"
    assert state.status(6 * S + 1) == "stopped"


def test_history_is_the_last_minute_and_never_longer_than_its_ring(state: ViewState) -> None:
    for tick in range(2000):
        state.add(decision(tick, tick * 50 * MS), tick * 50 * MS)
    points = state.snapshot(1999 * 50 * MS).points
    assert len(points) == 1200  # the tick of a minute ago is a minute and the millisecond it took old
    assert points[-1].at_ns - points[0].at_ns == 60 * S - 50 * MS
    assert [p.serial for p in points] == list(range(points[0].serial, points[0].serial + len(points)))
    point = points[-1]
    assert (point.lateness_ms, point.frame_to_decision_ms) == (1.0, 20.0)
    assert point.probabilities == (0.125, 0.5, 0.25, 0.125)


def test_fast_ticks_are_thinned_but_every_change_of_state_is_kept(state: ViewState) -> None:
    for tick in range(100_000):
        missing = ("rgb",) if tick == 99_990 else ()
        state.add(decision(tick, tick * MS, missing), tick * MS)
    snapshot = state.snapshot(99_999 * MS)
    assert len(snapshot.points) <= 2400
    assert snapshot.points[-1].at_ns - snapshot.points[0].at_ns > 55 * S
    assert [p.at_ns for p in snapshot.points if p.imputed[0]] == [99_990 * MS]
    assert snapshot.decision is not None
    assert snapshot.decision.tick == 99_999, "the newest decision is shown, thinned or not"


def test_only_the_newest_of_every_observation_is_kept(state: ViewState) -> None:
    for n in range(1000):
        for modality in NAMES:
            state.add(observation(modality, "best", at_ns=n), n)
    state.add(observation("rgb", "imputed", imputed=True), 5)
    kept = state.snapshot(1000).observations
    assert set(kept) == {*((m, "best") for m in NAMES), ("rgb", "imputed")}
    assert {s.message.published_ns for k, s in kept.items() if k[1] == "best"} == {999}
    state.forget_observations()
    assert not state.snapshot(1000).observations


def test_state_changes_are_numbered_and_bounded(state: ViewState) -> None:
    for n in range(1000):
        state.add(event(n), n)
    state.add(event(1001, "lidar"), 1001)  # not of this rig
    events = state.snapshot(1002).events
    assert len(events) == 256
    assert [n for n, _ in events] == list(range(745, 1001))


def test_rates_come_from_two_statistics_of_one_run(state: ViewState) -> None:
    state.add(statistics(10 * S, received=100), 0)
    assert state.snapshot(0).rates_hz == {}
    state.add(statistics(12 * S, received=160), 2 * S)
    assert state.snapshot(2 * S).rates_hz == dict.fromkeys(NAMES, 30.0)
    state.add(statistics(1 * S, received=3), 3 * S)  # started again, on a machine that was
    assert state.snapshot(3 * S).rates_hz == {}


def test_a_node_started_again_begins_a_run_and_keeps_the_line_of_time_of_its_clock(state: ViewState) -> None:
    state.add(decision(100, 10 * S), 0)
    state.add(observation("rgb"), 0)
    state.add(event(10 * S), 0)
    state.add(decision(0, 12 * S), 2 * S)
    snapshot = state.snapshot(2 * S)
    assert (snapshot.run, len(snapshot.points), len(snapshot.events)) == (1, 2, 1)
    assert not snapshot.observations
    state.add(decision(0, 1 * S), 3 * S)  # its machine was started again: times before mean nothing
    snapshot = state.snapshot(3 * S)
    assert (snapshot.run, len(snapshot.points), len(snapshot.events)) == (2, 1, 0)


def test_the_share_of_imputed_decisions(state: ViewState) -> None:
    assert imputed_shares(NAMES, state.snapshot(0).points) == {}
    for tick in range(10):
        state.add(decision(tick, tick * 50 * MS, ("depth",) if tick < 3 else ()), tick * 50 * MS)
    shares = imputed_shares(NAMES, state.snapshot(500 * MS).points)
    assert shares == {"rgb": 0.0, "depth": 0.3, "audio": 0.0, "eeg": 0.0}
