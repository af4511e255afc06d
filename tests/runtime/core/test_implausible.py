"""A pipeline whose sensors are held against each other: what it asks to be fused, and what follows from the answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pipeline_bench import SECOND, Bench, bench_manifest, bench_rig

from runtime.core.pipeline import State, TickPlan

HOLD_NS = 3 * SECOND


class Judged(Bench):
    """A bench whose sensors perceive two classes in turn; those in ``wrong`` always the other one."""

    def __init__(self, odds: float | None = 100.0) -> None:
        rig = bench_rig()
        health = rig.health.model_copy(update={"implausible_odds": odds})
        super().__init__(rig.model_copy(update={"health": health}), bench_manifest())
        self.wrong: set[str] = set()
        self.answered = 0

    def work(self) -> None:
        told = len(self.plans)
        super().work()
        for plan in self.plans[told:]:
            said = {
                m: (self.says({m}), self.says(set(c.others.evidence))) for m, c in plan.cross_checks.items()
            }
            self.pipeline.store_cross_checks(plan, said)
            self.answered += bool(said)

    def says(self, modalities: set[str]) -> list[float]:
        label = self.now // HOLD_NS % 2
        wrong = len(modalities & self.wrong) > len(modalities) / 2
        return [0.95, 0.05] if (label == 0) != wrong else [0.05, 0.95]

    def states(self) -> dict[str, State]:
        return {m: self.pipeline.state(m) for m in self.sequence}


@pytest.fixture
def judged() -> Iterator[Judged]:
    bench = Judged()
    bench.run(5)
    assert set(bench.states().values()) == {State.LIVE}
    bench.events.clear()
    yield bench
    counters = bench.pipeline.counters()
    assert counters["unaccounted"] == 0
    assert counters["ticks"]["missed"] == 0


def found(plan: TickPlan) -> set[str]:
    return {m for m, status in plan.modalities.items() if status.state is State.IMPLAUSIBLE}


def test_sensors_that_agree_stay_live(judged: Judged) -> None:
    judged.run(60)
    assert judged.events == []
    assert judged.answered == pytest.approx(4 * 65, abs=10)


def test_one_that_disagrees_is_imputed_told_and_taken_back(judged: Judged) -> None:
    judged.wrong = {"eeg"}
    judged.run(60)
    assert judged.changes("eeg") == [("live", "implausible", "disagreement")]
    plan = judged.plans[-1]
    assert found(plan) == {"eeg"}
    assert plan.input.presence.tolist() == [1, 1, 0]
    assert plan.input.imputed == ("eeg",)
    assert plan.modalities["eeg"].reason == "disagreement"
    judged.wrong = set()
    judged.run(60)
    assert judged.changes("eeg") == [("implausible", "live", "recovered")]
    assert judged.plans[-1].input.presence.tolist() == [1, 1, 1]


def test_a_sensor_that_falls_silent_while_implausible_is_missing(judged: Judged) -> None:
    judged.wrong = {"eeg"}
    judged.run(60)
    judged.changes("eeg")
    judged.silent = {"eeg"}
    judged.run(1)
    assert judged.changes("eeg") == [("implausible", "missing", "silence")]


def test_while_the_others_are_gone_nothing_is_asked(judged: Judged) -> None:
    judged.silent = {"rgb"}
    judged.run(0.5)
    judged.answered = 0
    judged.run(10)
    assert judged.answered == 0
    assert not any(plan.cross_checks for plan in judged.plans[-100:])


def test_another_bundle_judges_anew(judged: Judged) -> None:
    judged.wrong = {"eeg"}
    judged.run(60)
    judged.silent = {"rgb"}  # so that nobody is asked
    judged.run(1)
    assert judged.states()["eeg"] is State.IMPLAUSIBLE
    for due in judged.pipeline.replace_bundle(bench_manifest()):
        judged.pipeline.store_evidence(due.modality, np.zeros(3, np.float32), due.capture_ns)
    judged.run(1)
    assert judged.states()["eeg"] is State.LIVE


def test_without_odds_nobody_is_asked() -> None:
    bench = Judged(odds=None)
    bench.wrong = {"eeg"}
    bench.run(60)
    assert bench.answered == 0
    assert set(bench.states().values()) == {State.LIVE}
