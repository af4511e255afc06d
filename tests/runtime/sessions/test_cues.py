"""Cues under a fake clock: order, settling, redo, skip, pause."""

from __future__ import annotations

from collections import Counter

import pytest

from runtime.sessions.cues import CuePlan, CueSchedule
from runtime.wire.labels import standing

S = 1_000_000_000
PLAN = CuePlan(("stop", "go"), trials=2, seconds=4.0, rest_s=2.0, settle_s=0.5, seed=3)


def finished(schedule: CueSchedule, until_s: float, step_s: float = 0.05):
    told = []
    for k in range(round(until_s / step_s) + 1):
        told += schedule.advance(round(k * step_s * S))
    return told


def test_every_class_is_asked_for_equally_often_and_labelled_after_the_settling_time():
    schedule = CueSchedule("arm", PLAN, 0)
    labels = standing(finished(schedule, 24.0))
    assert Counter(x.name for x in labels) == {"stop": 2, "go": 2}
    assert [(x.onset_ns / S, x.end_ns / S) for x in labels] == [(2.5 + 6 * k, 6.0 + 6 * k) for k in range(4)]
    assert schedule.is_done
    assert schedule.view(25 * S).phase == "done"


def test_the_labels_do_not_depend_on_how_often_the_schedule_is_asked():
    often, late = CueSchedule("arm", PLAN, 0), CueSchedule("arm", PLAN, 0)
    assert standing(finished(often, 24.0)) == standing(late.advance(24 * S))


def test_no_class_gets_far_ahead():
    order = CuePlan(("a", "b", "c"), trials=20, seconds=1.0).order()
    for k in range(1, len(order)):
        counts = Counter(order[:k])
        assert max(counts.values()) - min(counts.get(x, 0) for x in "abc") <= 1


def test_redo_in_a_rest_withdraws_the_last_trial_and_asks_again():
    schedule = CueSchedule("arm", PLAN, 0)
    first = schedule.view(0).word
    told = schedule.advance(7 * S)
    told += schedule.press("redo", 7 * S)
    assert standing(told) == []
    assert (schedule.view(7 * S).word, schedule.view(7 * S).trial) == (first, 1)
    told += schedule.advance(100 * S)
    assert Counter(x.name for x in standing(told)) == {"stop": 2, "go": 2}


def test_redo_in_a_cue_withdraws_the_trial_in_progress():
    schedule = CueSchedule("arm", PLAN, 0)
    told = schedule.advance(4 * S) + schedule.press("redo", 4 * S)
    assert standing(told) == []
    assert schedule.view(4 * S).phase == "rest"
    told += schedule.advance(100 * S)
    assert len(standing(told)) == 4


def test_skip_leaves_one_trial_out():
    schedule = CueSchedule("arm", PLAN, 0)
    told = schedule.advance(4 * S) + schedule.press("skip", 4 * S) + schedule.advance(100 * S)
    assert len(standing(told)) == 3
    assert schedule.view(100 * S).trials == 3


def test_pause_stops_the_clock_and_drops_the_trial_in_progress():
    schedule = CueSchedule("arm", PLAN, 0)
    told = schedule.advance(4 * S) + schedule.press("pause", 4 * S) + schedule.advance(50 * S)
    assert standing(told) == []
    assert schedule.view(50 * S).phase == "paused"
    told += schedule.press("pause", 60 * S)
    assert schedule.view(60 * S).phase == "rest"
    told += schedule.advance(60 * S + 24 * S)
    labels = standing(told)
    assert len(labels) == 4
    assert labels[0].onset_ns == round(62.5 * S)


def test_end_keeps_what_was_done():
    schedule = CueSchedule("arm", PLAN, 0)
    told = schedule.advance(7 * S) + schedule.press("end", 7 * S)
    assert len(standing(told)) == 1
    assert schedule.is_done


@pytest.mark.parametrize(
    "fields",
    [
        {"classes": ("a",)},
        {"classes": ("a", "a")},
        {"trials": 0},
        {"settle_s": 4.0},
        {"rest_s": -1.0},
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(fields):
    with pytest.raises(ValueError, match="cues need"):
        CuePlan(**{"classes": ("a", "b"), "trials": 2, "seconds": 4.0} | fields)
