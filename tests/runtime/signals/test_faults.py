from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.rig import Rig, load_rig
from runtime.signals.faults import (
    APPLIES_TO,
    Fault,
    FaultError,
    FaultInjector,
    FaultSchedule,
    apply,
    faulty_modalities,
    load_schedule,
    onsets,
)


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig("commands-4")


def chunk_of(kind: str) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(0)
    return {
        "rgb": rng.integers(1, 255, (1, 64, 64, 3), dtype=np.uint8),
        "depth": rng.integers(500, 900, (1, 64, 64)).astype(np.uint16),
        "audio": rng.integers(-3000, 3000, 320).astype(np.int16),
        "eeg": rng.normal(0, 20, (8, 8)).astype(np.float32),
        "signal": rng.normal(0, 1, (8, 6)).astype(np.float32),
    }[kind]


def one(kind: str, modality: str, **params: float) -> FaultSchedule:
    fault = Fault(kind=kind, modalities=(modality,), start_s=1.0, end_s=2.0, params=params)  # type: ignore[arg-type]
    return FaultSchedule(seed=5, faults=(fault,))


CASES = [(fault, kind) for fault, kinds in APPLIES_TO.items() for kind in sorted(kinds)]


@pytest.mark.parametrize(("fault", "modality"), CASES)
def test_a_fault_holds_only_in_its_time_and_modality_and_never_changes_its_input(
    fault: str, modality: str
) -> None:
    schedule, samples = one(fault, modality), chunk_of(modality)
    before = samples.copy()
    for elapsed in (0.0, 1.0, 2.0001, 9.0):
        assert apply(schedule, modality, elapsed, samples) is samples
    assert apply(schedule, "somebody-else", 1.5, samples) is samples
    memory = {"last_good": samples - 1, "old": {0: samples - 2}}
    spoilt = apply(schedule, modality, 1.5, samples, **memory)
    np.testing.assert_array_equal(samples, before)
    if fault == "silence":
        assert spoilt is None
        return
    assert spoilt is not None
    assert spoilt.shape == samples.shape
    assert spoilt.dtype == samples.dtype
    assert not np.array_equal(spoilt, samples, equal_nan=True)
    again = apply(schedule, modality, 1.5, samples, **memory)
    np.testing.assert_array_equal(spoilt, again)


def test_what_each_lie_looks_like() -> None:
    black = apply(one("black", "rgb"), "rgb", 1.5, chunk_of("rgb"))
    assert black is not None
    assert not black.any()
    railed = apply(one("rail", "eeg"), "eeg", 1.5, chunk_of("eeg"))
    assert railed is not None
    assert (railed[:, :2] == 187_500).all()
    np.testing.assert_array_equal(railed[:, 2:], chunk_of("eeg")[:, 2:])
    holed = apply(one("holes", "depth"), "depth", 1.5, chunk_of("depth"))
    assert holed is not None
    assert (holed == 0).mean() == pytest.approx(0.9, abs=0.02)
    clipped = apply(one("clip", "audio"), "audio", 1.5, chunk_of("audio"))
    assert clipped is not None
    assert clipped.max() == 32767
    assert clipped.min() == -32768
    assert (np.abs(clipped.astype(int)) >= 32767).mean() > 0.3
    bad = apply(one("nan", "eeg", share=0.5), "eeg", 1.5, chunk_of("eeg"))
    assert bad is not None
    assert 0.2 < np.isnan(bad).mean() < 0.8


def test_what_is_random_differs_from_message_to_message_and_by_seed() -> None:
    samples = chunk_of("depth")
    schedule = one("holes", "depth")
    a, b = (apply(schedule, "depth", t, samples) for t in (1.5, 1.533))
    assert a is not None
    assert b is not None
    assert not np.array_equal(a, b)
    other = apply(schedule.model_copy(update={"seed": 6}), "depth", 1.5, samples)
    assert other is not None
    assert not np.array_equal(a, other)


def test_a_frozen_stream_repeats_the_last_good_message_and_recovers() -> None:
    injector = FaultInjector(one("freeze", "rgb"), "rgb")
    frames = [np.full((1, 64, 64, 3), i, dtype=np.uint8) for i in range(30)]
    played = [injector.apply(i / 10, frame) for i, frame in enumerate(frames)]
    values = [int(p.flat[0]) for p in played if p is not None]
    assert values == [*range(11), *[10] * 10, *range(21, 30)]


def test_a_stale_stream_delivers_what_was_seen_a_while_ago_as_new_and_recovers() -> None:
    injector = FaultInjector(one("stale", "rgb", behind_s=0.5), "rgb")
    frames = [np.full((1, 2), i) for i in range(30)]
    values = [int(p.flat[0]) for i, f in enumerate(frames) if (p := injector.apply(i / 10, f)) is not None]
    assert values == [*range(11), *range(6, 16), *range(21, 30)]


