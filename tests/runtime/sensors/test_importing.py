"""EEG files imported as recordings: read back as frames, replayed freely, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from xdf_files import write_xdf

pytest.importorskip("mcap", reason="recordings need mcap, which is not installed")
pytest.importorskip("pyxdf", reason="needs the xdf extra")

from engines.opening import open_session
from runtime.record.reader import read_recording
from runtime.record.replay_file import replay_recording
from runtime.record.writer import RecordingError
from runtime.rig import Rig, load_rig
from runtime.rig.source_options import Transform
from runtime.sensors.importing import START_NS, import_eeg_file
from runtime.sensors.sample_source import SourceRefusedError
from runtime.wire import JournalEntry, decode_frame


def rig_of(**transform: object) -> Rig:
    """commands-4 with a transform of its EEG."""
    rig = load_rig("commands-4")
    declared = Transform.model_validate(transform)
    sensors = [
        s.model_copy(update={"transform": declared}) if s.modality == "eeg" else s for s in rig.sensors
    ]
    return rig.model_copy(update={"sensors": tuple(sensors)})


@pytest.fixture
def xdf(tmp_path: Path) -> Path:
    """Seven seconds of ten channels at 256 Hz, in volts, beside a stream of something else."""
    eeg = np.random.default_rng(0).normal(0, 20e-6, (7 * 256, 10)).astype(np.float32)
    write_xdf(tmp_path / "a.xdf", {"amp": ("EEG", "V", eeg), "gaze": ("Gaze", "px", eeg[:, :2])}, 256.0)
    return tmp_path / "a.xdf"


def test_samples_come_back_in_the_rigs_unit_and_time(xdf: Path, tmp_path: Path) -> None:
    rig = rig_of(channels=[f"E{c}" for c in range(8)], from_unit="V")
    count = import_eeg_file(xdf, tmp_path / "a.mcap", rig, "eeg", stream="EEG")
    entries = [m.content for m in read_recording(tmp_path / "a.mcap") if isinstance(m.content, JournalEntry)]
    frames = [decode_frame(e.parts) for e in entries if e.call == "frame"]
    assert len(frames) == count == 7 * 256 // 8
    samples = np.concatenate([f.samples for f in frames])
    expected = np.random.default_rng(0).normal(0, 20e-6, (7 * 256, 10)).astype(np.float32)[:, :8] * 1e6
    np.testing.assert_allclose(samples, expected, rtol=1e-5)
    assert [f.sequence for f in frames] == list(range(count))
    times = np.array([f.capture_ns for f in frames])
    np.testing.assert_allclose(times, START_NS + np.arange(1, count + 1) * 8e9 / 256, atol=1)


def test_it_replays_freely_and_not_exactly(xdf: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    rig = rig_of(channels=list(range(8)), from_unit="V")
    import_eeg_file(xdf, tmp_path / "a.mcap", rig, "eeg", stream="EEG")
    with open_session(tiny_bundle) as session:
        with pytest.raises(RecordingError, match=r"was imported.*--free"):
            replay_recording(tmp_path / "a.mcap", session)
        summary = replay_recording(tmp_path / "a.mcap", session, exact=False)
    assert summary["frames"] == 7 * 256 // 8
    assert summary["decisions"] == pytest.approx(7 * 20, abs=2)


def test_a_file_that_does_not_fit_is_refused_and_leaves_nothing(xdf: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match=r"sample_shape is \(8,\).*\(10,\)"):
        import_eeg_file(xdf, tmp_path / "a.mcap", load_rig("commands-4"), "eeg", stream="EEG")
    assert not (tmp_path / "a.mcap").exists()
