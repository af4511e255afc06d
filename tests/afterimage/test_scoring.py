import math

import pytest

from afterimage.demo.scoring import (
    FaultInterval,
    HealthRecord,
    TickRecord,
    accuracy_by_pattern,
    detection_delays,
    false_alarms,
    is_settled,
    percentiles,
    recovery_times,
)

NAMES = ("rgb", "eeg")


def tick(time_s, label, truth, *, settled=True, live=NAMES, others=None):
    states = {n: "live" if n in live else "missing" for n in NAMES}
    return TickRecord(
        time_s, label, truth, settled, states, tuple(n for n in NAMES if n not in live), (1.0,), others or {}
    )


def test_accuracy_counts_settled_ticks_only_and_every_policy():
    ticks = [
        tick(0, "go", "go", others={"hold": "stop"}),
        tick(1, "go", "stop", others={"hold": "stop"}),
        tick(2, "go", "stop", settled=False),
        tick(3, "go", "go", live=("eeg",)),
    ]
    table = accuracy_by_pattern(ticks, NAMES)
    assert table["impute"]["rgb+eeg"] == {"accuracy": 0.5, "ticks": 2}
    assert table["hold"]["rgb+eeg"] == {"accuracy": 0.5, "ticks": 2}
    assert table["impute"]["eeg"]["ticks"] == 1


def test_a_fault_nobody_noticed_has_infinite_delay():
    faults = [FaultInterval("rgb", "silence", 1.0, 2.0), FaultInterval("rgb", "silence", 5.0, 6.0)]
    events = [HealthRecord(1.12, "rgb", "live", "missing", "silence")]
    assert detection_delays(events, faults) == {"rgb": [pytest.approx(0.12), math.inf]}


def test_a_fault_is_noticed_only_by_the_state_that_names_it():
    faults = [FaultInterval("rgb", "freeze", 1.0, 2.0)]
    assert detection_delays([HealthRecord(1.5, "rgb", "live", "missing", "")], faults, None) == {
        "rgb": [math.inf]
    }


def test_alarms_during_a_fault_or_its_recovery_are_not_false():
    faults = [FaultInterval("rgb", "silence", 10.0, 12.0)]
    events = [HealthRecord(t, "rgb", "live", "missing", "") for t in (10.1, 12.5, 20.0)]
    rates = false_alarms(events, faults, NAMES, (0.0, 39.0), {"rgb": 1.0, "eeg": 4.0})
    assert rates == {"rgb": pytest.approx(3600 / 36), "eeg": 0.0}


def test_recovery_counts_from_the_faults_end_and_stops_at_the_next_fault():
    faults = [FaultInterval("rgb", "silence", 1.0, 2.0), FaultInterval("rgb", "silence", 3.0, 4.0)]
    events = [HealthRecord(4.5, "rgb", "missing", "live", "")]
    assert recovery_times(events, faults) == {"rgb": [math.inf, 0.5]}


def test_settled_needs_the_longest_trusted_window_after_the_change():
    window = {"rgb": 0.0, "eeg": 3.0}
    assert is_settled(1.0, 0.0, window, ("rgb",))
    assert not is_settled(1.0, 0.0, window, ("rgb", "eeg"))


def test_percentiles_are_observed_values():
    assert percentiles([3, 1, 2, 10], 50, 95) == {"p50": 2.0, "p95": 10.0}
    assert percentiles([], 50) == {"p50": None}
