from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundle import NAMES
from toy_sensors import ToySource

from engines.bundle import BundleError, Manifest, pattern_key, presence_patterns, read_manifest, save_manifest
from engines.errors import InputError
from engines.opening import open_session
from engines.session import Session
from trainers.calibration import fit_imputation_scale, validation_evidence
from trainers.configuration import ModelConfig
from trainers.evaluation.coverage import coverage, interval_half_width, measured_weight
from trainers.systems.base import System
from trainers.training import validation_batches

Config = Callable[..., ModelConfig]
Make = Callable[[ModelConfig], System]


def test_half_width_by_hand() -> None:
    measured = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    imputed = np.array([[1.0, -2.0], [3.0, -4.0], [5.0, -6.0], [7.0, -8.0]])
    # Four moments, half of the elements asked for: ceil(5 / 2) / 4 = 0.75 of 1 .. 8, interpolated at 6.25.
    assert interval_half_width(measured, imputed, level=0.5) == pytest.approx(6.25)
    assert coverage(measured, imputed, 6.25) == 0.75
    # Few moments cannot promise 90 %: the widest error is taken.
    assert interval_half_width(measured, imputed) == 8.0
    weight = (np.abs(imputed) <= 4).astype(np.float32)
    assert interval_half_width(measured, imputed, weight) == 4.0
    assert coverage(measured, imputed, 2.0, weight) == 0.5


def test_intervals_cover_moments_like_those_they_were_fitted_on() -> None:
    rng = np.random.default_rng(0)
    spread = np.array([0.5, 1.0, 3.0, 10.0])  # elements of one moment differ, and so do moments

    def errors(moments: int) -> np.ndarray:
        return rng.normal(size=(moments, 4)) * spread * rng.uniform(0.5, 2, (moments, 1))

    fitted, fresh = errors(2000), errors(4000)
    half_width = interval_half_width(fitted, 0 * fitted)
    assert coverage(fresh, 0 * fresh, half_width) == pytest.approx(0.9, abs=0.01)
    assert coverage(fresh[:, :1], 0 * fresh[:, :1], half_width) > 0.99  # quiet elements oftener


def test_only_measured_pixels_count_and_faults_are_named() -> None:
    raw = np.array([[0, 700]], np.uint16)
    assert measured_weight("depth", raw).tolist() == [[0.0, 1.0]]
    assert measured_weight("eeg", raw) is None
    with pytest.raises(ValueError, match="one shape"):
        coverage(np.zeros((2, 3)), np.zeros((2, 4)), 1.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        interval_half_width(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3)))


def test_scales_of_a_system_against_direct_inference(toy_config: Config, toy_system: Make) -> None:
    config = toy_config("svae")
    system = toy_system(config).eval()
    batches = validation_batches(ToySource(), config)
    evidence, _ = validation_evidence(system, lambda: batches)
    scales = fit_imputation_scale(system, evidence, lambda: batches, rows=10_000)
    names = system.names
    assert {k: tuple(of) for k, of in scales.items()} == {
        pattern_key(names, p): tuple(n for n, here in zip(names, p, strict=True) if not here)
        for p in presence_patterns(3, empty=True)
        if not all(p)
    }
    window = torch.cat([b.windows["b"] for b in batches])
    mask = torch.tensor([1.0, 0.0, 0.0]).expand(len(window), -1)
    with torch.no_grad():
        imputed = system.decode("b", system.infer(evidence, mask).latents["b"]).numpy()
        measured = system.observe("b", window).numpy()
    assert scales["a"]["b"] == pytest.approx(interval_half_width(measured, imputed), rel=1e-3)
    # What the absent sensor's evidence holds does not matter.
    changed = {**evidence, "b": evidence["b"] + 3}
    again = fit_imputation_scale(system, changed, lambda: batches, rows=10_000)
    assert again["a"] == scales["a"]


def with_scale(bundle: Path, folder: Path, scale: dict[str, dict[str, float]]) -> Manifest:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["calibration"]["imputation_scale"] = scale
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(raw))
    return read_manifest(folder)


def test_manifests_carry_scales_and_older_ones_keep_their_hash(tiny_bundle: Path, tmp_path: Path) -> None:
    older = read_manifest(tiny_bundle)
    assert older.calibration.imputation_scale == {}
    assert "imputation_scale" not in older.to_json()["calibration"]
    newer = with_scale(tiny_bundle, tmp_path / "a", {"rgb": {"depth": 31.5}})
    save_manifest(tmp_path, newer)
    assert read_manifest(tmp_path).calibration.imputation_scale == {"rgb": {"depth": 31.5}}
    assert newer.hash != older.hash
    with pytest.raises(BundleError, match="'rgb'"):
        with_scale(tiny_bundle, tmp_path / "b", {"rgb+eeg": {"rgb": 1.0}})
    with pytest.raises(BundleError, match="finite and >= 0"):
        with_scale(tiny_bundle, tmp_path / "c", {"rgb": {"depth": -1.0}})


def test_a_session_says_how_far_an_imputation_may_be_off(tiny_bundle: Path, tmp_path: Path) -> None:
    with open_session(tiny_bundle) as session:
        assert session.imputation_scale("depth", (1, 0, 1, 1)) is None
        known = Session(
            with_scale(tiny_bundle, tmp_path / "a", {"rgb+eeg": {"depth": 12.0}}), session._runner
        )
        assert NAMES == ("rgb", "depth", "audio", "eeg")
        assert known.imputation_scale("depth", (1, 0, 0, 1)) == 12.0
        assert known.imputation_scale("depth", np.array([True, False, False, True])) == 12.0
        assert known.imputation_scale("audio", (1, 0, 0, 1)) is None
        assert known.imputation_scale("depth", (1, 1, 0, 1)) is None
        with pytest.raises(InputError, match="sonar"):
            known.imputation_scale("sonar", (1, 0, 0, 1))
        with pytest.raises(InputError, match="presence"):
            known.imputation_scale("depth", (1, 0))
