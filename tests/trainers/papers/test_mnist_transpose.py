"""mnist-transpose: what its training rows have and lack, and that what it measures is what was imputed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch

from trainers.evaluation.oracle import Oracle, OracleNetwork
from trainers.papers.mnist_transpose import (
    IMAGE,
    SETTINGS,
    TRANSPOSE,
    DigitNetwork,
    impute,
    make_config,
    make_pairs,
    make_sampler,
    make_system,
    measure,
)
from trainers.papers.networks import ImageSpec
from trainers.papers.packs import Recordings
from trainers.systems.base import FusedTensors

SETTING = dataclasses.replace(SETTINGS["smoke"], batch=(4, 3, 3))


@pytest.fixture(scope="module")
def digits() -> Recordings:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 28, 28), np.uint8)
    every = np.arange(300)
    return Recordings({"image": images}, np.arange(300) % 10, every[:200], every[200:250], every[250:])


def test_some_rows_are_labelled_pairs_and_no_other_image_is_in_both(digits: Recordings) -> None:
    pairs, (paired, images, transposes) = make_pairs(digits, digits.train, 23, seed=1)
    assert len(paired) == 23
    counts = np.bincount(pairs.labels[paired], minlength=10)
    assert counts.min() >= 2
    assert counts.max() <= 3
    assert sorted(np.concatenate((paired, images, transposes))) == list(range(200))
    assert (pairs.presence[paired] == 1).all()
    assert (pairs.presence[images] == (1, 0)).all()
    assert (pairs.presence[transposes] == (0, 1)).all()
    assert (pairs.labels[np.concatenate((images, transposes))] == -1).all()
    assert (pairs.labels[paired] == digits.labels[digits.train[paired]]).all()


def test_a_transpose_is_the_transpose_of_its_image(digits: Recordings) -> None:
    pairs, _ = make_pairs(digits, digits.train, None, seed=0)
    for row in (0, 150):
        np.testing.assert_array_equal(pairs.arrays[TRANSPOSE][row], pairs.arrays[IMAGE][row].T)
    assert (pairs.labels >= 0).all()
    assert (pairs.presence == 1).all()


def test_other_seeds_draw_other_pairs(digits: Recordings) -> None:
    drawn = [make_pairs(digits, digits.train, 20, seed)[1][0].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_batches_take_rows_of_every_kind(digits: Recordings) -> None:
    pairs, rows = make_pairs(digits, digits.train, 20, seed=0)
    batch = make_sampler(pairs, rows, SETTING, 0).next()
    assert batch.presence.tolist() == [[1, 1]] * 4 + [[1, 0]] * 3 + [[0, 1]] * 3
    assert (batch.labels >= 0).tolist() == [True] * 4 + [False] * 6
    every, all_rows = make_pairs(digits, digits.train, None, seed=0)
    assert make_sampler(every, all_rows, SETTING, 0).next().presence.tolist() == [[1, 1]] * 10


def test_distorted_digits_stay_in_range_and_follow_the_generator() -> None:
    network = DigitNetwork(ImageSpec("image", (28, 28)), 4, 16, 2)
    window = torch.zeros(6, 28, 28)
    window[:, 8:20, 10:18] = 255.0
    one, same, other = (network.augment(window, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 255
    # Stretched and turned, but all there: a box of 96 pixels, scaled by at most 1.35 each way.
    area = one.sum((1, 2)) / 255.0
    assert ((area > 96 / 2.2) & (area < 96 * 2.2)).all()


def test_imputing_sees_only_what_is_given(digits: Recordings) -> None:
    system = make_system(make_config(0, SETTING), SETTING).eval()
    images = digits.images[:7]
    windows = {IMAGE: images, TRANSPOSE: images.transpose(0, 2, 1)}
    first = impute(system, windows, (IMAGE,), TRANSPOSE)
    again = impute(system, windows | {TRANSPOSE: images[::-1]}, (IMAGE,), TRANSPOSE)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    changed = impute(system, windows | {IMAGE: images[::-1]}, (IMAGE,), TRANSPOSE)
    assert not np.array_equal(first[0], changed[0])


def test_imputed_transposes_are_judged_upright(digits: Recordings) -> None:
    """A judge that reads the brightest row, and a system that draws just that: every class is right."""

    class Rows(OracleNetwork):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.sum((1, 3))[:, :10]

    class Perfect:
        """Evidence is ten logits and the image itself; what is drawn has its bar where the class says."""

        names = (IMAGE, TRANSPOSE)

        def parameters(self) -> object:
            return iter([torch.zeros(1)])

        def encode(self, name: str, window: torch.Tensor) -> torch.Tensor:
            upright = window if name == IMAGE else window.mT
            return upright.sum(2)[:, :10]

        def fuse(self, evidence: dict[str, torch.Tensor], presence: torch.Tensor) -> FusedTensors:
            seen = evidence[IMAGE] if presence[0, 0] else evidence[TRANSPOSE]
            return FusedTensors(seen, seen, dict.fromkeys((IMAGE, TRANSPOSE), seen))

        def decode(self, name: str, latent: torch.Tensor) -> torch.Tensor:
            images = torch.zeros(len(latent), 28, 28)
            images[torch.arange(len(latent)), latent[:, :10].argmax(1)] = 200.0
            return images if name == IMAGE else images.mT

    images = np.zeros((20, 28, 28), np.uint8)
    labels = np.arange(20) % 10
    images[np.arange(20), labels] = 200
    bars = Recordings({"image": images}, labels, np.arange(0), np.arange(0), np.arange(20))
    oracle = Oracle(Rows(28, 28, 10), (28, 28), 10)
    found = measure(Perfect(), oracle, bars, bars.test)  # type: ignore[arg-type]
    assert found["imputed transpose"] == found["imputed image"] == found["oracle"] == 100.0
    assert found["decided from transpose"] == found["follows another class"] == 100.0
    assert found["NMSE of transpose"] == found["NMSE of image"] == 0.0
