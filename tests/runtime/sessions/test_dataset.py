"""Data sets: spans by policy, splits that never share a session or a neighbouring moment, arrays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from runtime.rig import Rig
from runtime.sessions.dataset import Dataset
from runtime.sessions.session import Session
from runtime.sessions.splits import DatasetError, LabelledStretch, SplitPlan, assign_blocks, assign_groups
from runtime.sessions.stream import Stream
from runtime.wire.labels import Label

S = 1_000_000_000
LENGTHS = {"emg": 100}  # a second


def rig(rate_hz: float = 100.0) -> Rig:
    sensor = {
        "modality": "emg", "kind": "eeg", "sample_shape": [4], "dtype": "float32", "unit": "uV", "rate_hz": rate_hz,
        "chunk": 10,
    }  # fmt: skip
    return Rig.model_validate({"version": 1, "name": "arm", "sensors": [sensor]})


def session(name: str, labels: list[tuple[str, float, float]], seconds: float = 60.0, **tags: str) -> Session:
    stream = Stream.of_array(np.zeros((round(seconds * 100), 4), np.float32), 100.0)
    made = tuple(
        Label("arm", word, round(onset * S), round(end * S), "test", number)
        for number, (word, onset, end) in enumerate(labels)
    )
    return Session(name, rig(), {"emg": stream}, made, tags)


def trials(count: int, pause_s: float = 2.0) -> list[tuple[str, float, float]]:
    return [("ab"[k % 2], k * (2 + pause_s) + 1, k * (2 + pause_s) + 3) for k in range(count)]


@pytest.mark.parametrize(
    ("policy", "first_s", "last_s"),
    [("end", 11.0, 12.9), ("majority", 10.5, 13.4), ("anywhere", 10.1, 13.9)],
)
def test_where_a_window_of_a_label_may_end(policy, first_s, last_s):
    sessions = [session(n, [("a", 10, 13), ("b", 20, 23)]) for n in "xyz"]
    data = Dataset.of_sessions(sessions, policy=policy, plan=SplitPlan())
    spans = [s for s in data.spans("train", LENGTHS) if s.label == 0]
    assert [(s.begin_ns / S, s.end_ns / S) for s in spans] == [(first_s, last_s)]


def test_a_label_that_is_shorter_than_the_window_still_has_one():
    sessions = [session(n, [("a", 10, 10.4), ("b", 20, 20.4)]) for n in "xyz"]
    spans = Dataset.of_sessions(sessions).spans("train", LENGTHS)
    assert [(s.begin_ns, s.end_ns) for s in spans] == [(10_300_000_000,) * 2, (20_300_000_000,) * 2]


def test_splits_by_session_share_none():
    sessions = [session(f"{n:02d}", trials(4)) for n in range(10)]
    data = Dataset.of_sessions(sessions)
    where = {
        split: {s.session for s in data.spans(split, LENGTHS)} for split in ("train", "validation", "test")
    }
    assert {k: len(v) for k, v in where.items()} == {"train": 6, "validation": 2, "test": 2}
    assert where["test"] == {8, 9}
    assert not where["train"] & where["test"]


def test_a_persons_sessions_stay_together():
    sessions = [session(f"{n}", trials(4), person="abc"[n % 3]) for n in range(6)]
    data = Dataset.of_sessions(sessions, plan=SplitPlan(by="person", test=("b",)))
    assert {sessions[s.session].tags["person"] for s in data.spans("test", LENGTHS)} == {"b"}
    assert {sessions[s.session].tags["person"] for s in data.spans("train", LENGTHS)} == {"a"}


def test_one_session_is_split_by_time_within_each_class_and_with_a_gap():
    one = session("only", trials(20, pause_s=0.1), seconds=60)
    data = Dataset.of_sessions([one], plan=SplitPlan(by="time", gap_s=2.5))
    spans = {split: data.spans(split, LENGTHS) for split in ("train", "validation", "test")}
    for label in (0, 1):
        ends = [[s.end_ns for s in spans[k] if s.label == label] for k in ("train", "validation", "test")]
        assert all(ends)
        for before, after in pairwise(ends):
            assert min(after) - max(before) > 2.5 * S


def test_stretches_without_a_label_train_too_and_only_they():
    sessions = [session(n, [("a", 10, 13), ("b", 20, 23)], seconds=40) for n in "xyz"]
    data = Dataset.of_sessions(sessions)
    bare = [s for s in data.spans("train", LENGTHS, unlabelled=True) if s.label < 0]
    assert bare
    for s in bare:
        for onset, end in ((10, 13), (20, 23)):
            assert s.end_ns <= onset * S or s.begin_ns >= (end + 1) * S, "no window of it touches a label"
        assert s.end_ns - s.begin_ns <= 10 * S


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Dataset.of_sessions([session("x", [])]), "two classes"),
        (lambda: Dataset.of_sessions([session("x", [("a", 1, 2)])]), "two classes"),
        (lambda: Dataset.of_sessions([session("x", trials(4))] * 2), "twice"),
        (lambda: Dataset.of_sessions([session("x", trials(4))], classes=["a", "c"]), "['c']"),
        (lambda: Dataset.of_sessions([session("x", trials(4))], rig=rig(50.0)), "rate_hz"),
        (lambda: Dataset.of_sessions([]), "none"),
    ],
)
def test_data_that_nothing_can_be_learned_from_are_refused(make, named):
    with pytest.raises(DatasetError) as error:
        make()
    assert named in str(error.value)


def test_a_class_that_one_split_lacks_is_named():
    sessions = [session("x", trials(6)), session("y", trials(6)), session("z", [("a", 1, 3)])]
    with pytest.raises(DatasetError, match=r"'test' has no label of class \['b'\]"):
        Dataset.of_sessions(sessions).spans("test", LENGTHS)


def test_groups_are_refused_that_cannot_be_kept_apart():
    with pytest.raises(DatasetError, match="too little"):
        assign_groups(["x", "y"], SplitPlan())
    with pytest.raises(DatasetError, match="'w'"):
        assign_groups(["x", "y", "z"], SplitPlan(test=("w",)))
    with pytest.raises(DatasetError, match="3 or more"):
        assign_blocks([LabelledStretch(0, 0, S, 0)] * 2, SplitPlan(by="time"))


def test_arrays_become_a_data_set():
    signals = {"emg": np.arange(12 * 200 * 4, dtype=np.float32).reshape(12, 200, 4)}
    words = ["a", "b", ""] * 4
    split = ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    present = {"emg": np.arange(12) != 0}
    data = Dataset.from_arrays(signals, words, rig(), split=split, present=present)
    spans = data.spans("train", {"emg": 200}, unlabelled=True)
    assert [s.label for s in spans if s.session != 0] == [1, -1, 0, 1, -1]
    window = data.sessions[1].streams["emg"].window(spans[1].end_ns, 10)
    assert window is not None
    assert len(data.sessions[0].streams["emg"].samples) == 0
