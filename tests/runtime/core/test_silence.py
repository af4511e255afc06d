"""How long a sensor may say nothing: by hand, at its bounds, and against any stream of gaps."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.silence import RECENT_MESSAGES, SilenceLimit

MS = 1_000_000
PERIOD, LEAST, MOST = 33 * MS, 85 * MS, 100 * MS


def limit_after(gaps_ms: Sequence[float]) -> float:
    limit = SilenceLimit(MOST, LEAST, PERIOD)
    for ms in gaps_ms:
        limit.gap(round(ms * MS))
    return limit.ns / MS


EVEN = [33] * RECENT_MESSAGES


def test_nothing_is_known_of_a_sensor_that_has_just_begun() -> None:
    assert limit_after([]) == 100
    assert limit_after(EVEN[1:]) == 100
    assert limit_after(EVEN) == 85


def test_the_limit_is_the_longest_gap_of_late_and_a_period() -> None:
    assert limit_after([*EVEN[1:], 59]) == 59 + 33
    assert limit_after([*EVEN, 51]) == 85, "51 and 33 are below the least"
    assert limit_after([*EVEN, 61]) == 94, "at once, not with the next reckoning"
    assert limit_after([*EVEN, 61, 60, *EVEN[2:]]) == 94
    assert limit_after([*EVEN, 61, *EVEN[1:], *EVEN]) == 85, "forgotten after twice as many at most"


def test_a_lost_message_on_top_of_the_usual_is_no_silence() -> None:
    assert limit_after([*EVEN, 66]) == 99
    assert limit_after([*EVEN, 90]) == 100, (
        "never above the rule of the rig, though it was told as silence once"
    )


def test_after_a_silence_the_sensor_has_the_whole_limit_again() -> None:
    assert limit_after([*EVEN, 101]) == 100
    assert limit_after([*EVEN, 101, *EVEN[1:]]) == 100
    assert limit_after([*EVEN, 101, *EVEN]) == 85


def test_a_share_of_one_is_the_plain_rule() -> None:
    limit = SilenceLimit(MOST, MOST, PERIOD)
    for _ in range(100):
        limit.gap(PERIOD)
        assert limit.ns == MOST


@given(st.lists(st.integers(0, 2 * MOST), max_size=200))
def test_the_limit_is_within_its_bounds_and_covers_the_last_gaps(gaps: list[int]) -> None:
    limit = SilenceLimit(MOST, LEAST, PERIOD)
    for i, ns in enumerate(gaps):
        limit.gap(ns)
        assert LEAST <= limit.ns <= MOST
        latest = gaps[max(0, i + 1 - RECENT_MESSAGES) : i + 1]
        if max(latest) <= MOST:
            assert limit.ns >= min(MOST, max(latest) + PERIOD)
