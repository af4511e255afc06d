"""Files of other programs as sessions: times, gaps, markers of both dialects, several streams at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from xdf_files import write_xdf

pytest.importorskip("mcap", reason="recordings need mcap, which is not installed")
pytest.importorskip("pyxdf", reason="needs the xdf extra")

from runtime.record.writer import RecordingError
from runtime.rig import Rig
from runtime.sensors.sample_source import SourceRefusedError
from runtime.sessions.importing import import_recording
from runtime.sessions.markers import Marker, MarkerError, Meaning
from runtime.sessions.session import START_NS, read_session

S = 1_000_000_000
RATE = 250.0


def rig(*more: dict[str, object], **changes: object) -> Rig:
    emg = {
        "modality": "emg", "kind": "eeg", "sample_shape": [4], "dtype": "float32", "unit": "uV", "rate_hz": 250,
        "chunk": 10, "transform": {"from_unit": "V"},
    } | changes  # fmt: skip
    return Rig.model_validate({"version": 1, "name": "arm", "sensors": [emg, *more]})


@pytest.fixture
def signal() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 20e-6, (1000, 4)).astype(np.float32)


def test_streams_become_sensors_and_markers_labels(tmp_path: Path, signal: np.ndarray) -> None:
    arm = signal[:, :2] * 1e6
    write_xdf(
        tmp_path / "a.xdf",
        {"amp": ("EMG", "V", signal), "arm": ("Accelerometer", "uV", arm), "gaze": ("Gaze", "px", arm)},
        RATE,
        markers={
            "keys": [(100.5, "1s"), (101.5, "1e"), (102.0, "2s"), (103.0, "2e"), (103.5, "oops")],
            "n": [(101, 7)],
        },
    )
    other = {
        "modality": "arm", "kind": "eeg", "sample_shape": [2], "dtype": "float32", "unit": "uV", "rate_hz": 250,
        "chunk": 25,
    }  # fmt: skip
    meanings = {
        "1s": Meaning("fist", "begins"), "1e": Meaning("fist", "ends"), "2s": Meaning("open", "begins"),
        "2e": Meaning("open", "ends"), "7": Meaning("tap", "lasts", S // 2),
    }  # fmt: skip
    imported = import_recording(
        tmp_path / "a.xdf", tmp_path, rig(other), meanings=meanings, tags={"person": "ada"}
    )
    assert imported.unused == ["gaze"]
    assert imported.markers["lsl:keys"].problems() == ["1 markers not in the map: 'oops' x 1"]
    session = read_session(imported.path)
    assert session.tags == {"person": "ada"}
    np.testing.assert_allclose(session.streams["emg"].samples, signal * 1e6, rtol=1e-5)
    np.testing.assert_allclose(session.streams["arm"].samples, arm, rtol=1e-6)
    # The first sample is stamped 100 s and covers the period before it.
    onsets = [(x.name, x.author, (x.onset_ns - START_NS) / S) for x in session.labels]
    assert [(n, a, pytest.approx(t, abs=1e-6)) for n, a, t in onsets] == [
        ("fist", "lsl:keys", 0.504), ("tap", "lsl:n", 1.004), ("open", "lsl:keys", 2.004)
    ]  # fmt: skip


def test_a_hole_in_the_files_times_is_a_gap_in_the_session(tmp_path: Path, signal: np.ndarray) -> None:
    write_xdf(tmp_path / "a.xdf", {"emg": ("EMG", "V", signal)}, RATE, hole=(500, 3.0))
    imported = import_recording(tmp_path / "a.xdf", tmp_path, rig())
    assert imported.gaps == {"emg": 1}
    first, second = read_session(imported.path).streams["emg"].segments
    assert (second.begin_ns - first.end_ns) / S == pytest.approx(3.0, abs=1e-6)
    assert (first.count, second.count) == (500, 500)


def test_events_of_a_table_are_labels_too(tmp_path: Path, signal: np.ndarray) -> None:
    write_xdf(tmp_path / "a.xdf", {"emg": ("EMG", "V", signal)}, RATE)
    imported = import_recording(
        tmp_path / "a.xdf", tmp_path, rig(), events=[Marker(S, "go", S), Marker(99 * S, "go", S)]
    )
    assert imported.markers["events"].problems() == ["1 markers outside the recording: 'go' x 1"]
    (label,) = read_session(imported.path).labels
    assert (label.onset_ns, label.end_ns) == (START_NS + S, START_NS + 2 * S)


@pytest.mark.parametrize(
    ("streams", "kept", "error", "named"),
    [
        ({"emg": "nothing"}, {}, RecordingError, "--stream emg=NAME"),
        ({}, {"sample_shape": [3]}, SourceRefusedError, "sample_shape"),
        ({}, {"modality": "leg"}, RecordingError, "--stream leg=NAME"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    tmp_path: Path,
    signal: np.ndarray,
    streams: dict[str, str],
    kept: dict[str, object],
    error: type,
    named: str,
) -> None:
    write_xdf(tmp_path / "a.xdf", {"amp": ("EMG", "V", signal), "b": ("EMG2", "V", signal)}, RATE)
    with pytest.raises(error) as raised:
        import_recording(tmp_path / "a.xdf", tmp_path / "out", rig(**kept), streams=streams)
    assert named in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_map_that_fits_nothing_leaves_nothing(tmp_path: Path, signal: np.ndarray) -> None:
    write_xdf(tmp_path / "a.xdf", {"emg": ("EMG", "V", signal)}, RATE, markers={"keys": [(100.5, "x")]})
    with pytest.raises(MarkerError, match="none fits"):
        import_recording(tmp_path / "a.xdf", tmp_path / "out", rig(), meanings={"1": Meaning("a", "begins")})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"EDF nonsense", b"XDF:"])
def test_files_that_are_something_else_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.xdf").write_bytes(content)
    with pytest.raises(RecordingError, match=r"a\.xdf"):
        import_recording(tmp_path / "a.xdf", tmp_path, rig())
