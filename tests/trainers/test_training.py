"""End to end with the real networks: a few steps on few moments, a bundle that every reader accepts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
pytest.importorskip("onnx", reason="export writes ONNX, and onnx is not installed")

from engines.bundle import load_manifest, pattern_key, presence_patterns
from engines.compiling.accuracy_gate import DecisionSet, decision_change
from engines.compiling.bundle_arrays import BundleArrays
from engines.compiling.parity import check_parity
from engines.opening import open_session
from runtime.rig import check_rig_feeds_bundle
from runtime.signals.moments import MomentSource
from runtime.signals.synthetic import SyntheticSource
from trainers.loop import TrainingError
from trainers.training import train

CHANGES: dict[str, dict[str, object]] = {
    "svae": {"phases.joint.steps": 3},
    "associators": {f"phases.{p}.steps": 2 for p in ("intra", "cross", "classify")},
}
SMALL: dict[str, object] = {"batch_size": 4, "validation_moments": 8, "torch_threads": 1}


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def source() -> MomentSource:
    return SyntheticSource(counts={"train": 16, "validation": 8, "test": 4})


@pytest.fixture(scope="module", params=["svae", "associators"])
def trained(
    request: pytest.FixtureRequest, source: MomentSource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, MomentSource, Path]:
    name = request.param
    out = tmp_path_factory.mktemp(name)
    train(name, source, out, changes={**SMALL, **CHANGES[name]}, console=quiet())
    return name, source, out


def test_the_bundle_is_whole_and_says_what_it_is(trained: tuple[str, MomentSource, Path]) -> None:
    name, source, out = trained
    manifest = load_manifest(out / "bundle")
    assert manifest.system == name
    assert manifest.data == source.name
    assert manifest.classes == tuple(source.classes)
    assert manifest.latents == {"svae": "shared", "associators": "associated"}[name]
    check_rig_feeds_bundle(source.rig, manifest)
    assert set(manifest.health_thresholds) == set(manifest.modality_names)
    assert all(manifest.health_thresholds.values())


def test_every_graph_and_pattern_agrees_with_pytorch(trained: tuple[str, MomentSource, Path]) -> None:
    with open_session(trained[2] / "bundle") as session:
        report = check_parity(session, trained[2] / "bundle")
        assert report.passed, report


def test_every_pattern_decides_as_pytorch_on_validation_windows(
    trained: tuple[str, MomentSource, Path],
) -> None:
    bundle = trained[2] / "bundle"
    with open_session(bundle) as session:
        decisions = DecisionSet(bundle / "decisions.npz", session.manifest)
        change = decision_change(session, decisions)
    assert decisions.rows == 8  # all there are
    assert change.above(0) == ""
    windows = BundleArrays(bundle / "training_windows.npz", load_manifest(bundle)).windows()
    assert {m: w.dtype.name for m, w in windows.items()} == {
        "rgb": "uint8", "depth": "uint16", "audio": "int16", "eeg": "float32",
    }  # fmt: skip
    assert {len(w) for w in windows.values()} == {16}
    for modality, window in windows.items():
        ranges = {row.tobytes() for row in window}
        assert not any(row.tobytes() in ranges for row in decisions.window[modality])


def test_one_row_and_many_give_the_same(trained: tuple[str, MomentSource, Path]) -> None:
    with (
        np.load(trained[2] / "bundle" / "golden.npz") as golden,
        open_session(trained[2] / "bundle") as session,
    ):
        for name in session.manifest.modality_names:
            windows = golden[f"window_{name}"]
            many = session.encode(name, windows)
            for row in range(len(windows)):
                one = session.encode(name, windows[row : row + 1])
                np.testing.assert_allclose(one[0], many[row], rtol=1e-3, atol=1e-3)


def test_metrics_and_pairing_are_written(trained: tuple[str, MomentSource, Path]) -> None:
    name, source, out = trained
    metrics = json.loads((out / "metrics.json").read_text())
    names = source.rig.modality_names
    assert set(metrics["validation"]) == {pattern_key(names, p) for p in presence_patterns(4, empty=True)}
    assert {p: d["steps"] for p, d in metrics["phases"].items()} == {
        key.split(".")[1]: steps for key, steps in CHANGES[name].items()
    }
    assert metrics["seed"] == 0
    pairing = json.loads((out / "pairing.json").read_text())
    assert pairing["splits"]["train"]["labels"] == source.moments("train").labels.tolist()


def test_a_finished_run_resumes_to_the_same_bundle(source: MomentSource, tmp_path: Path) -> None:
    changes = {**SMALL, **CHANGES["svae"]}
    first = load_manifest(train("svae", source, tmp_path, changes=changes, console=quiet()))
    again = load_manifest(train("svae", source, tmp_path, changes=changes, resume=True, console=quiet()))
    assert again.files == first.files
    with pytest.raises(TrainingError, match="seed"):
        train("svae", source, tmp_path, seed=5, changes=changes, resume=True, console=quiet())
