"""Another bundle takes over: nothing that the old one made is given to the new one."""

from __future__ import annotations

import numpy as np
import pytest
from pipeline_bench import EVIDENCE_SIZE, THRESHOLDS, Bench, bench_manifest, bench_rig

from runtime.core.pipeline import State
from runtime.rig import FillPolicy, Rig


def with_fill(policy: FillPolicy) -> Bench:
    """Everything live but the camera, which was live before it fell silent."""
    rig = Rig.model_validate(bench_rig().model_dump() | {"fill": policy})
    bench = Bench(rig, bench_manifest())
    bench.pipeline.set_blank_evidence("rgb", np.full(EVIDENCE_SIZE, -1, np.float32))
    bench.run(2.0)
    bench.silent = {"rgb"}
    bench.run(0.5)
    assert bench.pipeline.state("rgb") is State.MISSING
    assert "rgb" in bench.plans[-1].input.evidence, "the policy makes something up for it"
    return bench


@pytest.mark.parametrize("policy", ["hold", "zero"])
def test_what_the_old_bundle_made_does_not_stand_in_for_a_sensor_under_the_new_one(
    policy: FillPolicy,
) -> None:
    bench = with_fill(policy)
    for window in bench.pipeline.replace_bundle(bench_manifest()):
        if window.modality != "rgb":
            bench.pipeline.store_evidence(
                window.modality, np.ones(EVIDENCE_SIZE, np.float32), window.capture_ns
            )
    bench.run(0.1)
    assert bench.plans[-1].input.presence.tolist() == [0, 1, 1]
    assert "rgb" not in bench.plans[-1].input.evidence


def test_windows_are_given_again_only_where_evidence_is_gone(live: Bench) -> None:
    latest = {m: live.pipeline.latest_window(m) for m in ("rgb", "audio", "eeg")}
    assert {w.modality: w for w in live.pipeline.replace_bundle(bench_manifest())} == latest
    assert live.pipeline.replace_bundle(bench_manifest()) == [], "none was encoded in between"


def test_windows_are_judged_by_the_content_checks_of_the_new_bundle(live: Bench) -> None:
    stricter = bench_manifest().model_copy(
        update={"health_thresholds": THRESHOLDS | {"rgb": {"mean_min": 250.0}}}
    )
    for window in live.pipeline.replace_bundle(stricter):
        live.pipeline.store_evidence(window.modality, np.ones(EVIDENCE_SIZE, np.float32), window.capture_ns)
    live.run(0.1)
    assert [(e.modality, e.state, e.reason) for e in live.events] == [("rgb", "corrupt", "mean_min")]
