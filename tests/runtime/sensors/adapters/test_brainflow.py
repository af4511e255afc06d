"""BrainFlow's synthetic board and its playback board: real ones, as far as BrainFlow is concerned."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from sensor_bench import joined, read_samples, sensor_of

from runtime.rig import SensorSpec
from runtime.sensors.sample_source import SourceLostError, SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import Transformer, plan

pytest.importorskip("brainflow.board_shim", reason="needs the brainflow extra")


def board(name: str, **options: object) -> SensorSpec:
    return sensor_of(
        "eeg", {"kind": "brainflow", "board": name, **options}, {"channels": ["C3", "Cz", "C4", 0]}
    )


def test_the_synthetic_board_gives_microvolts_at_its_rate() -> None:
    sensor = board("SYNTHETIC_BOARD")
    source = make_source(sensor)
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.unit, delivery.rate_hz) == ((16,), "float32", "uV", 250)
    transformer = Transformer(plan(sensor, delivery))
    taken = read_samples(source, 1.2)
    now_ns = time.monotonic_ns()
    source.close()
    out = [s for t in taken if (s := transformer.apply(t)) is not None]
    assert joined(out).shape[1] == 4
    assert joined(out).std() > 0.1
    assert 50 < len(joined(out)) < 1000
    last = taken[-1]
    assert last.clock.id == "brainflow"
    assert last.clock.uncertainty_ns < 1_000_000
    assert -2_000_000 < now_ns - (last.capture_ns - last.clock.offset_ns) < 5_000_000_000
    source.open()  # what was closed can be opened again
    assert read_samples(source, 1, most=1)
    source.close()


def test_the_playback_board_plays_a_file_of_brainflow(tmp_path: Path) -> None:
    from brainflow.board_shim import BoardIds, BoardShim
    from brainflow.data_filter import DataFilter

    described = BoardIds.SYNTHETIC_BOARD.value
    data = np.zeros((BoardShim.get_num_rows(described), 250))
    eeg = np.random.default_rng(0).normal(0, 20, (16, 250))
    data[BoardShim.get_eeg_channels(described)] = eeg
    data[BoardShim.get_timestamp_channel(described)] = 1e9 + np.arange(250) / 250
    DataFilter.write_file(data, str(tmp_path / "a.csv"), "w")
    sensor = board(
        "PLAYBACK_FILE_BOARD", file=str(tmp_path / "a.csv"), master_board="SYNTHETIC_BOARD", loop=True
    )
    source = make_source(sensor)
    plan(sensor, source.open())
    taken = read_samples(source, 1.0)
    source.close()
    got = joined(taken)
    assert len(got) > 100
    np.testing.assert_allclose(got[:50], eeg.T[:50], atol=1e-3)


def test_boards_that_do_not_exist_or_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceRefusedError, match=r"knows no board 'CYTON'; it knows .*'CYTON_BOARD'"):
        make_source(board("CYTON")).open()
    with pytest.raises(SourceRefusedError, match="no such file"):
        make_source(
            board("PLAYBACK_FILE_BOARD", file=str(tmp_path / "none"), master_board="SYNTHETIC_BOARD")
        ).open()
    with pytest.raises(SourceLostError) as lost:
        make_source(board("CYTON_BOARD", serial_port="/dev/none")).open()
    assert lost.value.reason == "cannot_open"
