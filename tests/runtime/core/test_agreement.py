"""Sensors held against each other: ratios by hand, what counts when, who is found, and who is believed again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.agreement import CHECK_EVERY_NS, AgreementMonitor, log_ratio

S = 1_000_000_000
NAMES = ("rgb", "depth", "audio", "eeg")
ODDS = 1000.0
SETTLE_S = 1.0
HOLD_S = 3.0
SURE = 0.94
"""Of a sensor that knows what it sees."""


def says(label: int, sure: float = SURE) -> list[float]:
    return [sure if c == label else (1 - sure) / 3 for c in range(4)]


class Scene:
    """Sensors that see classes one after another; some are told to see others."""

    def __init__(self, names: Sequence[str] = NAMES, odds: float = ODDS) -> None:
        self.names = tuple(names)
        self.monitor = AgreementMonitor(names, odds, round(SETTLE_S * S))
        self.live = dict.fromkeys(names, True)
        self.now_ns = 0
        self.shown = 0

    @property
    def implausible(self) -> set[str]:
        return {n for n in self.names if self.monitor.detail(n) is not None}

    def show(
        self, wrong: Sequence[str] = (), classes: int = 1, sure: float = SURE, hold_s: float = HOLD_S
    ) -> None:
        """So many classes, each for a while; the wrong ones see the one after it."""
        evidence = {n: np.zeros(1, np.float32) for n in self.names}
        for _ in range(classes):
            label, self.shown = self.shown % 4, self.shown + 1
            seen = {n: (label + 1) % 4 if n in wrong else label for n in self.names}
            end_ns = self.now_ns + round(hold_s * S)
            while self.now_ns < end_ns:
                believed = {n: self.live[n] and n not in self.implausible for n in self.names}
                asked = self.monitor.cross_checks(self.now_ns, believed, self.live, evidence)
                said = {n: (says(seen[n], sure), self.others(n, believed, seen)) for n in asked}
                if asked:
                    self.monitor.store(self.now_ns, said)
                self.now_ns += CHECK_EVERY_NS // 5

    def others(self, name: str, believed: dict[str, bool], seen: dict[str, int]) -> list[float]:
        votes = [seen[n] for n in self.names if believed[n] and n != name]
        return says(max(sorted(set(votes)), key=votes.count))


def test_the_ratio_is_that_of_one_class_behind_both_to_two() -> None:
    # Four classes, both sure: 4 * ((.985)^2 + 3 * .005^2), doubt of .02 spread over all four.
    assert log_ratio([1, 0, 0, 0], [1, 0, 0, 0]) == pytest.approx(math.log(4 * (0.985**2 + 3 * 0.005**2)))
    assert log_ratio([1, 0, 0, 0], [0, 1, 0, 0]) == pytest.approx(
        math.log(4 * (2 * 0.985 * 0.005 + 2 * 0.005**2))
    )


def test_a_sensor_that_knows_nothing_neither_agrees_nor_disagrees() -> None:
    assert log_ratio([0.25] * 4, [1, 0, 0, 0]) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_on_average_over_chance_agreement_is_as_likely_as_not(weights: list[float]) -> None:
    # The expectation of the ratio under independence is 1: what makes its product a test with known odds.
    p = np.asarray(weights) + 1e-3
    p /= p.sum()
    ratios = [math.exp(log_ratio(p, row)) for row in np.eye(len(p))]
    assert np.mean(ratios) == pytest.approx(1)


def test_a_sensor_that_sees_something_else_is_found_and_no_other() -> None:
    scene = Scene()
    scene.show(classes=4)
    assert scene.implausible == set()
    # By then four have ended, at ln(5.3) each; ln(1000) is 6.9.
    scene.show(["audio"], classes=5)
    assert scene.implausible == set(), "four things are not enough for a thousand to one"
    scene.show(["audio"])
    assert scene.implausible == {"audio"}
    detail = scene.monitor.detail("audio")
    assert detail is not None
    assert "disagrees with the others" in detail


def test_it_is_believed_again_when_half_the_doubt_is_gone() -> None:
    scene = Scene()
    scene.show(["audio"], classes=8)
    assert scene.implausible == {"audio"}
    scene.show(classes=3)
    assert scene.implausible == {"audio"}
    scene.show(classes=2)
    assert scene.implausible == set()
    scene.show(["audio"], classes=3)
    assert scene.implausible == set(), "it begins anew"


def test_one_thing_held_for_an_hour_is_one_thing() -> None:
    scene = Scene()
    scene.show(["eeg"], hold_s=3600)
    scene.show(classes=1)
    assert scene.implausible == set()


def test_what_does_not_fill_every_window_is_not_counted() -> None:
    scene = Scene()
    scene.show(["eeg"], classes=100, hold_s=SETTLE_S)
    assert scene.implausible == set()


def test_a_sensor_that_goes_on_a_moment_before_the_others_agrees() -> None:
    scene = Scene()
    for _ in range(50):
        scene.show(hold_s=HOLD_S - CHECK_EVERY_NS / S)
        scene.shown -= 1
        scene.show(["rgb"], hold_s=CHECK_EVERY_NS / S)
    assert scene.implausible == set()


def test_an_unsure_sensor_takes_longer() -> None:
    def classes_until_found(sure: float) -> int:
        scene = Scene()
        while not scene.implausible:
            scene.show(["depth"], sure=sure)
            assert scene.shown < 100
        return scene.shown

    assert classes_until_found(0.94) < classes_until_found(0.7) < classes_until_found(0.45)


@pytest.mark.parametrize("absent", [["rgb", "depth"], ["rgb", "depth", "eeg"]])
def test_two_sensors_cannot_tell_which_one_is_wrong(absent: list[str]) -> None:
    scene = Scene()
    scene.live |= dict.fromkeys(absent, False)
    scene.show(["audio"], classes=50)
    assert scene.implausible == set()


def test_three_can() -> None:
    scene = Scene()
    scene.live["rgb"] = False
    scene.show(["audio"], classes=8)
    assert scene.implausible == {"audio"}


def test_one_that_is_found_no_longer_speaks_against_others() -> None:
    scene = Scene(("rgb", "depth", "audio"))
    scene.show(["audio"], classes=200)
    assert scene.implausible == {"audio"}, "and then nobody can say of the two that are left"


def test_a_sensor_that_was_away_is_asked_anew() -> None:
    scene = Scene()
    for _ in range(20):
        scene.show(["audio"], hold_s=HOLD_S / 2)
        scene.live["audio"] = False
        scene.shown -= 1
        scene.show(hold_s=HOLD_S / 2)
        scene.live["audio"] = True
    assert scene.implausible == set(), "no class was heard to its end"


def test_cross_checks_come_four_times_a_second_with_the_right_modalities() -> None:
    monitor = AgreementMonitor(NAMES, ODDS, S)
    evidence = {n: np.full(3, i, np.float32) for i, n in enumerate(NAMES)}
    live = dict.fromkeys(NAMES, True) | {"eeg": False}
    asked = monitor.cross_checks(0, live, dict.fromkeys(NAMES, True), evidence)
    assert set(asked) == set(NAMES), "an implausible sensor is compared with the others as well"
    assert asked["rgb"].alone.presence.tolist() == [1, 0, 0, 0]
    assert asked["rgb"].others.presence.tolist() == [0, 1, 1, 0]
    assert asked["eeg"].alone.presence.tolist() == [0, 0, 0, 1]
    assert asked["eeg"].others.presence.tolist() == [1, 1, 1, 0]
    assert set(asked["eeg"].others.evidence) == {"rgb", "depth", "audio"}
    assert monitor.cross_checks(CHECK_EVERY_NS - 1, live, live, evidence) == {}
    assert monitor.cross_checks(CHECK_EVERY_NS, live, live, evidence).keys() == {"rgb", "depth", "audio"}
