from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_packs import write_small_packs

from runtime.signals.moments import SPLITS
from runtime.signals.opening import find_data_dir
from runtime.signals.packs import PackError
from runtime.signals.recorded import RecordedSource, bounce


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordedSource:
    return RecordedSource(write_small_packs(tmp_path_factory.mktemp("packs")), pairings=2)


@pytest.fixture(scope="module")
def real() -> RecordedSource:
    folder = find_data_dir()
    if folder is None:
        pytest.skip("the recorded packs are not there: set $AFTERIMAGE_DATA")
    return RecordedSource(folder)


def test_bounce_runs_forwards_and_backwards() -> None:
    assert bounce(1, np.arange(8), 4).tolist() == [1, 2, 3, 2, 1, 0, 1, 2]
    assert bounce(0, np.arange(4), 2).tolist() == [0, 1, 0, 1]


def test_splits_hold_their_own_groups(source: RecordedSource) -> None:
    frame = np.tile(np.concatenate([np.arange(24)[::-1], 100 + np.arange(6)[::-1]]), 5)
    for letter in range(1, 5):
        of_letter = {
            s: [frame[r] for r in np.unique(source.moments(s).recordings["rgb"]) if r // 30 == letter]
            for s in SPLITS
        }
        # 24 training frames: 80 % train, a gap of 5 %, the rest validates; later is validation, not earlier.
        assert sorted(of_letter["train"]) == list(range(19))
        assert sorted(of_letter["validation"]) == list(range(20, 24))
        assert sorted(of_letter["test"]) == list(range(100, 106))
    speakers = {s: set(source.moments(s).recordings["audio"] % 15) for s in SPLITS}
    assert speakers["test"] == {12, 13, 14}
    assert speakers["train"] | speakers["validation"] == set(range(12))
    assert not speakers["train"] & speakers["validation"]
    # Sessions in order: subjects 1 to 5 have rows 16 n .. 16 n + 7 for training; subject 6 has three sessions from 80.
    trials = {s: set(source.moments(s).recordings["eeg"] // 8) for s in SPLITS}
    assert trials == {"train": {0, 2, 4, 6, 10}, "validation": {8, 11}, "test": {1, 3, 5, 7, 9, 12}}


def test_moments_pair_signals_of_the_labelled_class(source: RecordedSource) -> None:
    for split in SPLITS:
        moments = source.moments(split)
        assert [("g", "l", "r", "s")[r // 30 - 1] for r in moments.recordings["rgb"]] == [
            source.classes[c][0] for c in moments.labels
        ]
        assert [("left", "right", "go", "stop")[r // 15] for r in moments.recordings["audio"]] == [
            source.classes[c] for c in moments.labels
        ]
        assert [(0, 13, 21, 17)[r % 4] for r in moments.recordings["eeg"]] == [
            (0, 21, 13, 17)[c] for c in moments.labels
        ]


def test_rgb_and_depth_play_the_same_frames_and_never_stand_still(source: RecordedSource) -> None:
    rgb = source.read("train", 3, "rgb", 0, 150)
    depth = source.read("train", 3, "depth", 0, 150)
    assert (rgb.shape, rgb.dtype) == ((150, 64, 64, 3), np.uint8)
    assert (depth.shape, depth.dtype) == ((150, 64, 64), np.uint16)
    rows = rgb[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(rows, depth[:, 0, 0])
    assert rows[0] == source.moments("train").recordings["rgb"][3]
    # Stored backwards in time, so neighbours in time are neighbours by row.
    assert (np.abs(np.diff(rows)) == 1).all()
    assert len(set(rows)) == 19


def test_word_repeats_and_eeg_is_microvolts(source: RecordedSource) -> None:
    moments = source.moments("test")
    audio = source.read("test", 5, "audio", 0, 80000)
    assert (audio.shape, audio.dtype) == ((80000,), np.int16)
    assert audio[0] == audio[16000] == moments.recordings["audio"][5]
    np.testing.assert_array_equal(source.read("test", 5, "audio", 15000, 2000), audio[15000:17000])
    eeg = source.read("test", 5, "eeg", 1000, 280)
    assert (eeg.shape, eeg.dtype) == ((280, 8), np.float32)
    np.testing.assert_allclose(eeg, moments.recordings["eeg"][5] * 0.1, rtol=1e-6)


def test_reading_gives_copies(source: RecordedSource) -> None:
    for modality in source.rig.modality_names:
        source.read("test", 0, modality, 0, 4)[...] = 77
        assert not (source.read("test", 0, modality, 0, 4) == 77).all()


def test_bad_ranges_name_the_valid_ones(source: RecordedSource) -> None:
    with pytest.raises(IndexError, match=r"moment 48 of test: valid are 0 \.\. 47"):
        source.read("test", 48, "rgb", 0, 1)
    with pytest.raises(IndexError, match=r"eeg samples 1279 \.\. 1281: valid are 0 \.\. 1280"):
        source.read("test", 0, "eeg", 1279, 2)
    with pytest.raises(KeyError, match="lidar"):
        source.read("test", 0, "lidar", 0, 1)


def test_one_modality_loads_alone_with_the_same_moments(tmp_path: Path, source: RecordedSource) -> None:
    alone = RecordedSource(write_small_packs(tmp_path), pairings=2, modalities=["eeg"])
    np.testing.assert_array_equal(alone.moments("train").labels, source.moments("train").labels)
    np.testing.assert_array_equal(alone.read("train", 7, "eeg", 0, 9), source.read("train", 7, "eeg", 0, 9))
    with pytest.raises(KeyError, match="'rgb' is not loaded"):
        alone.read("train", 7, "rgb", 0, 1)
    with pytest.raises(KeyError, match="lidar"):
        RecordedSource(tmp_path, modalities=["lidar"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"letters": np.array(["a", "b", "c", "d", "e"])}, "letters should hold 's'"),
        ({"words": np.array(["on", "off", "up", "down", "yes"])}, "words should hold 'stop'"),
        ({"class_freq_hz": np.array([0, 13, 20, 17], np.float32)}, "class_freq_hz should hold 21 Hz"),
        ({"sample_rate": np.array(8000)}, "sample_rate should be 16000 Hz, it is 8000 Hz"),
        (
            {"eeg": np.zeros((104, 4, 1280), np.int16)},
            r"'eeg' should be \(N, 8, 1280\) int16, it is \(104, 4, 1280\)",
        ),
        ({"rgb": np.zeros((10, 64, 64, 3), np.uint8)}, "has 10 rows, its labels name row"),
    ],
)
def test_packs_of_another_layout_are_refused(
    tmp_path: Path, changed: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(PackError, match=message):
        RecordedSource(write_small_packs(tmp_path, **changed))


def test_a_class_without_recordings_is_refused(tmp_path: Path) -> None:
    write_small_packs(tmp_path)
    path = tmp_path / "asl_rgbd.npz"
    with np.load(path) as pack:
        arrays = dict(pack)
    np.savez_compressed(path, **(arrays | {"split": np.zeros(150, np.uint8)}))
    with pytest.raises(PackError, match="class 'stop' has 0 recordings in the test split, at least 2"):
        RecordedSource(tmp_path)


def test_missing_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackError, match=r"ssvep_exo\.npz: lacks arrays \['subject'\]"):
        RecordedSource(write_small_packs(tmp_path, drop=("ssvep_exo", "subject")))


@pytest.mark.packs
def test_real_packs_use_every_test_recording_and_keep_groups_apart(real: RecordedSource) -> None:
    folder = find_data_dir()
    assert folder is not None
    with np.load(folder / "ssvep_exo.npz", allow_pickle=False) as pack:
        test_trials = np.flatnonzero(pack["split"] == 1)
        subject, session = pack["subject"], pack["session"]
    with np.load(folder / "speech_commands.npz", allow_pickle=False) as pack:
        speaker = pack["speaker"]
    moments = {s: real.moments(s) for s in SPLITS}
    assert set(moments["test"].recordings["eeg"]) == set(test_trials)
    assert len(moments["test"]) >= 352
    assert (np.bincount(moments["test"].labels) == len(moments["test"]) // 4).all()
    assert len(moments["train"]) > 10_000
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        first, second = moments[a].recordings, moments[b].recordings
        assert not set(first["rgb"]) & set(second["rgb"])
        assert not set(speaker[first["audio"]]) & set(speaker[second["audio"]])
        groups = [set(zip(subject[r["eeg"]], session[r["eeg"]], strict=True)) for r in (first, second)]
        assert not groups[0] & groups[1]


@pytest.mark.packs
def test_real_packs_play_in_their_units(real: RecordedSource) -> None:
    depth = real.read("test", 0, "depth", 0, 30)
    assert 500 < np.median(depth[depth > 0]) < 4000
    assert 0.1 < (depth == 0).mean() < 0.8
    rgb = real.read("test", 0, "rgb", 0, 30)
    assert rgb.max() > 100
    eeg = real.read("test", 0, "eeg", 0, 1280)
    assert 2 < eeg.std() < 200
    frames = [real.read("test", m, "rgb", 0, 150).reshape(150, -1) for m in range(4)]
    assert all((np.diff(f.astype(np.int16), axis=0) != 0).any(axis=1).all() for f in frames)
