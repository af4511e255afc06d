"""A checkpoint is measured as its bundle would be."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from process_under_test import afterimage, run_to_end
from rich.console import Console

from engines.opening import open_session
from runtime.signals.moments import MomentSource
from runtime.signals.synthetic import SyntheticSource
from trainers.checkpoint import CheckpointError
from trainers.checkpoint_evaluation import (
    evaluate_checkpoint,
    find_model,
    is_checkpoint,
    load_system,
    open_checkpoint,
)
from trainers.evaluation.report import evaluate_bundle
from trainers.training import train

OPTIONS = {"limit": 4, "views": 1, "train_moments": 8, "judge_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def source() -> MomentSource:
    return SyntheticSource(counts={"train": 16, "validation": 8, "test": 4})


@pytest.fixture(scope="module")
def run(source: MomentSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Associators, because they have a structure beside their weights."""
    out = tmp_path_factory.mktemp("run")
    changes: dict[str, object] = {f"phases.{p}.steps": 2 for p in ("intra", "cross", "classify")}
    changes |= {"batch_size": 4, "validation_moments": 8}
    train("associators", source, out, changes=changes, console=Console(file=io.StringIO()))
    return out


def test_the_same_numbers_as_from_the_bundle(run: Path, source: MomentSource) -> None:
    with open_session(run / "bundle") as exported:
        rebuilt, _ = open_checkpoint(run / "checkpoint", source)
        assert rebuilt.backend == "pytorch"
        assert rebuilt.manifest.modalities == exported.manifest.modalities
        assert rebuilt.manifest.calibration == exported.manifest.calibration
        from_bundle = evaluate_bundle(exported, source, **OPTIONS)
    from_checkpoint = evaluate_checkpoint(run / "checkpoint", source, **OPTIONS)
    assert from_checkpoint["accuracy"] == from_bundle["accuracy"]
    assert from_checkpoint["calibration"]["ece"]["all"] == pytest.approx(
        from_bundle["calibration"]["ece"]["all"], abs=1e-3
    )
    assert from_bundle["coherence"]["joint"] is None
    assert 0 <= from_checkpoint["coherence"]["joint"] <= 1
    shares = from_checkpoint["coverage"]["by_pattern"]
    assert shares["rgb+eeg"].keys() == {"depth", "audio"}
    for key, of in from_bundle["coverage"]["by_pattern"].items():
        assert shares[key] == pytest.approx(of, abs=1e-3)
    json.dumps(from_checkpoint, allow_nan=False)


def test_where_a_run_stands(run: Path, tmp_path: Path) -> None:
    assert find_model(run) == run / "bundle"
    assert find_model(run / "bundle") == run / "bundle"
    assert not is_checkpoint(find_model(run))
    assert find_model(run / "checkpoint") == run / "checkpoint"
    assert is_checkpoint(run / "checkpoint")
    early = tmp_path / "early"
    early.mkdir()
    (early / "checkpoint").symlink_to(run / "checkpoint")
    assert find_model(early) == early / "checkpoint"
    with pytest.raises(CheckpointError, match="afterimage train"):
        find_model(tmp_path)


def test_averaged_weights_count_in_the_middle_of_a_phase(
    run: Path, source: MomentSource, tmp_path: Path
) -> None:
    from trainers.checkpoint import load_checkpoint, save_checkpoint

    tensors, state = load_checkpoint(run / "checkpoint")
    name = next(k for k in tensors if k.endswith("classifiers.rgb.bias") and k.startswith("model."))
    averaged = tensors | {name.replace("model.", "average.", 1): tensors[name] + 5}
    save_checkpoint(tmp_path / "checkpoint", averaged, state)
    system, _ = load_system(tmp_path / "checkpoint", source)
    found = dict(system.named_parameters())[name.removeprefix("model.")]
    assert np.allclose(found.numpy(), tensors[name].numpy() + 5)
    assert not system.training


def test_a_checkpoint_of_another_build_is_named(run: Path, source: MomentSource, tmp_path: Path) -> None:
    from trainers.checkpoint import load_checkpoint, save_checkpoint

    tensors, state = load_checkpoint(run / "checkpoint")
    lacking = {k: v for k, v in tensors.items() if "associators" not in k}
    save_checkpoint(tmp_path / "checkpoint", lacking, state)
    with pytest.raises(CheckpointError, match=r"does not fit.*train again"):
        load_system(tmp_path / "checkpoint", source)
    state["config"]["system"]["name"] = "crystal-ball"
    save_checkpoint(tmp_path / "checkpoint", tensors, state)
    with pytest.raises(CheckpointError, match="crystal-ball"):
        load_system(tmp_path / "checkpoint", source)


def test_on_the_command_line(tmp_path: Path) -> None:
    done = run_to_end(afterimage("evaluate", tmp_path, "--synthetic"), codes=[2])
    assert "found none of manifest.json" in " ".join(done.stderr.split())
