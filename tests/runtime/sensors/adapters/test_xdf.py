"""XDF files as sensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sensor_bench import joined, read_samples, sensor_of
from xdf_files import write_xdf

from runtime.sensors.sample_source import SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import Transformer, plan

pytest.importorskip("pyxdf", reason="needs the xdf extra")


def test_a_stream_of_an_xdf_file_plays_with_its_unit_and_names(tmp_path: Path) -> None:
    eeg = np.random.default_rng(0).normal(0, 20, (200, 6)).astype(np.float32)
    write_xdf(
        tmp_path / "a.xdf", {"amp": ("EEG", "microvolts", eeg), "gaze": ("Gaze", "px", eeg[:, :2])}, 500.0
    )
    options = {"kind": "eeg-file", "file": str(tmp_path / "a.xdf"), "stream": "EEG", "loop": True}
    sensor = sensor_of("eeg", options, {"channels": ["E1", "E2", "E5", 0]}, rate_hz=500)
    source = make_source(sensor)
    delivery = source.open()
    assert (delivery.shape, delivery.unit, delivery.rate_hz) == ((6,), "uV", 500)
    transformer = Transformer(plan(sensor, delivery))
    taken = [out for s in read_samples(source, 2, most=22) if (out := transformer.apply(s)) is not None]
    np.testing.assert_array_equal(joined(taken), np.concatenate([eeg, eeg[:20]])[:, [1, 2, 5, 0]])


@pytest.mark.parametrize("stream", [None, "Audio"])
def test_which_stream_is_never_guessed(tmp_path: Path, stream: str | None) -> None:
    data = np.zeros((10, 2), np.float32)
    write_xdf(tmp_path / "a.xdf", {"a": ("EEG", "uV", data), "b": ("EEG", "uV", data)}, 500.0)
    options = {"kind": "eeg-file", "file": str(tmp_path / "a.xdf"), "stream": stream}
    with pytest.raises(SourceRefusedError, match=r"holds the streams .*\('a', 'EEG'\), \('b', 'EEG'\)"):
        make_source(sensor_of("eeg", options)).open()


def test_what_is_not_xdf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xdf").write_bytes(b"XDM: no")
    with pytest.raises(SourceRefusedError, match=r"a\.xdf: not XDF"):
        make_source(sensor_of("eeg", {"kind": "eeg-file", "file": str(tmp_path / "a.xdf")})).open()
