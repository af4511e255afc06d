"""What is published of a tick's plan, with a session whose answers tell what it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from pipeline_bench import EVIDENCE_SIZE, MS, SENSORS, Bench, bench_manifest, bench_rig

from engines.session import Fused, Session
from runtime.core.agreement import CrossCheck
from runtime.core.pipeline import FusionInput, TickPlan
from runtime.node.decisions import DecisionMaker, fuse_plans

ALL = tuple(SENSORS)
NONE_FUSED = np.zeros((0, 0), np.float32)


class TellingSession:
    """A session that is surer of class a the more sensors it is told of; latents and what is decoded are the mask."""

    manifest = bench_manifest()
    bundle_hash = "0123456789abcdef"
    maximum_batch = 2

    def fuse(self, evidence: Mapping[str, np.ndarray], presence: np.ndarray) -> Fused:
        sure = (1 + presence.sum(axis=1)) / 8
        probabilities = np.stack([sure, 1 - sure], axis=1)
        return Fused(NONE_FUSED, probabilities, NONE_FUSED, dict.fromkeys(ALL, presence))

    def decode(self, modality: str, latent: np.ndarray) -> np.ndarray:
        return latent

    def observe(self, modality: str, windows: np.ndarray) -> np.ndarray:
        return np.full((1, 1), -1, np.float32)


SESSION = cast("Session", TellingSession())


@pytest.fixture
def maker() -> DecisionMaker:
    return DecisionMaker(bench_rig(), SESSION)


@pytest.fixture
def plan() -> TickPlan:
    """Of a tick without the camera, which ``hold`` and ``zero`` deny."""
    bench = Bench(bench_rig(), bench_manifest(), compare=("hold", "zero"))
    bench.pipeline.set_blank_evidence("rgb", np.zeros(EVIDENCE_SIZE, np.float32))
    bench.run(2.0)
    bench.silent = {"rgb"}
    bench.run(0.5)
    return bench.plans[-1]


def test_each_policy_is_told_by_its_own_probabilities(maker: DecisionMaker, plan: TickPlan) -> None:
    (fused,) = fuse_plans(SESSION, [plan])
    decision = maker.decision(plan, fused, published_ns=plan.deadline_ns, fuse_ms=1.0)
    assert (decision.label, decision.probabilities) == ("b", {"a": 0.375, "b": 0.625})
    told = {policy: other.probabilities for policy, other in decision.compare.items()}
    assert told == {"hold": {"a": 0.5, "b": 0.5}, "zero": {"a": 0.5, "b": 0.5}}


def test_cross_checks_are_fused_with_the_tick_and_are_no_part_of_its_decision(
    maker: DecisionMaker, plan: TickPlan
) -> None:
    evidence = plan.input.evidence
    one = FusionInput(np.array([0, 1, 0], np.float32), {"audio": evidence["audio"]}, ())
    both = FusionInput(np.array([0, 1, 1], np.float32), {m: evidence[m] for m in ("audio", "eeg")}, ())
    asked = replace(plan, cross_checks={"audio": CrossCheck(one, both), "eeg": CrossCheck(both, one)})
    plain, fused, again = fuse_plans(SESSION, [plan, asked, plan])
    assert fused.cross_checks == {
        "audio": ([0.25, 0.75], [0.375, 0.625]),
        "eeg": ([0.375, 0.625], [0.25, 0.75]),
    }
    assert (plain.own, plain.compared, plain.cross_checks) == (fused.own, fused.compared, {})
    assert again == plain
    assert maker.decision(asked, fused, published_ns=0, fuse_ms=0) == maker.decision(
        plan, plain, published_ns=0, fuse_ms=0
    )


def test_the_flags_of_a_decision_are_those_of_its_plan(maker: DecisionMaker, plan: TickPlan) -> None:
    decision = maker.decision(plan, fuse_plans(SESSION, [plan])[0], published_ns=0, fuse_ms=1.0)
    assert decision.presence == {"rgb": 0, "audio": 1, "eeg": 1}
    assert {name: report.imputed for name, report in decision.modalities.items()} == {
        "rgb": True, "audio": False, "eeg": False,
    }  # fmt: skip


def test_latencies_count_from_the_deadline_and_from_the_newest_capture(
    maker: DecisionMaker, plan: TickPlan
) -> None:
    assert plan.capture_ns is not None
    published_ns = plan.deadline_ns + 3 * MS
    decision = maker.decision(plan, fuse_plans(SESSION, [plan])[0], published_ns=published_ns, fuse_ms=2.0)
    assert decision.latency_ms == {
        "fuse": 2.0, "lateness": 3.0, "frame_to_decision": (published_ns - plan.capture_ns) / MS,
    }  # fmt: skip


def test_what_is_imputed_of_a_live_sensor_is_what_the_other_live_ones_say(
    maker: DecisionMaker, plan: TickPlan
) -> None:
    (imputed,) = maker.observations(plan, "audio", None, ("imputed",), published_ns=0)
    assert imputed.imputed
    assert imputed.sources == ("eeg",)
    assert imputed.values.tolist() == [0, 0, 1], "rgb is not there, and audio must not speak for itself"
