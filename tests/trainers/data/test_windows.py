from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from runtime.signals.moments import MomentSource
from runtime.signals.recorded import RecordedSource
from runtime.signals.synthetic import SyntheticSource
from trainers.data.windows import WindowSet, evaluation_windows


@pytest.fixture(params=["recorded", "synthetic"])
def source(request: pytest.FixtureRequest) -> MomentSource:
    return request.getfixturevalue(request.param)


def test_windows_have_the_shapes_of_the_bundle(source: MomentSource, lengths: dict[str, int]) -> None:
    windows = WindowSet(source, "test", lengths)
    assert windows.end_range_s == (3.5, 5.0)
    cut = windows.cut(np.array([0, 3, 1]), np.array([3.5, 4.2, 5.0]))
    shapes = {m: (w.shape, w.dtype.name) for m, w in cut.items()}
    assert shapes == {
        "rgb": ((3, 64, 64, 3), "uint8"),
        "depth": ((3, 64, 64), "uint16"),
        "audio": ((3, 16000), "int16"),
        "eeg": ((3, 768, 8), "float32"),
    }


def test_all_windows_end_at_the_same_time(synthetic: SyntheticSource, lengths: dict[str, int]) -> None:
    end = 4.1
    cut = WindowSet(synthetic, "test", lengths).cut(np.array([2]), np.array([end]))
    last = {m: int(end * synthetic.rig.sensor(m).rate_hz + 1e-6) for m in lengths}
    assert last == {"rgb": 123, "depth": 123, "audio": 65600, "eeg": 1049}
    for modality, length in lengths.items():
        expected = synthetic.read("test", 2, modality, last[modality] - length, length)
        np.testing.assert_array_equal(cut[modality][0], expected[0] if length == 1 else expected)


def test_rgb_and_depth_are_the_same_recorded_frame(recorded: RecordedSource, lengths: dict[str, int]) -> None:
    for chunk in evaluation_windows(recorded, "train", lengths, views=3):
        np.testing.assert_array_equal(chunk.windows["rgb"][:, 0, 0, 0], chunk.windows["depth"][:, 0, 0])


def test_first_and_last_possible_end(source: MomentSource) -> None:
    for lengths in ({"eeg": 1}, {"rgb": 1, "audio": 1}, {"audio": 80000}):
        windows = WindowSet(source, "test", lengths)
        for end in windows.end_range_s:
            windows.cut(np.array([0]), np.array([end]))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"lidar": 1}, KeyError, "lidar"),
        ({"eeg": 1153}, ValueError, r"eeg window of 1153 samples: valid are 1 \.\. 1152"),
        ({"audio": 0}, ValueError, r"audio window of 0 samples: valid are 1 \.\. 80000"),
        ({"rgb": 2}, ValueError, "rgb window of 2 frames: image windows are one frame"),
    ],
)
def test_bad_lengths_are_named(
    recorded: RecordedSource, bad: Mapping[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        WindowSet(recorded, "test", bad)


def test_evaluation_covers_every_moment_in_fixed_chunks(recorded: RecordedSource) -> None:
    lengths = {"audio": 1600, "eeg": 256}
    chunks = list(evaluation_windows(recorded, "test", lengths, views=2, chunk=7))
    moments = np.concatenate([c.moments for c in chunks])
    count = len(recorded.moments("test"))
    assert moments.tolist() == 2 * list(range(count))
    assert {len(c.labels) for c in chunks[:-1]} == {7}
    for c in chunks:
        np.testing.assert_array_equal(c.labels, recorded.moments("test").labels[c.moments])
    ends = np.concatenate([c.ends_s for c in chunks]).reshape(2, count)
    assert (ends[0] < 3.25).all()
    assert (ends[1] >= 3.25).all()
    again = list(evaluation_windows(recorded, "test", lengths, views=2, chunk=50))
    np.testing.assert_array_equal(
        np.concatenate([c.windows["eeg"] for c in chunks]), np.concatenate([c.windows["eeg"] for c in again])
    )


def test_limit_takes_a_balanced_prefix_of_the_same_windows(recorded: RecordedSource) -> None:
    whole = next(evaluation_windows(recorded, "test", {"audio": 800}))
    part = next(evaluation_windows(recorded, "test", {"audio": 800}, limit=8))
    assert np.bincount(part.labels).tolist() == [2, 2, 2, 2]
    np.testing.assert_array_equal(part.windows["audio"], whole.windows["audio"][:8])
