"""Ticks: steady, without drift, and missed ones counted."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.schedule import ArrivalSchedule, TickSchedule

START = 10**15
PERIOD = 50_000_000


def test_first_tick_is_due_one_period_after_start_and_not_before() -> None:
    schedule = TickSchedule(20, START)
    assert schedule.due(START + PERIOD - 1) is None
    tick = schedule.due(START + PERIOD)
    assert tick is not None
    assert (tick.number, tick.deadline_ns) == (0, START + PERIOD)
    assert schedule.due(START + PERIOD) is None


def test_deadlines_do_not_drift_at_a_rate_that_does_not_divide_a_second() -> None:
    schedule = TickSchedule(30, START)
    assert schedule.deadline_ns(30 * 3600 * 24 - 1) == START + 24 * 3600 * 10**9


def test_a_tick_up_to_one_period_late_is_published() -> None:
    schedule = TickSchedule(20, START)
    tick = schedule.due(START + 2 * PERIOD)
    assert tick is not None
    assert tick.number == 0
    assert schedule.missed == 0


def test_a_tick_more_than_one_period_late_is_missed() -> None:
    schedule = TickSchedule(20, START)
    tick = schedule.due(START + 2 * PERIOD + 1)
    assert tick is not None
    assert tick.number == 1
    assert (schedule.published, schedule.missed) == (1, 1)


def test_a_pause_of_a_year_is_counted_at_once() -> None:
    schedule = TickSchedule(20, START)
    year = 365 * 24 * 3600 * 10**9
    tick = schedule.due(START + year)
    assert tick is not None
    assert 0 <= START + year - tick.deadline_ns <= PERIOD
    assert schedule.missed == tick.number


@given(
    rate=st.floats(0.1, 1000, allow_nan=False),
    steps=st.lists(st.integers(0, 400_000_000), min_size=1, max_size=80),
)
def test_ticks_are_monotonic_and_every_number_is_published_or_missed(rate: float, steps: list[int]) -> None:
    schedule, now, seen = TickSchedule(rate, START), START, []
    for step in steps:
        now += step
        while (tick := schedule.due(now)) is not None:
            assert tick.deadline_ns <= now
            assert now - tick.deadline_ns <= schedule.period_ns
            seen.append(tick)
    numbers = [t.number for t in seen]
    assert numbers == sorted(set(numbers))
    assert [t.deadline_ns for t in seen] == sorted({t.deadline_ns for t in seen})
    if seen:
        assert schedule.published + schedule.missed == numbers[-1] + 1
    assert schedule.next_deadline_ns > now


def test_a_window_brings_a_tick_that_is_due_since_it_was_complete() -> None:
    schedule = ArrivalSchedule(20, START)
    assert schedule.due(START + 7) is None
    schedule.arrived(START + 5)
    schedule.arrived(START + 6)
    tick = schedule.due(START + 8)
    assert tick is not None
    assert (tick.number, tick.deadline_ns) == (0, START + 5)
    assert schedule.due(START + 9) is None
    assert schedule.next_deadline_ns == START + 5 + PERIOD


def test_without_windows_a_tick_comes_one_period_after_the_last() -> None:
    schedule = ArrivalSchedule(20, START)
    schedule.arrived(START + 5)
    assert schedule.due(START + 5) is not None
    tick = schedule.due(START + 5 + PERIOD)
    assert tick is not None
    assert (tick.number, tick.deadline_ns, schedule.missed) == (1, START + 5 + PERIOD, 0)


def test_a_window_encoded_after_a_tick_it_came_before_does_not_turn_deadlines_back() -> None:
    schedule = ArrivalSchedule(20, START)
    assert schedule.due(START + PERIOD) is not None
    schedule.arrived(START + 1)
    tick = schedule.due(START + PERIOD + 2)
    assert tick is not None
    assert tick.deadline_ns == START + PERIOD


@given(
    rate=st.floats(0.1, 1000, allow_nan=False),
    steps=st.lists(st.tuples(st.integers(0, 400_000_000), st.booleans()), min_size=1, max_size=80),
)
def test_arrival_never_leaves_a_whole_period_without_a_tick_uncounted(
    rate: float, steps: list[tuple[int, bool]]
) -> None:
    schedule, now, seen = ArrivalSchedule(rate, START), START, [START]
    numbers = []
    for step, window in steps:
        now += step
        if window:
            schedule.arrived(now - step // 2)
        while (tick := schedule.due(now)) is not None:
            assert seen[-1] <= tick.deadline_ns <= now
            assert now - tick.deadline_ns <= schedule.period_ns
            seen.append(tick.deadline_ns)
            numbers.append(tick.number)
        assert now - seen[-1] < schedule.period_ns
    assert numbers == sorted(set(numbers))
    assert schedule.published == len(numbers)
    assert schedule.missed == (numbers[-1] + 1 - len(numbers) if numbers else 0)
