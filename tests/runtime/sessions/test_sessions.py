"""Sessions: what is written is read again, gaps stay gaps, labels count once."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.record.writer import RecordingError
from runtime.rig import Rig
from runtime.sessions.session import SessionWriter, read_session, read_sessions
from runtime.sessions.stream import Stream, StreamBuilder
from runtime.wire.labels import Label, decode_label, encode_label, standing

S = 1_000_000_000


def rig(**changes: object) -> Rig:
    emg = {
        "modality": "emg", "kind": "eeg", "sample_shape": [8], "dtype": "float32", "unit": "uV", "rate_hz": 200,
        "chunk": 10,
    } | changes  # fmt: skip
    camera = {
        "modality": "rgb", "kind": "rgb", "sample_shape": [16, 16, 3], "dtype": "uint8", "unit": "intensity",
        "rate_hz": 30, "chunk": 1,
    }  # fmt: skip
    return Rig.model_validate({"version": 1, "name": "arm", "sensors": [emg, camera]})


def emg(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)[:, None] + np.linspace(
        0, 0.5, 8, dtype=np.float32
    )


def test_what_is_written_is_read_again(tmp_path):
    pictures = np.arange(60 * 16 * 16 * 3, dtype=np.uint32).reshape(60, 16, 16, 3).astype(np.uint8)
    with SessionWriter(tmp_path / "a.mcap", rig(), person="ada") as session:
        session.add("emg", emg(400))
        session.add("rgb", pictures)
        session.label("fist", 0.25, 1.0)
        session.label("open", 1.25, 2.0)
    found = read_session(tmp_path / "a.mcap")
    assert found.tags == {"person": "ada"}
    assert np.array_equal(found.streams["emg"].samples, emg(400))
    assert np.array_equal(found.streams["rgb"].samples, pictures)
    assert [(x.name, (x.onset_ns - S) / S, (x.end_ns - S) / S) for x in found.labels] == [
        ("fist", 0.25, 1.0), ("open", 1.25, 2.0)
    ]  # fmt: skip
    assert found.span_ns == (S, 3 * S)
    assert found.lost == {"emg": 0, "rgb": 0}


def test_a_pause_is_a_gap_that_no_window_bridges(tmp_path):
    with SessionWriter(tmp_path / "a.mcap", rig()) as session:
        session.add("emg", emg(200))
        session.add("emg", emg(200, 200), start_s=3.0)
    stream = read_session(tmp_path / "a.mcap").streams["emg"]
    assert [(s.first, s.count) for s in stream.segments] == [(0, 200), (200, 200)]
    assert np.array_equal(stream.window(2 * S, 100), emg(100, 100))
    assert stream.window(3 * S, 100) is None, "in the pause"
    assert stream.window(4 * S + S // 4, 100) is None, "half of it is before the pause"
    assert np.array_equal(stream.window(4 * S + S // 2, 100), emg(100, 200))


def test_windows_follow_the_true_rate_of_a_device_that_drifts():
    builder = StreamBuilder((), "float32", 100.0)
    true_period_ns = 10_100_000  # one per cent slow
    for k in range(100):
        last = (k + 1) * 10
        builder.add(np.arange(last - 10, last, dtype=np.float32), last * true_period_ns, contiguous=k > 0)
    stream = builder.stream()
    assert len(stream.segments) == 1
    window = stream.window(500 * true_period_ns, 5)
    assert abs(window[-1] - 499) <= 1


def test_the_newest_window_at_a_time_is_found_to_the_sample():
    stream = Stream.of_array(np.arange(100, dtype=np.float32), 10.0)
    assert stream.window(S, 10).tolist() == list(range(10))
    assert stream.window(S - 1, 10).tolist() == list(range(10)), "a nanosecond is rounding"
    assert stream.window(S // 2, 10) is None
    assert stream.window(10 * S, 3).tolist() == [97, 98, 99]
    assert stream.window(11 * S, 3) is None, "a second after the last sample"
    assert stream.covered_s == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("modality", "samples", "start_s", "named"),
    [
        ("emg", np.zeros((10, 7), np.float32), None, "(n, 8)"),
        ("emg", np.zeros((10, 8), np.complex64), None, "complex64"),
        ("emg", np.full((10, 8), np.nan, np.float32), None, "finite"),
        ("emg", np.zeros((10, 8), np.float32), 0.5, "1.000000 s"),
    ],
)
def test_arrays_that_are_not_the_sensors_are_refused_by_name(tmp_path, modality, samples, start_s, named):
    with SessionWriter(tmp_path / "a.mcap", rig()) as session:
        session.add("emg", emg(200))
        with pytest.raises(RecordingError, match="emg") as error:
            session.add(modality, samples, start_s)
        assert named in str(error.value)
    assert len(read_session(tmp_path / "a.mcap").streams["emg"].samples) == 200, "nothing else was lost"


def test_a_folder_without_sessions_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="found none"):
        list(read_sessions(tmp_path))


def label(number: int, name: str = "go", **changes: object) -> Label:
    fields = {
        "rig": "arm",
        "name": name,
        "onset_ns": number * S,
        "end_ns": None,
        "author": "keys",
        "number": number,
    }
    return Label(**fields | changes)


def test_the_newest_message_of_a_label_counts_unless_it_is_withdrawn():
    told = [
        label(0), label(0, end_ns=2 * S), label(1), label(1, end_ns=3 * S, withdrawn=True), label(0, author="lsl"),
    ]  # fmt: skip
    assert [(x.author, x.number, x.end_ns) for x in standing(told)] == [("keys", 0, 2 * S), ("lsl", 0, None)]
    for each in told:
        assert decode_label(encode_label(each)) == each


@pytest.mark.parametrize("changes", [{"name": ""}, {"end_ns": -1}])
def test_a_label_that_cannot_be_is_refused(changes):
    with pytest.raises(ValueError, match="label"):
        label(0, **changes)
