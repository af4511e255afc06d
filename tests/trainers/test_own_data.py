"""Own data: two signals that tell classes apart, trained and scored from arrays, and refusals that name both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch, which is not installed")

from engines.opening import open_session
from runtime.rig import Rig
from runtime.sessions.dataset import Dataset
from runtime.sessions.session import Session
from runtime.sessions.splits import DatasetError
from trainers.configuration import ConfigurationError
from trainers.data.session_windows import SessionSource
from trainers.own_data import Scores, score_bundle, train_on_sessions
from trainers.recipes import recipe

CLASSES = ("rest", "fist", "point")
LENGTHS = {"emg": 50, "imu": 20}


def sensor(name: str, channels: int, rate: float, unit: str) -> dict[str, object]:
    return {
        "modality": name, "kind": "signal", "sample_shape": [channels], "dtype": "float32", "unit": unit,
        "rate_hz": rate, "chunk": 5,
    }  # fmt: skip


RIG = Rig.model_validate(
    {"version": 1, "name": "arm", "sensors": [sensor("emg", 3, 100.0, "V"), sensor("imu", 4, 40.0, "g")]}
)


def arrays(seed: int = 0, trials: int = 90) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Half a second a trial: the class is in the size of the EMG and the level of the IMU, gravity in one channel."""
    rng = np.random.default_rng(seed)
    labels = np.arange(trials) % 3
    emg = rng.normal(0, 1e-4, (trials, 50, 3)) * (1 + 3 * (labels[:, None, None] == [0, 1, 2]))
    imu = (
        rng.normal(0, 0.05, (trials, 20, 4)) + 0.5 * (labels[:, None, None] == [0, 1, 2, 9]) + [0, 0, 0, 9.81]
    )
    split = ["train"] * (trials // 2) + ["validation"] * (trials // 4)
    split += ["test"] * (trials - len(split))
    signals = {"emg": emg.astype(np.float32), "imu": imu.astype(np.float32)}
    return signals, [CLASSES[i] for i in labels], split


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    signals, labels, split = arrays()
    labels[0] = ""  # one trial without a label, two without a sensor
    present = {"imu": np.arange(len(labels)) > 2}
    return Dataset.from_arrays(signals, labels, RIG, split=split, present=present, transition_s=0.0)


@pytest.fixture(scope="module")
def bundle(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "run"
    return train_on_sessions("svae", dataset, out, lengths=LENGTHS, minutes=0.15)


def test_a_model_of_own_arrays_is_right_in_every_pattern(bundle: Path, dataset: Dataset) -> None:
    with open_session(bundle) as session:
        scores = score_bundle(session, dataset)
        assert session.manifest.data == "sessions"
        assert session.manifest.classes == dataset.classes == tuple(sorted(CLASSES))
    assert set(scores.accuracy) == {"emg+imu", "emg", "imu"}
    assert min(scores.accuracy.values()) > 0.8
    assert scores.warnings == []
    assert set(scores.imputation) == {"emg", "imu"}
    assert scores.chance == pytest.approx(1 / 3, abs=0.1)


def test_labels_and_sensors_that_are_missing_are_missing_in_training(dataset: Dataset) -> None:
    examples = SessionSource(dataset).examples("train", LENGTHS)
    rows = np.arange(len(examples))
    _, ends = examples.ends_s(rows)
    presence = examples.presence(rows, ends)
    assert (examples.labels == -1).sum() == 1
    assert (presence[:, 1] == 0).sum() == 3
    assert (examples.cut(rows, ends)["imu"][presence[:, 1] == 0] == 0).all()


def test_data_that_a_bundle_was_not_made_for_are_refused(bundle: Path, dataset: Dataset) -> None:
    signals, labels, split = arrays()
    renamed = [word.upper() for word in labels]
    faster = Rig.model_validate(
        {"version": 1, "name": "arm", "sensors": [sensor("emg", 3, 200.0, "V"), sensor("imu", 4, 40.0, "g")]}
    )
    with open_session(bundle) as session:
        with pytest.raises(DatasetError, match="FIST"):
            score_bundle(session, Dataset.from_arrays(signals, renamed, RIG, split=split))
        with pytest.raises(DatasetError, match=r"rate_hz.*100.*200"):
            score_bundle(session, Dataset.from_arrays(signals, labels, faster, split=split))


def test_a_split_without_a_complete_moment_is_refused(tmp_path: Path) -> None:
    signals, labels, split = arrays(trials=30)
    present = {"imu": np.array([s == "train" for s in split])}
    data = Dataset.from_arrays(signals, labels, RIG, split=split, present=present)
    with pytest.raises(DatasetError, match="validation split has all sensors"):
        train_on_sessions("svae", data, tmp_path, lengths=LENGTHS)


def test_scores_at_chance_are_warned_of() -> None:
    scores = Scores(accuracy={"emg": 0.36, "emg+imu": 0.9}, chance=0.333, windows=100)
    assert [w.split(":")[0] for w in scores.warnings] == ["emg"]


@pytest.mark.parametrize("system", ["svae", "associators", "mmali", "hmvae", "dsml", "concatenation"])
def test_a_recipe_fits_any_rig(system: str) -> None:
    config = recipe(system, RIG, LENGTHS, 45)
    assert config.window_lengths == LENGTHS
    assert config.batch_size == 22
    assert 1000 <= sum(p.steps for p in config.phases.values()) <= 4000


def test_a_recipe_needs_examples_and_a_system() -> None:
    with pytest.raises(ConfigurationError, match="3 training examples"):
        recipe("svae", RIG, LENGTHS, 3)
    with pytest.raises(ConfigurationError, match="shipped models"):
        recipe("nothing", RIG, LENGTHS, 30)


def test_sessions_of_different_sensors_are_refused(dataset: Dataset) -> None:
    other = dataset.sessions[0]
    with pytest.raises(DatasetError, match="twice"):
        Dataset.of_sessions([other, Session(other.name, other.rig, other.streams, other.labels)])
