"""XDF files, written here byte for byte as the format's specification says."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_bench import joined, read_samples, sensor_of

from runtime.sensors.sample_source import SourceRefusedError, make_source
from runtime.sensors.transform import Transformer, plan

pytest.importorskip("pyxdf", reason="needs the xdf extra")


def chunk(tag: int, content: bytes) -> bytes:
    body = struct.pack("<H", tag) + content
    return b"\x04" + struct.pack("<I", len(body)) + body


def write_xdf(path: Path, streams: dict[str, tuple[str, str, np.ndarray[Any, Any]]], rate: float) -> None:
    """Streams by name: type, unit of their channels, (n, channels) float32."""
    out = b"XDF:" + chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")
    for number, (name, (kind, unit, data)) in enumerate(streams.items(), 1):
        labels = "".join(
            f"<channel><label>E{c}</label><unit>{unit}</unit></channel>" for c in range(data.shape[1])
        )
        header = (
            f"<?xml version='1.0'?><info><name>{name}</name><type>{kind}</type>"
            f"<channel_count>{data.shape[1]}</channel_count><nominal_srate>{rate}</nominal_srate>"
            f"<channel_format>float32</channel_format><desc><channels>{labels}</channels></desc></info>"
        )
        out += chunk(2, struct.pack("<I", number) + header.encode())
    for number, (_, _, data) in enumerate(streams.values(), 1):
        samples = b"".join(
            b"\x08" + struct.pack("<d", 100 + n / rate) + row.astype("<f4").tobytes()
            for n, row in enumerate(data)
        )
        out += chunk(3, struct.pack("<I", number) + b"\x04" + struct.pack("<I", len(data)) + samples)
        footer = f"<?xml version='1.0'?><info><sample_count>{len(data)}</sample_count></info>"
        out += chunk(6, struct.pack("<I", number) + footer.encode())
    path.write_bytes(out)


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
