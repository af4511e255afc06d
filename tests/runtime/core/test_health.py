"""The health of one modality, rule by rule, under a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.health import HealthLimits, HealthMonitor, State
from runtime.rig import HealthPolicy, SensorSpec

MS = 1_000_000
PERIOD = 33 * MS
LIMITS = HealthLimits(
    silence_ns=100 * MS,
    even_silence_ns=85 * MS,
    period_ns=PERIOD,
    first_frame_ns=2000 * MS,
    first_window_ns=3000 * MS,
    late_ns=250 * MS,
    stale_ns=320 * MS,
    frozen_frames=5,
    recover_frames=3,
)


class Sensed:
    """A monitor with a clock: each step is one message and, unless told otherwise, good evidence from it."""

    def __init__(self) -> None:
        self.monitor = HealthMonitor(LIMITS, 0)
        self.now = 0

    def frame(
        self, *, age: int = 0, identical: bool = False, check: str | None = None, evidence: bool = True
    ) -> State:
        self.now += PERIOD
        self.monitor.message(self.now, self.now - age, identical=identical)
        self.monitor.window(check, "numbers")
        if evidence and check is None:
            self.monitor.evidence(self.now - age)
        return self.monitor.check(self.now)

    def wait(self, ns: int) -> State:
        self.now += ns
        return self.monitor.check(self.now)


@pytest.fixture
def sensed() -> Sensed:
    sensed = Sensed()
    assert [sensed.frame() for _ in range(3)] == [State.WAITING, State.WAITING, State.LIVE]
    assert sensed.monitor.changes()[-1].reason == "started"
    return sensed


@pytest.mark.parametrize(
    ("rate", "chunk", "silence_ms"), [(30.0, 1, 100), (16000.0, 320, 100), (256.0, 8, 100), (10.0, 1, 300)]
)
def test_silence_is_three_message_periods_but_never_under_the_floor(
    rate: float, chunk: int, silence_ms: int
) -> None:
    sensor = SensorSpec(
        modality="m", kind="audio", sample_shape=(), dtype="int16", unit="pcm16", rate_hz=rate, chunk=chunk
    )
    limits = HealthLimits.of(HealthPolicy(), sensor, 1.0, 0.1)
    assert limits.silence_ns == silence_ms * MS
    assert limits.even_silence_ns == round(0.85 * silence_ms) * MS
    assert limits.period_ns == round(1e9 * chunk / rate)


def test_waiting_is_no_fault_until_the_grace_is_over() -> None:
    monitor = HealthMonitor(LIMITS, 0)
    assert monitor.check(2000 * MS) is State.WAITING
    assert monitor.changes() == []
    assert monitor.check(2001 * MS) is State.MISSING
    assert monitor.reason == "no_frame"


def test_frames_that_never_make_a_window_are_missing_after_the_longer_grace() -> None:
    sensed = Sensed()
    states = [sensed.frame(evidence=False) for _ in range(100)]
    assert set(states[: 3000 // 33]) == {State.WAITING}
    assert states[-1] is State.MISSING
    assert sensed.monitor.reason == "no_window"


def test_silence_on_arrival_is_missing(sensed: Sensed) -> None:
    assert sensed.wait(100 * MS) is State.LIVE
    assert sensed.wait(1) is State.MISSING
    (change,) = sensed.monitor.changes()
    assert (change.previous, change.state, change.reason) == (State.LIVE, State.MISSING, "silence")
    assert change.at_ns == sensed.now


def test_silence_of_a_sensor_whose_messages_came_evenly_is_missing_sooner(sensed: Sensed) -> None:
    for _ in range(32):
        sensed.frame()
    assert sensed.monitor.next_silence_ns == sensed.now + 85 * MS + 1
    assert sensed.wait(85 * MS) is State.LIVE
    assert sensed.wait(1) is State.MISSING
    assert sensed.monitor.reason == "silence"


@pytest.mark.parametrize("sign", ["not_finite", "bad_clock"])
def test_a_message_that_cannot_be_used_is_a_sign_of_life_all_the_same(sensed: Sensed, sign: str) -> None:
    for _ in range(32):
        sensed.frame()
    sensed.now += PERIOD
    if sign == "not_finite":
        sensed.monitor.not_finite(sensed.now, "1 of 8")
    else:
        sensed.monitor.bad_clock(sensed.now, "future", "an hour ahead")
    assert sensed.monitor.next_silence_ns == sensed.now + 85 * MS + 1


def test_refused_messages_are_no_sign_of_life_but_name_the_reason(sensed: Sensed) -> None:
    sensed.monitor.refused(sensed.now + 90 * MS, "wrong_shape: expected (n, 8), got (7,)")
    assert sensed.wait(101 * MS) is State.MISSING
    (change,) = sensed.monitor.changes()
    assert change.reason == "refused"
    assert "(n, 8)" in change.detail


def test_a_refusal_of_some_time_ago_is_not_the_reason_of_a_silence(sensed: Sensed) -> None:
    sensed.monitor.refused(sensed.now, "wrong_shape: expected (n, 8), got (7,)")
    sensed.frame()
    assert sensed.wait(101 * MS) is State.MISSING
    assert sensed.monitor.reason == "silence"


def test_return_takes_three_good_messages(sensed: Sensed) -> None:
    sensed.wait(500 * MS)
    assert [sensed.frame() for _ in range(3)] == [State.MISSING, State.MISSING, State.LIVE]
    assert sensed.monitor.changes()[-1].reason == "recovered"


def test_return_takes_evidence_from_after_the_fault(sensed: Sensed) -> None:
    sensed.wait(500 * MS)
    assert {sensed.frame(evidence=False) for _ in range(20)} == {State.MISSING}
    sensed.monitor.evidence(sensed.now - 400 * MS * 20)
    assert sensed.frame(evidence=False) is State.MISSING
    assert sensed.frame() is State.LIVE


def test_a_window_stamped_ahead_of_the_fault_is_still_from_before_it(sensed: Sensed) -> None:
    sensed.frame(age=-30 * MS, evidence=False)  # its window goes to the engine ...
    before_fault_ns = sensed.now + 30 * MS
    sensed.monitor.encode_failed("out of memory")
    assert sensed.wait(MS) is State.MISSING
    sensed.monitor.evidence(before_fault_ns)  # ... and comes back after the fault
    assert sensed.wait(MS) is State.MISSING
    assert sensed.frame() is State.LIVE


def test_a_new_window_with_the_engine_excuses_old_evidence_and_nothing_else(sensed: Sensed) -> None:
    sensed.monitor.message(400 * MS, 400 * MS, identical=False)
    assert sensed.monitor.check(450 * MS, renewed=True) is State.LIVE
    assert sensed.monitor.check(450 * MS) is State.LATE
    assert sensed.monitor.check(600 * MS, renewed=True) is State.MISSING


def test_a_bad_message_starts_the_count_again(sensed: Sensed) -> None:
    sensed.wait(500 * MS)
    sensed.frame()
    sensed.frame()
    assert sensed.frame(age=300 * MS) is State.LATE
    assert [sensed.frame() for _ in range(3)] == [State.LATE, State.LATE, State.LIVE]


def test_what_was_found_before_a_freeze_is_not_told_again_after_it(sensed: Sensed) -> None:
    states = [sensed.frame(identical=True, check="black_share_max") for _ in range(3)]
    for _ in range(2):  # frozen pictures are in no window
        sensed.now += PERIOD
        sensed.monitor.message(sensed.now, sensed.now, identical=True)
        states.append(sensed.monitor.check(sensed.now))
    assert states[2:] == [State.CORRUPT, State.FROZEN, State.FROZEN]
    sensed.now += PERIOD
    sensed.monitor.message(sensed.now, sensed.now, identical=False)
    assert sensed.monitor.check(sensed.now) is State.FROZEN, "its first good picture is not judged yet"


def test_identical_messages_are_frozen_at_the_fifth(sensed: Sensed) -> None:
    assert [sensed.frame(identical=True) for _ in range(4)] == [State.LIVE] * 3 + [State.FROZEN]
    assert [sensed.frame() for _ in range(3)] == [State.FROZEN, State.FROZEN, State.LIVE]


def test_a_failed_content_check_is_corrupt_with_its_name(sensed: Sensed) -> None:
    assert sensed.frame(check="black_share_max") is State.CORRUPT
    (change,) = sensed.monitor.changes()
    assert (change.reason, change.detail) == ("black_share_max", "numbers")
    assert [sensed.frame() for _ in range(3)] == [State.CORRUPT, State.CORRUPT, State.LIVE]


def test_messages_with_nan_are_corrupt_not_silent(sensed: Sensed) -> None:
    for _ in range(10):
        sensed.now += PERIOD
        sensed.monitor.not_finite(sensed.now, "3 of 64 samples")
        assert sensed.monitor.check(sensed.now) is State.CORRUPT
    assert sensed.monitor.reason == "not_finite"


def test_corrupt_then_silent_is_missing(sensed: Sensed) -> None:
    sensed.frame(check="rms_min")
    assert sensed.wait(101 * MS) is State.MISSING


def test_old_data_is_late(sensed: Sensed) -> None:
    assert sensed.frame(age=250 * MS) is State.LIVE
    assert sensed.frame(age=251 * MS) is State.LATE
    assert sensed.monitor.reason == "capture_age"
    assert [sensed.frame() for _ in range(3)] == [State.LATE, State.LATE, State.LIVE]


def test_late_is_judged_by_the_age_on_arrival_not_at_the_tick(sensed: Sensed) -> None:
    """Until the next message is due the last one grows older, which is no fault of the sensor."""
    assert sensed.frame(age=200 * MS) is State.LIVE
    assert sensed.wait(60 * MS) is State.LIVE, "260 ms since its capture"


def test_evidence_is_late_beyond_its_limit_and_not_at_it(sensed: Sensed) -> None:
    captured_ns = sensed.now
    for _ in range(9):  # the sensor goes on, its windows do not come back
        sensed.frame(evidence=False)
    assert sensed.monitor.check(captured_ns + LIMITS.stale_ns) is State.LIVE
    assert sensed.monitor.check(captured_ns + LIMITS.stale_ns + 1) is State.LATE


def test_old_evidence_is_late_although_messages_come(sensed: Sensed) -> None:
    states = [sensed.frame(evidence=False) for _ in range(12)]
    assert states[8] is State.LIVE
    assert states[-1] is State.LATE
    assert sensed.monitor.reason == "evidence_age"
    assert sensed.frame() is State.LIVE


def test_an_engine_failure_is_missing_until_new_evidence(sensed: Sensed) -> None:
    sensed.monitor.encode_failed("out of memory")
    assert sensed.wait(1) is State.MISSING
    assert sensed.monitor.reason == "encode_failed"
    assert sensed.frame(evidence=False) is State.MISSING
    assert sensed.frame() is State.LIVE


FACTS = st.sampled_from(
    ["good", "identical", "late", "nan", "bad", "refused", "engine", "nothing", "silence"]
)


@given(st.lists(FACTS, max_size=150))
def test_changes_chain_and_live_is_earned(facts: list[str]) -> None:
    sensed, run, changes = Sensed(), 0, []
    for fact in facts:
        before = sensed.monitor.state
        match fact:
            case "good" | "identical" | "late" | "bad":
                sensed.frame(
                    identical=fact == "identical",
                    age=300 * MS if fact == "late" else 0,
                    check="rms_min" if fact == "bad" else None,
                )
            case "nan":
                sensed.now += PERIOD
                sensed.monitor.not_finite(sensed.now, "")
            case "refused":
                sensed.monitor.refused(sensed.now, "")
            case "engine":
                sensed.monitor.encode_failed("")
            case _:
                sensed.wait(200 * MS if fact == "silence" else PERIOD)
        run = (
            run + 1
            if fact in ("good", "identical")
            else 0
            if fact in ("late", "bad", "nan", "silence")
            else run
        )
        state = sensed.monitor.check(sensed.now)
        if state is State.LIVE and before is not State.LIVE:
            assert run >= LIMITS.recover_frames
        if fact in ("late", "bad", "nan", "silence", "engine"):
            assert state is not State.LIVE
        changes += sensed.monitor.changes()
    chain = [State.WAITING, *(c.state for c in changes)]
    assert [c.previous for c in changes] == chain[:-1]
    assert all(c.previous is not c.state for c in changes)
    assert chain[-1] is sensed.monitor.state
    assert [c.at_ns for c in changes] == sorted(c.at_ns for c in changes)


def test_disagreement_is_implausible_until_it_is_taken_back_and_good_messages_came(sensed: Sensed) -> None:
    sensed.monitor.disagreement("a thousand to one")
    assert sensed.frame() is State.IMPLAUSIBLE
    (change,) = sensed.monitor.changes()
    assert (change.state, change.reason, change.detail) == (
        State.IMPLAUSIBLE,
        "disagreement",
        "a thousand to one",
    )
    assert {sensed.frame() for _ in range(20)} == {State.IMPLAUSIBLE}
    sensed.monitor.disagreement(None)
    assert sensed.frame() is State.LIVE
    assert sensed.monitor.changes()[-1].reason == "recovered"


def test_what_is_certain_goes_before_disagreement(sensed: Sensed) -> None:
    sensed.monitor.disagreement("a thousand to one")
    assert sensed.frame(check="rms_min") is State.CORRUPT
    assert sensed.wait(500 * MS) is State.MISSING
