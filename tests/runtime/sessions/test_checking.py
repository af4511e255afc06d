"""Checks of a data set: what is wrong is named, a leak is found, a clean set passes."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.rig import Rig
from runtime.sessions.checking import check_dataset
from runtime.sessions.dataset import Dataset, default_lengths
from runtime.sessions.features import LinearClassifier, balanced_accuracy, plain_features
from runtime.sessions.picture import draw_dataset
from runtime.sessions.session import Session
from runtime.sessions.splits import DatasetError, SplitPlan
from runtime.sessions.stream import Segment, Stream
from runtime.wire.labels import Label

S = 1_000_000_000
RATE = 100.0


def rig() -> Rig:
    sensor = {
        "modality": "emg", "kind": "signal", "sample_shape": [3], "dtype": "float32", "unit": "V", "rate_hz": RATE,
        "chunk": 10,
    }  # fmt: skip
    return Rig.model_validate({"version": 1, "name": "arm", "sensors": [sensor]})


def session(
    name: str, *, true_rate: float = RATE, seed: int = 0, trials: int = 12, shift: float = 3.0
) -> Session:
    """Trials of two classes that differ in level, a second of pause between them."""
    rng = np.random.default_rng(seed)
    seconds = 3 * trials + 1
    signal = rng.normal(0, 1, (round(seconds * RATE), 3)).astype(np.float32)
    labels = []
    for k in range(trials):
        onset, end = 3 * k + 1, 3 * k + 3
        signal[round(onset * RATE) : round(end * RATE)] += shift * (k % 2)
        labels.append(Label("arm", "ab"[k % 2], round(onset * S), round(end * S), "test", k))
    stream = Stream(signal, [Segment(0, len(signal), 0, round(len(signal) / true_rate * S))], RATE)
    return Session(name, rig(), {"emg": stream}, tuple(labels))


def test_a_clean_set_has_nothing_to_mend():
    data = Dataset.of_sessions([session(n, seed=k) for k, n in enumerate("wxyz")])
    report = check_dataset(data, default_lengths(data))
    assert report.problems == []
    assert report.notes == []
    assert report.controls["plain_features"] > 0.9
    assert abs(report.controls["shuffled_labels"] - 0.5) < 0.2
    assert report.labels["w"] == {"a": (6, 12.0), "b": (6, 12.0)}
    assert report.sessions["w"]["emg"].rate_hz == pytest.approx(RATE)


def test_a_rate_that_is_not_the_promised_one_is_told():
    sessions = [session(n, seed=k) for k, n in enumerate("xyz")]
    sessions[1] = session("y", true_rate=90.0)
    report = check_dataset(Dataset.of_sessions(sessions), {"emg": 50})
    assert len([p for p in report.problems if "came at 90 Hz, the rig promises 100 Hz" in p]) == 1


def test_labels_that_overlap_or_lie_outside_are_told():
    sessions = [session(n, seed=k) for k, n in enumerate("xyz")]
    more = (
        Label("arm", "b", 1_500_000_000, 2 * S, "other", 0),
        Label("arm", "a", 900 * S, 901 * S, "other", 1),
        Label("arm", "a", 30 * S, None, "other", 2),
    )
    broken = sessions[0]
    sessions[0] = Session(broken.name, broken.rig, broken.streams, broken.labels + more)
    problems = " | ".join(check_dataset(Dataset.of_sessions(sessions), {"emg": 50}).problems)
    assert "'a' and 'b' overlap at 1.50 s" in problems
    assert "'a' at 900.00 s lies outside" in problems
    assert "['a'] never end" in problems


def test_windows_that_two_splits_share_are_found():
    one = session("only", trials=24)
    close = tuple(Label("arm", "ab"[k % 2], k * S // 2, (k + 1) * S // 2, "t", k) for k in range(100))
    data = Dataset.of_sessions(
        [Session("only", one.rig, one.streams, close)],
        plan=SplitPlan(by="time", gap_s=0.0),
        policy="anywhere",
    )
    problems = check_dataset(data, {"emg": 100}).problems
    assert any("share samples with another" in p for p in problems)


def test_labels_that_say_nothing_are_noted():
    sessions = [session(n, seed=k, shift=0.0) for k, n in enumerate("xyz")]
    notes = check_dataset(Dataset.of_sessions(sessions), {"emg": 50}).notes
    assert any("where chance is 0.500" in n for n in notes)


def test_a_class_that_a_split_lacks_is_a_problem_and_no_crash():
    sessions = [session("x"), session("y"), session("z", trials=1)]
    report = check_dataset(Dataset.of_sessions(sessions), {"emg": 50})
    assert any("has no label of class ['b']" in p for p in report.problems)
    assert report.splits == {}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("signal", (50, 3)), ("eeg", (50, 3)), ("audio", (1600,)), ("rgb", (32, 48, 3)),
     ("depth", (32, 32)), ("rgb", (4, 32, 32, 3))],
)  # fmt: skip
def test_features_are_finite_and_follow_the_window(kind, shape):
    window = np.random.default_rng(0).integers(0, 200, shape)
    found = plain_features(kind, window)
    assert np.isfinite(found).all()
    assert not np.array_equal(found, plain_features(kind, window[::-1]))
    assert np.isfinite(plain_features(kind, np.zeros(shape))).all()


def test_the_classifier_is_ridge_regression():
    rng = np.random.default_rng(1)
    inputs = rng.normal(0, 1, (200, 5))
    labels = (inputs[:, 0] + 0.1 * rng.normal(0, 1, 200) > 0).astype(np.int64)
    model = LinearClassifier.fit(inputs[:150], labels[:150], 2)
    assert balanced_accuracy(labels[150:], model.predict(inputs[150:]), 2) > 0.9
    assert np.argmax(np.abs(model.weight[:5, 1])) == 0


def test_sessions_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    data = Dataset.of_sessions([session(n) for n in "xy"], plan=SplitPlan(by="time"))
    assert draw_dataset(data, tmp_path / "a.png").stat().st_size > 5000
    for path in (tmp_path / "none" / "a.png", tmp_path / "a.nothing"):
        with pytest.raises(DatasetError, match="cannot be written"):
            draw_dataset(data, path)
