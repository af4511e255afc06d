"""The loop around fuse: against itself written out, in a session, and invisible to bundles without it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from engines.backends.interface import Array
from engines.bundle import MANIFEST_NAME, BundleError, Manifest, load_manifest, save_manifest
from engines.opening import open_session
from engines.refinement import Refinement, refined_evidence
from engines.session import Session

OFFSETS = {"a": 1, "b": 3}


def posterior_of(evidence: dict[str, Array]) -> Array:
    """One number first; then a is estimated from b, and b from both."""
    a, b = evidence["a"], evidence["b"]
    return np.concatenate([a[:, :1], 0.5 * b[:, :2], 0.25 * a[:, :1] + 0.25 * b, b], axis=1)


def test_rounds_are_those_of_the_loop_written_out():
    evidence = {"a": np.full((2, 2), 7.0), "b": np.array([[1.0, 2.0, 4.0], [8.0, 8.0, 8.0]])}
    presence = np.array([[0.0, 1.0], [1.0, 0.0]])
    refinement = Refinement(iterations=3, offsets=OFFSETS)
    first = posterior_of({"a": np.zeros((2, 2)), "b": np.zeros((2, 3))})
    found = refined_evidence(posterior_of, ("a", "b"), evidence, presence, first, refinement)
    a, b = np.zeros((2, 2)), np.zeros((2, 3))
    for _ in range(3):
        estimate = posterior_of({"a": a, "b": b}) if _ else first
        a = np.where(presence[:, :1] > 0, evidence["a"], estimate[:, 1:3])
        b = np.where(presence[:, 1:] > 0, evidence["b"], estimate[:, 3:6])
    np.testing.assert_allclose(found["a"], a)
    np.testing.assert_allclose(found["b"], b)
    assert found["b"][0].tolist() == [1.0, 2.0, 4.0]
    assert found["a"][0].tolist() == [0.5, 1.0]


class LoopRunner:
    """Stands for a backend in which the posterior says of every modality half of what the last call was given."""

    backend, maximum_batch = "none", None

    def __init__(self, manifest: Manifest) -> None:
        self.manifest, self.calls = manifest, 0

    def run(self, graph: str, inputs: dict[str, Array]) -> dict[str, Array]:
        assert graph == "fuse"
        self.calls += 1
        specs, rows = self.manifest.modalities, len(inputs["presence"])
        given = [inputs[f"evidence_{m.name}"] * inputs["presence"][:, i : i + 1] for i, m in enumerate(specs)]
        posterior = np.concatenate([0.5 * e + 1.0 for e in given], axis=1).astype(np.float32)
        total = sum(e.sum(axis=1, keepdims=True) for e in given)
        logits = np.zeros((rows, len(self.manifest.classes)), np.float32)
        logits[:, :1] = 0.1 * total
        latents = {f"latent_{m.name}": np.ones((rows, m.latent_size), np.float32) for m in specs}
        return {"logits": logits, "posterior": posterior, **latents}

    def close(self) -> None:
        pass


def with_refinement(manifest: Manifest, iterations: int) -> Manifest:
    offsets, place = {}, 0
    for spec in manifest.modalities:
        offsets[spec.name] = place
        place += spec.evidence_size
    refinement = Refinement(iterations=iterations, offsets=offsets)
    return manifest.model_copy(update={"refinement": refinement, "posterior_size": place})


def test_a_session_refines_rows_that_lack_some_and_keeps_the_temperature_of_their_pattern(bundle):
    manifest = with_refinement(load_manifest(bundle), 4)
    runner = LoopRunner(manifest)
    session = Session(manifest, runner)
    size = manifest.modalities[0].evidence_size
    evidence = {m.name: np.ones((4, size), np.float32) for m in manifest.modalities}
    evidence["rgb"][1] = np.nan
    mask = np.ones((4, 4), np.float32)
    mask[1, 0] = mask[3, 0] = mask[3, 2] = 0
    mask[2] = 0
    fused = session.fuse(evidence, mask)
    # 1 + the first round's guess 1, then halved and raised by 1 three times: 1, 1.5, 1.75, 1.875.
    expected = np.array([4.0, 3.0 + 1.875, 0.0, 2.0 + 2 * 1.875]) * 0.1 * size
    np.testing.assert_allclose(fused.logits[:, 0], expected, rtol=1e-6)
    assert runner.calls == 1 + 4
    for row, key in enumerate(("rgb+depth+audio+eeg", "depth+audio+eeg", "none", "depth+eeg")):
        scaled = np.array([expected[row], 0, 0, 0]) / manifest.calibration.temperature[key]
        np.testing.assert_allclose(
            fused.probabilities[row],
            np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum(),
            rtol=1e-5,
        )
    runner.calls = 0
    session.fuse({n: e[:1] for n, e in evidence.items()}, mask[:1])
    assert runner.calls == 1


def test_bundles_without_it_keep_their_bytes_and_their_hash(bundle, tmp_path):
    manifest = load_manifest(bundle)
    assert manifest.refinement is None
    raw = manifest.model_dump(mode="json")
    del raw["refinement"]
    assert not raw["calibration"].pop("imputation_scale")  # a later field with the same promise
    canonical = json.dumps(raw, sort_keys=True, separators=(",", ":"))
    assert manifest.hash == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    save_manifest(tmp_path, manifest)
    assert "refinement" not in (tmp_path / MANIFEST_NAME).read_text()
    assert with_refinement(manifest, 3).hash != manifest.hash
    with open_session(bundle) as session:
        names = session.manifest.modality_names
        evidence = {m.name: np.ones((1, m.evidence_size), np.float32) for m in manifest.modalities}
        assert np.isfinite(session.fuse(evidence, np.eye(len(names))[:1]).logits).all()


@pytest.mark.parametrize("place", [-1, 10_000])
def test_estimates_outside_the_posterior_are_refused(bundle, edit_json, place):
    def change(raw):
        raw["refinement"] = {
            "iterations": 2,
            "offsets": dict.fromkeys(("rgb", "depth", "audio", "eeg"), place),
        }

    edit_json(bundle / MANIFEST_NAME, change)
    with pytest.raises(BundleError, match=r"offsets of 'rgb'"):
        load_manifest(bundle)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="iterations"):
        Refinement(iterations=0, offsets={})
