"""A whole node whose rig asks for it holds its sensors against each other, by what its engine says of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from virtual_run import VirtualRun, open_calm_session

from engines.session import Session
from runtime.core.agreement import AgreementMonitor
from runtime.core.pipeline import Pipeline, TickPlan
from runtime.rig import Rig, load_rig

Said = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@pytest.fixture(scope="module")
def rig() -> Rig:
    loaded = load_rig("commands-4")
    health = loaded.health.model_copy(update={"implausible_odds": 1e6})
    return loaded.model_copy(update={"sensors": loaded.sensors[:3], "health": health})


@pytest.fixture(scope="module")
def session(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    yield from open_calm_session(rig, tmp_path_factory.mktemp("three") / "bundle")


def test_each_live_sensor_and_the_others_are_fused_with_a_tick_and_summed_up(
    rig: Rig, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[TickPlan, Said]] = []
    summed: list[int] = []
    store, sum_up = Pipeline.store_cross_checks, AgreementMonitor.store

    def seen(self: Pipeline, plan: TickPlan, said: Said) -> None:
        if said:
            asked.append((plan, said))
        store(self, plan, said)

    def counted(self: AgreementMonitor, now_ns: int, said: Said) -> None:
        summed.append(now_ns)
        sum_up(self, now_ns, said)

    monkeypatch.setattr(Pipeline, "store_cross_checks", seen)
    monkeypatch.setattr(AgreementMonitor, "store", counted)
    with VirtualRun(rig, session) as run:
        run.play(90)
        log = run.finish()
    assert {m for m, r in log.decisions[-1].modalities.items() if r.state == "live"} == set(
        rig.modality_names
    )
    assert [plan.deadline_ns for plan, _ in asked] == summed
    assert 8 <= len(asked) <= 12, "four times a second, once all are live"
    for plan, said in asked:
        assert set(said) == set(rig.modality_names)
        for modality, answers in said.items():
            check = plan.cross_checks[modality]
            for part, answer in zip((check.alone, check.others), answers, strict=True):
                evidence = {m: e[np.newaxis] for m, e in part.evidence.items()}
                fused = session.fuse(evidence, part.presence[np.newaxis])
                np.testing.assert_allclose(answer, fused.probabilities[0], atol=1e-5)
