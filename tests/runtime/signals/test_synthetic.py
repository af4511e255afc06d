from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from process_under_test import python, run_to_end

from runtime.signals.moments import Split
from runtime.signals.synthetic import CLASS_FREQUENCIES_HZ, CLASSES, SyntheticSource
from runtime.signals.synthetic_audio import WORDS, speak
from runtime.signals.synthetic_eeg import draw_trial
from runtime.signals.synthetic_scene import SIGNS, Motion, cast, draw_scene, measure_depth, rotation, shade

COUNTS: dict[Split, int] = {"train": 40, "validation": 8, "test": 8}


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return SyntheticSource(seed=3, counts=COUNTS)


def test_every_class_has_a_sign_a_word_and_a_flicker() -> None:
    assert tuple(SIGNS) == tuple(WORDS) == CLASSES
    assert len(set(CLASS_FREQUENCIES_HZ)) == len(CLASSES)


def test_samples_have_the_shape_and_dtype_of_the_rig(source: SyntheticSource) -> None:
    for sensor in source.rig.sensors:
        count = 7
        samples = source.read("test", 2, sensor.modality, 11, count)
        assert samples.shape == (count, *sensor.sample_shape)
        assert samples.dtype == sensor.dtype
        assert source.read("test", 2, sensor.modality, 11, 0).shape == (0, *sensor.sample_shape)


@pytest.mark.parametrize(
    ("modality", "start", "count"), [("rgb", 20, 3), ("depth", 20, 3), ("audio", 700, 320), ("eeg", 9, 64)]
)
def test_reading_is_random_access(source: SyntheticSource, modality: str, start: int, count: int) -> None:
    whole = source.read("train", 5, modality, 0, start + count)
    fresh = SyntheticSource(seed=3, counts=COUNTS, modalities=[modality])
    fresh.read("train", 9, modality, 0, 2)
    np.testing.assert_array_equal(fresh.read("train", 5, modality, start, count), whole[start:])
    other = SyntheticSource(seed=4, counts=COUNTS)
    assert (other.read("train", 5, modality, start, count) != whole[start:]).any()
    assert (source.read("test", 5, modality, start, count) != whole[start:]).any()


def test_another_process_reads_the_same_bytes(source: SyntheticSource) -> None:
    program = (
        "import hashlib\n"
        "from runtime.signals.synthetic import SyntheticSource\n"
        "s = SyntheticSource(seed=3, counts={'train': 40, 'validation': 8, 'test': 8})\n"
        "read = b''.join(s.read('test', 6, m, 30, 5).tobytes() for m in s.rig.modality_names)\n"
        "print(hashlib.sha256(read).hexdigest())"
    )

    mine = b"".join(source.read("test", 6, m, 30, 5).tobytes() for m in source.rig.modality_names)
    assert run_to_end(python(program)).stdout.strip() == hashlib.sha256(mine).hexdigest()


def test_moments_are_balanced(source: SyntheticSource) -> None:
    labels = source.moments("train").labels
    assert all(sorted(block) == [0, 1, 2, 3] for block in labels.reshape(-1, 4))


def test_bad_arguments_name_the_valid_ones(source: SyntheticSource) -> None:
    with pytest.raises(IndexError, match=r"moment 8 of test: valid are 0 \.\. 7"):
        source.read("test", 8, "eeg", 0, 1)
    with pytest.raises(IndexError, match=r"rgb samples 149 \.\. 151: valid are 0 \.\. 150"):
        source.read("test", 0, "rgb", 149, 2)
    with pytest.raises(KeyError, match="lidar"):
        source.read("test", 0, "lidar", 0, 1)
    with pytest.raises(KeyError, match="lidar"):
        SyntheticSource(modalities=["lidar"])
    with pytest.raises(ValueError, match="train moments: expected a positive multiple of 4, got 6"):
        SyntheticSource(counts={**COUNTS, "train": 6})


def still(values: list[float]) -> Motion:
    zero = np.zeros(len(values), np.float32)
    return Motion(np.array(values, np.float32), zero, zero, zero)


