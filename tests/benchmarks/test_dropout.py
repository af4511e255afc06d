"""`afterimage bench dropout`: the real pipeline on a virtual clock, against what its rules say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.dropout.episodes import Bench, DropoutPlan, Episode, make_bench, plan_episodes, play
from benchmarks.dropout.live import silences
from benchmarks.dropout.measurement import limits_ms, measure, measure_false_alarms
from benchmarks.dropout.report import summary, tables
from engines.bundle import Calibration, Manifest, ModalitySpec
from runtime.rig import load_rig

RIG = load_rig("commands-4").model_copy(update={"sensors": load_rig("commands-4").sensors[1:2]})
DEPTH = ModalitySpec(
    name="depth", kind="depth", sample_shape=(64, 64), dtype="uint16", unit="mm", rate_hz=30, window=1, hop=1,
    observation_shape=(64, 64), observation_unit="mm", latent_size=4, evidence_size=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    # Nothing here opens an engine: only what the pipeline reads of a manifest matters.
    return Manifest.model_construct(
        name="depth-only",
        rig="commands-4",
        modalities=(DEPTH,),
        health_thresholds={"depth": {"hole_share_max": 0.5}},
        calibration=Calibration.model_construct(temperature={}),
    )


@pytest.fixture(scope="module")
def samples() -> dict[str, np.ndarray]:
    return {"depth": np.random.default_rng(0).integers(500, 1500, (20, 64, 64)).astype(np.uint16)}


def _played(
    manifest: Manifest, samples: dict[str, np.ndarray], fault: str, jitter: float, period_ms: float
) -> tuple[Bench, list[Episode]]:
    bench = make_bench(RIG, manifest, "depth", samples["depth"], period_ms)
    episodes = plan_episodes(bench, fault, 3, np.random.default_rng(0))
    seconds = (episodes[-1].end_ns - episodes[0].start_ns) / 1e9 + 12
    run = play(bench, episodes, jitter, seconds, 0)
    assert not run.false_alarms
    return bench, run.episodes


@pytest.mark.parametrize("period_ms", [10, 100])
def test_silence_is_found_when_the_rule_says(
    manifest: Manifest, samples: dict[str, np.ndarray], period_ms: float
) -> None:
    bench, episodes = _played(manifest, samples, "silence", 0.0, period_ms)
    _, rule_ms = limits_ms(bench, "silence", 0.0, episodes)
    assert rule_ms == max(3 * period_ms, 100)
    for e in episodes:
        assert e.detected_ns is not None
        # 1 ms on the way, and the first nanosecond after the limit; the fast one is known to be even by then.
        share = 0.85 if period_ms == 10 else 1.0
        assert e.detected_ns - e.last_good_ns == round(share * rule_ms * 1e6) + 1_000_000 + 1
        assert e.state == "missing"
        assert e.live_ns is not None
        assert e.back_ns is not None
        assert e.live_ns - e.back_ns == pytest.approx(2 * period_ms * 1e6 + 1_000_000, abs=2)


@pytest.mark.parametrize(
    ("fault", "state"),
    [("freeze", "frozen"), ("holes", "corrupt"), ("clock_step", "bad_clock"), ("late", "missing")],
)
def test_other_faults_are_found_between_the_minimum_and_the_rule(
    manifest: Manifest, samples: dict[str, np.ndarray], fault: str, state: str
) -> None:
    bench, episodes = _played(manifest, samples, fault, 0.0, 100)
    least_ms, rule_ms = limits_ms(bench, fault, 0.0, episodes)
    for e in episodes:
        truth = e.last_good_ns if fault == "late" else e.first_bad_ns
        assert e.detected_ns is not None
        assert truth is not None
        assert least_ms <= (e.detected_ns - truth) / 1e6 <= rule_ms + 1.001
        assert e.state == state
        assert e.live_ns is not None
        assert e.live_ns > e.end_ns


def test_false_alarms_fall_with_the_patience_of_the_policy(
    manifest: Manifest, samples: dict[str, np.ndarray]
) -> None:
    plan = DropoutPlan(jitters=(0.0, 0.5), alarm_messages=1500, alarm_periods_ms=(100,))
    rows = measure_false_alarms(RIG, manifest, samples, plan, lambda what, share: None)
    calm = [r for r in rows if r["jitter"] == 0]
    assert [r["false_alarms"] for r in calm] == [0, 0, 0, 0]
    shaken = [r["false_alarms"] for r in rows if r["jitter"] == 0.5]
    assert shaken == sorted(shaken, reverse=True)
    assert shaken[0] > 50 > 5 > shaken[2]


def test_the_report_is_json_and_false_alarms_come_first(
    manifest: Manifest, samples: dict[str, np.ndarray]
) -> None:
    plan = DropoutPlan(
        periods_ms=(33,),
        jitters=(0.0,),
        repetitions=1,
        alarm_messages=50,
        alarm_periods_ms=(33,),
        live_rounds=0,
    )
    report = measure(RIG, manifest, samples, plan, lambda what, share: None)
    json.dumps(report)
    assert {r["fault"] for r in report["delays"]} == {"silence", "freeze", "holes", "late", "clock_step"}
    assert "false alarms" in str(tables(report)[0].title)
    assert summary(report) == "live: not measured"


def test_live_silences_come_one_at_a_time_with_pauses() -> None:
    schedule = silences(load_rig("commands-4"), 2, 0)
    assert [f.modalities[0] for f in schedule.faults] == ["rgb", "depth", "audio", "eeg"] * 2
    pauses = [b.start_s - a.end_s for a, b in zip(schedule.faults, schedule.faults[1:], strict=False)]
    assert min(pauses) > 0.9