def test_a_stream_that_begins_stale_has_only_what_it_saw() -> None:
    injector = FaultInjector(one("stale", "rgb", behind_s=0.5), "rgb")
    played = [injector.apply(t, np.full((1, 2), n)) for n, t in enumerate((1.2, 1.4, 1.6, 1.8, 2.1))]
    assert [int(p.flat[0]) for p in played if p is not None] == [0, 0, 0, 1, 4]


def test_a_stale_stream_cannot_be_ahead_of_time() -> None:
    with pytest.raises(ValueError, match="behind_s must be >= 0"):
        one("stale", "rgb", behind_s=-1)


def test_a_stream_that_begins_frozen_repeats_its_first_message() -> None:
    injector = FaultInjector(one("freeze", "rgb"), "rgb")
    played = [injector.apply(t, np.full((1, 2), n)) for n, t in enumerate((1.2, 1.4, 1.6))]
    assert [int(p.flat[0]) for p in played if p is not None] == [0, 0, 0]


def test_two_faults_at_once_both_spoil() -> None:
    both = FaultSchedule(
        faults=(
            Fault(kind="rail", modalities=("eeg",), start_s=0, end_s=9),
            Fault(kind="nan", modalities=("eeg",), start_s=0, end_s=9, params={"share": 0.3}),
        )
    )
    out = apply(both, "eeg", 1.0, chunk_of("eeg"))
    assert out is not None
    assert np.isnan(out).any()
    assert (out[:, 0] == 187_500).any()


def test_the_demo_schedule_holds_every_pattern_and_lie_with_recovery_between(rig: Rig) -> None:
    schedule = FaultSchedule.demo(rig, seed=1, first_s=4.0, fault_s=3.0, recovery_s=2.0, unit_s=2.5)
    silent = [frozenset(f.modalities) for f in schedule.faults if f.kind == "silence"]
    assert len(silent) == len(set(silent)) == 4 + 6 + 4
    assert {len(s) for s in silent} == {1, 2, 3}
    assert [f.kind for f in schedule.faults if f.kind != "silence"] == ["freeze", "rail", "holes", "clip"]
    assert schedule.faults[0].start_s == 5.0
    for earlier, later in zip(schedule.faults, schedule.faults[1:], strict=False):
        assert later.start_s - earlier.end_s >= 2.0
        assert later.start_s % 2.5 == pytest.approx(0)
    assert schedule.end_s == schedule.faults[-1].end_s
    assert FaultSchedule.demo(rig, seed=1) == FaultSchedule.demo(rig, seed=1)
    assert FaultSchedule.demo(rig, seed=1) != FaultSchedule.demo(rig, seed=2)


def test_the_demo_schedule_fits_smaller_rigs(rig: Rig) -> None:
    for count in (1, 2, 3):
        small = rig.model_copy(update={"sensors": rig.sensors[:count]})
        schedule = FaultSchedule.demo(small)
        for fault in schedule.faults:
            if fault.kind == "silence":
                assert len(fault.modalities) < count


def test_a_schedule_survives_a_file(rig: Rig, tmp_path: Path) -> None:
    schedule = FaultSchedule.demo(rig, seed=3)
    schedule.save(tmp_path / "faults.yaml")
    assert load_schedule(tmp_path / "faults.yaml") == schedule


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("version: 2", "version"),
        ("faults: [{kind: melt, modalities: [rgb], start_s: 0, end_s: 1}]", "faults.0.kind"),
        ("faults: [{kind: silence, modalities: [rgb], start_s: 2, end_s: 1}]", "end_s must be > start_s 2"),
        ("faults: [{kind: silence, modalities: [], start_s: 0, end_s: 1}]", "faults.0.modalities"),
        (
            "faults: [{kind: holes, modalities: [depth], start_s: 0, end_s: 1, params: {shore: 1}}]",
            r"\['shore'\]",
        ),
        ("faults: [{kind: silence, modalities: [rgb], begin: 0, end_s: 1}]", "faults.0.begin"),
        ("faults: {{", "not YAML"),
    ],
)
def test_a_wrong_schedule_is_refused_by_name(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.yaml"
    path.write_text(text)
    with pytest.raises(FaultError, match=named):
        load_schedule(path)


def test_a_missing_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="no fault schedule"):
        load_schedule(tmp_path / "none.yaml")


def test_a_schedule_for_another_rig_is_refused(rig: Rig) -> None:
    with pytest.raises(FaultError, match="'lidar' is not in rig"):
        one("silence", "lidar").check(rig)
    with pytest.raises(FaultError, match="'clip' happens to"):
        one("clip", "rgb").check(rig)


def test_the_truth_of_a_schedule(rig: Rig) -> None:
    schedule = FaultSchedule.demo(rig, seed=1)
    pair = next(f for f in schedule.faults if len(f.modalities) == 2)
    assert set(faulty_modalities(schedule, rig.modality_names, pair.end_s)) == set(pair.modalities)
    assert faulty_modalities(schedule, rig.modality_names, pair.end_s + 0.01) == ()
    assert len(onsets(schedule)) == 4 * 1 + 6 * 2 + 4 * 3