def test_depth_of_a_sphere_and_a_wall_is_exact() -> None:
    """One ball of 5 cm at 80 cm before an upright wall at 2 m, and nothing else."""
    scene = replace(
        draw_scene("stop", np.random.default_rng(0)),
        centres=np.zeros((1, 3), np.float32), radii=np.full((1, 3), 0.05, np.float32),
        axes=np.eye(3, dtype=np.float32)[None], angles=still([0.3, 0.2, 0.1]), position=still([0, 0, 0.8]),
        bar=still([0, 0, -1, 0]), wall=np.array([0, 0, 0.5], np.float32), box_centre=np.array([9, 9, 1], np.float32),
    )  # fmt: skip
    surface = cast(scene, 1.0)
    line = ((np.arange(64) + 0.5) / 64 * 2 - 1) * 0.21
    y, x = np.meshgrid(line, line, indexing="ij")
    a, b, c = x**2 + y**2 + 1, 0.8, 0.8**2 - 0.05**2
    hit = b * b - a * c > 0
    expected = np.where(hit, (b - np.sqrt(np.maximum(b * b - a * c, 0))) / a, 2.0)
    np.testing.assert_allclose(surface.depth, expected, atol=2e-5)
    np.testing.assert_array_equal(surface.body, np.where(hit, 0, 2))
    point = np.stack([x * expected, y * expected, expected], axis=-1)
    normal = np.where(hit[..., None], (point - [0, 0, 0.8]) / 0.05, [0, 0, -1])
    np.testing.assert_allclose(surface.normal, normal, atol=2e-3)


def test_rgb_and_depth_show_the_same_scene() -> None:
    rng = np.random.default_rng(1)
    scene = draw_scene("go", rng)
    surface = cast(scene, 0.5)
    depth = measure_depth(scene, surface, rng)
    seen = depth > 0
    error = np.abs(depth[seen] / 1000 - surface.depth[seen])
    assert np.median(error) < 0.02
    assert shade(scene, surface, rng).shape == (64, 64, 3)
    np.testing.assert_allclose(np.linalg.norm(surface.normal, axis=-1), 1, atol=1e-4)


def test_rotation_is_orthonormal() -> None:
    turn = rotation(0.3, -1.2, 2.0)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-6)


def test_frames_move_and_are_never_the_same_twice(source: SyntheticSource) -> None:
    for modality in ("rgb", "depth"):
        frames = source.read("train", 0, modality, 0, 20).reshape(20, -1).astype(np.int64)
        assert (np.diff(frames, axis=0) != 0).any(axis=1).all()


def test_depth_has_holes_but_never_only_holes(source: SyntheticSource) -> None:
    holes = np.array([(source.read("train", m, "depth", 0, 1) == 0).mean() for m in range(40)])
    assert 0.05 < holes.mean() < 0.5
    assert holes.max() < 0.8


def test_word_repeats_under_noise_that_does_not(source: SyntheticSource) -> None:
    audio = np.stack(
        [source.read("train", m, "audio", 0, 80000).reshape(5, 16000) for m in range(12)]
    ).astype(float)
    together = audio.mean(axis=1).std(axis=1)
    alone = audio.std(axis=2).mean(axis=1)
    # Pure noise would fall to 1/sqrt(5) of itself, a pure word would stay.
    assert (together / alone > 0.44).all()
    assert (together / alone).max() > 0.8
    assert (np.diff(audio, axis=1) != 0).any(axis=2).all()
    assert np.abs(audio).max(axis=(1, 2)).min() > 0.03 * 32767
    assert np.abs(audio).max() < 32767


@pytest.mark.parametrize("word", CLASSES)
def test_utterances_fit_into_their_second(word: str) -> None:
    for seed in range(20):
        wave = speak(word, np.random.default_rng(seed))
        assert 0.12 * 16000 < len(wave) <= 0.9 * 16000
        assert np.abs(wave).max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("frequency", [13.0, 17.0, 21.0])
def test_flicker_stands_out_on_average_at_its_frequency(frequency: float) -> None:
    """The mean power spectrum over 60 trials peaks at the flicker; at rest it does not."""
    bins = np.fft.rfftfreq(1280, 1 / 256)
    at = int(np.argmin(np.abs(bins - frequency)))
    beside = np.r_[at - 8 : at - 2, at + 3 : at + 9]

    def ratio(f: float) -> float:
        trials = np.stack([draw_trial(f, np.random.default_rng(n)) for n in range(60)])
        power = np.log(np.abs(np.fft.rfft(trials[:, :, 0] * np.hanning(1280), axis=1)) ** 2).mean(axis=0)
        return float(np.exp(power[at] - power[beside].mean()))

    assert ratio(frequency) > 3
    assert 0.5 < ratio(0.0) < 2


def test_eeg_is_in_plausible_microvolts(source: SyntheticSource) -> None:
    trials = np.stack([source.read("train", m, "eeg", 0, 1280) for m in range(20)])
    assert 5 < trials.std() < 40
    assert np.abs(trials).max() < 400
    assert (trials.std(axis=1) > 1).all()
