"""Evaluation: metrics against hand computations, policies, judges, and one whole evaluation of a small real bundle."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import CLASSES, NAMES, build_tiny_bundle

from engines.bundle import pattern_key, presence_patterns
from engines.opening import open_session
from engines.session import Session
from runtime.signals.synthetic import SyntheticSource
from trainers.data.windows import evaluation_windows
from trainers.evaluation.calibration_error import accuracy, expected_calibration_error
from trainers.evaluation.coverage import measured_weight
from trainers.evaluation.imputation import (
    FLOOR_UV,
    class_means,
    estimate_all,
    log_amplitude_spectrum,
    mean_squared_ratio,
    normalized_error,
)
from trainers.evaluation.judge import inverse_cosine_transform, prepare, train_judge
from trainers.evaluation.patterns import (
    batches,
    encode_all,
    previous_rows,
    probabilities,
    score_patterns,
    substitute,
    zero_evidence,
)
from trainers.evaluation.report import evaluate_bundle

FULL = "+".join(NAMES)


# Calibration error ---------------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    rows = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 0])
    # Three bins are hit: 0.9 twice with one right, |1 - 1.8|; 0.8 once, |1 - 0.8|; 0.6 once, |1 - 0.6|.
    expected = (0.8 + 0.2 + 0.4) / 4
    assert expected_calibration_error(rows, labels) == pytest.approx(expected)


def test_calibration_error_sums_within_a_bin_before_taking_the_magnitude() -> None:
    rows = np.full((10, 2), 0.5)
    rows[:, 0], rows[:, 1] = 0.8, 0.2
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(rows, labels) == pytest.approx(0.0)


def test_certain_and_wrong_is_the_worst() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(rows, np.array([1, 0])) == 1.0
    assert expected_calibration_error(rows, np.array([0, 1])) == 0.0


def test_bin_width_matters() -> None:
    rows, labels = np.array([[0.95, 0.05], [0.55, 0.45]]), np.array([0, 1])
    assert expected_calibration_error(rows, labels, bins=1) == pytest.approx(abs(1 - 1.5) / 2)
    assert expected_calibration_error(rows, labels, bins=15) == pytest.approx((0.05 + 0.55) / 2)


def test_accuracy_and_refusals() -> None:
    rows = np.array([[0.1, 0.9], [0.7, 0.3], [0.4, 0.6]])
    assert accuracy(rows, np.array([1, 0, 0])) == pytest.approx(2 / 3)
    for bad in (np.array([0, 1]), np.zeros(0, int)):
        with pytest.raises(ValueError, match=r"\(N, C\) scores"):
            accuracy(rows[: len(bad) and 3], bad)
        with pytest.raises(ValueError, match=r"\(N, C\) scores"):
            expected_calibration_error(rows[: len(bad) and 3], bad)


# Errors of imputations -----------------------------------------------------------------------------------------


def test_errors_by_hand() -> None:
    measured = np.array([[3.0, 4.0], [0.0, 12.0]], np.float32)
    estimated = np.array([[3.0, 1.0], [4.0, 12.0]], np.float32)
    assert mean_squared_ratio(measured, estimated) == pytest.approx((9 + 16) / 169)
    assert normalized_error(measured, estimated) == pytest.approx(5 / 13)
    weight = np.array([[1.0, 1.0], [0.0, 1.0]], np.float32)
    assert normalized_error(measured, estimated, weight) == pytest.approx(3 / 13)
    assert normalized_error(measured, 0 * measured) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="nothing measured"):
        normalized_error(measured, estimated, 0 * weight)


def test_holes_in_depth_do_not_count() -> None:
    raw = np.array([[[500, 0], [0, 1000]]], np.uint16)
    filled = np.array([[[500.0, 777.0], [777.0, 1000.0]]], np.float32)
    estimated = np.array([[[500.0, 1.0], [4000.0, 1000.0]]], np.float32)
    assert normalized_error(filled, estimated, measured_weight("depth", raw)) == 0.0
    assert normalized_error(filled, estimated) > 1
    assert measured_weight("rgb", raw) is None


def test_class_means_by_hand() -> None:
    values = np.array([[1.0, 10.0], [3.0, 20.0], [8.0, 60.0]], np.float32)
    means, mean = class_means(values, np.array([0, 0, 1]), 3)
    assert means[:2].tolist() == [[2.0, 15.0], [8.0, 60.0]]
    assert mean.tolist() == [4.0, 30.0]
    assert means[2].tolist() == mean.tolist()  # a class without examples


def test_class_means_leave_out_what_was_not_measured() -> None:
    values = np.array([[1.0, 9.0, 9.0], [3.0, 5.0, 9.0], [8.0, 7.0, 9.0]], np.float32)
    weight = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]], np.float32)
    means, mean = class_means(values, np.array([0, 0, 1]), 2, weight)
    anywhere = (1 + 3 + 8 + 7) / 4
    assert means[0].tolist() == [2.0, 7.0, anywhere]  # never measured in class 0: the mean over classes
    assert means[1].tolist() == [8.0, 7.0, anywhere]
    assert mean.tolist() == [4.0, 7.0, anywhere]


def test_spectrum_of_a_sinusoid() -> None:
    rate, samples = 256.0, 768
    time = np.arange(samples) / rate
    wave = 100.0 + 5.0 * np.sin(2 * np.pi * 13.0 * time + 0.7)
    spectrum = log_amplitude_spectrum(np.stack([wave, 0 * wave], 1)[None], rate)
    assert spectrum.shape == (1, 2, 133)  # 4, 4 1/3, ... 48 Hz
    thirteen = (13 - 4) * 3
    assert spectrum[0, 0, thirteen] == pytest.approx(0.5 * math.log(25.0 + FLOOR_UV**2), abs=1e-5)
    assert np.delete(spectrum[0, 0], thirteen).max() == pytest.approx(math.log(FLOOR_UV), abs=1e-4)
    assert spectrum[0, 1] == pytest.approx(math.log(FLOOR_UV), abs=1e-5)


def test_spectrum_does_not_see_phase() -> None:
    time = np.arange(768) / 256
    waves = np.stack([np.sin(2 * np.pi * 21 * time + phase) for phase in (0.0, 1.0, 2.5)])[:, :, None]
    spectra = log_amplitude_spectrum(waves, 256.0)
    assert spectra[1:] == pytest.approx(np.stack([spectra[0]] * 2), abs=1e-4)


# Policies ------------------------------------------------------------------------------------------------------


def test_previous_rows_follow_one_cycle_within_each_view() -> None:
    count, views = 7, 3
    moments = np.tile(np.arange(count), views)
    before = previous_rows(moments, seed=3)
    assert np.array_equal(before // count, np.repeat(np.arange(views), count))
    row, seen = 0, set()
    for _ in range(count):
        seen.add(row)
        row = int(before[row])
    assert row == 0
    assert len(seen) == count
    assert np.array_equal(before, previous_rows(moments, seed=3))
    assert not np.array_equal(before, previous_rows(moments, seed=4))
    with pytest.raises(ValueError, match="one view after the other"):
        previous_rows(np.array([0, 0, 1, 1]), seed=0)


def test_substitute_takes_the_stand_in_only_where_absent() -> None:
    live, other = ({m: np.full((2, 3), v, np.float32) for m in ("a", "b")} for v in (1.0, 2.0))
    filled = substitute(live, other, {"a": 1, "b": 0})
    assert filled["a"] is live["a"]
    assert filled["b"] is other["b"]


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(seed=0)


@pytest.fixture
def session(tiny_bundle: Path) -> Session:
    return open_session(tiny_bundle)


def test_policies_against_direct_fusion(session: Session, source: SyntheticSource) -> None:
    lengths = {m.name: m.window for m in session.manifest.modalities}
    (chunk,) = evaluation_windows(source, "test", lengths, limit=12)
    live = encode_all(session, chunk.windows)
    before = previous_rows(chunk.moments, 0)
    held = {m: e[before] for m, e in live.items()}
    blank = zero_evidence(session, 12)
    assert {m: e.shape for m, e in blank.items()} == {m: e.shape for m, e in live.items()}
    scores = score_patterns(session, live, held, blank, chunk.labels)

    keys = [pattern_key(NAMES, p) for p in presence_patterns(4)]
    assert len(keys) == 15
    for policy in ("impute", "hold", "zero"):
        assert list(scores.accuracy[policy]) == keys
        assert scores.accuracy[policy][FULL] == scores.accuracy["impute"][FULL]

    ones = np.ones((12, 4), np.float32)
    stale = {**live, "depth": held["depth"], "audio": held["audio"]}
    key = "rgb+eeg"
    assert scores.accuracy["hold"][key] == accuracy(session.fuse(stale, ones).probabilities, chunk.labels)
    dark = {**live, "depth": blank["depth"], "audio": blank["audio"]}
    assert scores.accuracy["zero"][key] == accuracy(session.fuse(dark, ones).probabilities, chunk.labels)
    masked = session.fuse(live, ones * [1, 0, 0, 1]).probabilities
    assert scores.accuracy["impute"][key] == accuracy(masked, chunk.labels)
    assert scores.calibration_error[key] == pytest.approx(
        expected_calibration_error(masked, chunk.labels), abs=1e-6
    )
    pairs_and_more = [e for k, e in scores.calibration_error.items() if "+" in k]
    assert scores.worst_calibration_error == max(pairs_and_more)
    assert len(pairs_and_more) == 11


def test_batches_respect_the_engine_and_change_nothing(
    session: Session, source: SyntheticSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {m.name: m.window for m in session.manifest.modalities}
    (chunk,) = evaluation_windows(source, "test", lengths, limit=7)
    whole = probabilities(session, encode_all(session, chunk.windows), (1, 0, 1, 1))
    monkeypatch.setattr(Session, "maximum_batch", property(lambda _: 3))
    assert [(r.start, r.stop) for r in batches(7, session)] == [(0, 3), (3, 6), (6, 7)]
    assert probabilities(session, encode_all(session, chunk.windows), (1, 0, 1, 1)) == pytest.approx(
        whole, abs=1e-5
    )


def test_an_imputation_does_not_depend_on_its_own_sensor(session: Session, source: SyntheticSource) -> None:
    lengths = {m.name: m.window for m in session.manifest.modalities}
    (chunk,) = evaluation_windows(source, "test", lengths, limit=4)
    live = encode_all(session, chunk.windows)
    spec = session.manifest.modality("depth")
    imputed = estimate_all(session, spec, live, (1, 0, 1, 1))
    assert imputed.shape == (4, 64, 64)
    changed = {**live, "depth": live["depth"] + 5}
    assert np.array_equal(estimate_all(session, spec, changed, (1, 0, 1, 1)), imputed)
    assert not np.allclose(
        estimate_all(session, spec, changed, (1, 1, 1, 1)), estimate_all(session, spec, live, (1, 1, 1, 1))
    )


# Judges --------------------------------------------------------------------------------------------------------


def test_inverse_cosine_transform_matches_scipy() -> None:
    scipy_fft = pytest.importorskip("scipy.fft", reason="the reference is scipy's")
    values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    coefficients = scipy_fft.dct(values, axis=0, norm="ortho")
    assert (inverse_cosine_transform(40).numpy() @ coefficients) == pytest.approx(values, abs=1e-5)


def _patterned(kind: str, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Observations whose class is plain to see: a bright quadrant, a formant, a line in the spectrum."""
    count = len(labels)
    if kind == "eeg":
        spectra = rng.normal(0, 0.3, (count, 8, 133))
        spectra[np.arange(count), :, 20 + 25 * labels] += 1.5
        return spectra.astype(np.float32)
    shape = {"rgb": (64, 64, 3), "depth": (64, 64), "audio": (40, 101)}[kind]
    values = rng.normal(0, 8, (count, *shape)) + 60
    for row, label in enumerate(labels):
        if kind == "audio":
            values[row, 8 * label : 8 * label + 8] += 60
        else:
            top, left = 32 * (label // 2), 32 * (label % 2)
            values[row, top : top + 32, left : left + 32] += 60
    if kind == "audio":  # as coefficients: the inverse of an orthonormal matrix is its transpose
        values = np.einsum("mk,bmf->bkf", inverse_cosine_transform(40).numpy(), values)
    return values.clip(1 if kind == "depth" else None, None).astype(np.float32)


@pytest.mark.parametrize("kind", ["rgb", "depth", "audio", "eeg"])
def test_a_judge_learns_and_is_repeatable(kind: str) -> None:
    rng = np.random.default_rng(0)
    labels, fresh = np.arange(128) % 4, np.arange(40) % 4
    training, unseen = _patterned(kind, rng, labels), _patterned(kind, rng, fresh)
    threads = torch.get_num_threads()
    judge = train_judge(kind, training, labels, 4, seed=1, steps=60)
    assert torch.get_num_threads() == threads
    assert judge.steps == 60
    assert accuracy(judge.probabilities(unseen), fresh) >= 0.95
    assert judge.probabilities(unseen).sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    state = torch.get_rng_state()
    again = train_judge(kind, training, labels, 4, seed=1, steps=60)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(again.probabilities(unseen), judge.probabilities(unseen))


def test_a_judge_sees_no_level_or_contrast() -> None:
    rgb = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    assert prepare("rgb", 0.5 * rgb + 40).numpy() == pytest.approx(prepare("rgb", rgb).numpy(), abs=1e-2)
    depth = np.random.default_rng(0).uniform(500, 900, (2, 64, 64)).astype(np.float32)
    assert prepare("depth", 2 * depth).numpy() == pytest.approx(prepare("depth", depth).numpy(), abs=1e-2)


def test_a_judge_stops_when_its_time_is_up_and_refuses_nothing_to_learn_from() -> None:
    labels = np.arange(16) % 4
    values = _patterned("eeg", np.random.default_rng(0), labels)
    assert train_judge("eeg", values, labels, 4, minutes=0.0).steps == 0
    with pytest.raises(ValueError, match="needs rows with labels"):
        train_judge("eeg", values[:0], labels[:0], 4)


# The whole -----------------------------------------------------------------------------------------------------


def test_evaluate_bundle(session: Session, source: SyntheticSource) -> None:
    options = {"limit": 8, "views": 2, "train_moments": 16, "judge_steps": 3}
    report = evaluate_bundle(session, source, split="test", seed=0, **options)
    json.dumps(report, allow_nan=False)
    assert (report["moments"], report["views"], report["split"]) == (8, 2, "test")
    assert report["windows"] == {"rgb": 1 / 30, "depth": 1 / 30, "audio": 1.0, "eeg": 3.0}
    assert set(report["accuracy"]) == {"impute", "hold", "zero"}
    assert all(len(of) == 15 for of in report["accuracy"].values())
    ece = report["calibration"]["ece"]
    assert ece["all"] == ece["per_pattern"][FULL]
    assert ece["worst_pattern"] == max(e for k, e in ece["per_pattern"].items() if "+" in k)
    assert list(report["imputation"]) == list(NAMES)
    for name, scores in report["imputation"].items():
        assert scores["from"] == "+".join(n for n in NAMES if n != name)
        assert scores["nmse"] == pytest.approx(math.sqrt(scores["mse_ratio"]))
        assert scores["judge_steps"] == 3
        assert 0 <= scores["semantic_accuracy"] <= 1
        # Baselines are about as good as a mean can be; an estimate of zero would have exactly 1.
        assert 0 < scores["baseline_global_mean_nmse"] < 1.2
        assert 0 < scores["baseline_mean_nmse"] < 1.2
        assert set(scores["nmse_by_pattern"]) == {k for k in report["accuracy"]["hold"] if name not in k}
        # With as few moments as this, both were measured on the same rows of the first view, or on more.
        assert scores["nmse_by_pattern"][scores["from"]] == pytest.approx(scores["nmse"], rel=0.2)
    coherence = report["coherence"]
    assert sum(len(of) for of in coherence["cross"].values()) == 28
    assert set(coherence["ceiling"]) == set(coherence["synergy"]) == set(NAMES)
    assert coherence["joint"] is None
    assert report["coverage"] is None  # the tiny bundle was made without intervals
    assert set(report["latent_accuracy"]) == {*NAMES, "all"}
    assert all(0 <= of["active"] <= of["size"] for of in report["active_units"].values())
    assert len(report["retrieval"]["mean_average_precision"]) == 12
    again = evaluate_bundle(session, source, split="test", seed=0, **options)
    assert {**again, "seconds": 0} == {**report, "seconds": 0}


def test_intervals_and_draws_from_the_prior_are_measured_where_there_are_some(
    session: Session, source: SyntheticSource
) -> None:
    wide = {
        pattern_key(NAMES, p): {n: 1e9 for n, here in zip(NAMES, p, strict=True) if not here}
        for p in presence_patterns(4)
    }
    session.manifest = session.manifest.model_copy(
        update={"calibration": session.manifest.calibration.model_copy(update={"imputation_scale": wide})}
    )
    asked: list[int] = []

    def draw(count: int) -> dict[str, np.ndarray]:
        asked.append(count)
        return {m.name: np.zeros((count, m.latent_size), np.float32) for m in session.manifest.modalities}

    report = evaluate_bundle(
        session, source, limit=4, views=1, train_moments=8, judge_steps=2, draw_prior=draw
    )
    assert report["coverage"]["mean"] == report["coverage"]["lowest"] == 1.0
    assert report["coverage"]["half_width"]["rgb+eeg"] == {"depth": 1e9, "audio": 1e9}
    assert report["coverage"]["unit"]["depth"] == "mm"
    assert report["coherence"]["joint"] in (0.0, 1.0)  # every draw is the same, so they agree in all or none
    assert len(asked) == 1


def test_evaluate_a_bundle_of_one_sensor(tmp_path: Path, source: SyntheticSource) -> None:
    build_tiny_bundle(tmp_path / "eeg", ["eeg"])
    with open_session(tmp_path / "eeg") as session:
        report = evaluate_bundle(session, source, limit=8, views=1, train_moments=8, judge_steps=2)
    assert list(report["accuracy"]["impute"]) == ["eeg"]
    assert report["calibration"]["ece"]["worst_pattern"] == report["calibration"]["ece"]["all"]
    assert report["imputation"]["eeg"]["from"] == "none"
    assert "phase" in report["imputation"]["eeg"]["space"]


def test_another_source_is_refused(session: Session, source: SyntheticSource) -> None:
    class Renamed:
        classes = (*CLASSES[:-1], "up")
        name = "synthetic"

    with pytest.raises(ValueError, match=r"'right'.*'up'"):
        evaluate_bundle(session, Renamed(), limit=4)  # type: ignore[arg-type]
