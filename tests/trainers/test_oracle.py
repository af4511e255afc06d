from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.signals.opening import find_data_dir
from trainers.evaluation.active_units import active_units
from trainers.evaluation.linear_probe import probe_accuracy
from trainers.evaluation.oracle import as_images, load_or_train_oracle, train_oracle
from trainers.papers.packs import mnist


def bars(seed: int, count: int, height: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images with a bright bar in one of four places."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = rng.integers(0, 60, (count, height, 16)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2:-2, 4 * label + 1 : 4 * label + 3] = 220
    return images, labels


def test_an_oracle_learns_is_frozen_and_repeatable() -> None:
    images, labels = bars(0, 200)
    unseen, truth = bars(1, 80)
    state = torch.get_rng_state()
    oracle = train_oracle(images, labels, 4, seed=3, steps=40)
    assert torch.equal(torch.get_rng_state(), state)
    assert oracle.accuracy(unseen, truth) >= 0.95
    assert not oracle.network.training
    assert not any(p.requires_grad for p in oracle.network.parameters())
    again = train_oracle(images, labels, 4, seed=3, steps=40)
    assert all(
        torch.equal(a, b)
        for a, b in zip(oracle.network.parameters(), again.network.parameters(), strict=True)
    )
    # Frozen: what it says of an image does not depend on the images beside it.
    assert np.array_equal(oracle.predict(unseen)[:3], oracle.predict(unseen[:3]))
    as_float = torch.from_numpy(unseen)[:, None].float() / 255
    assert np.array_equal(oracle.predict(as_float), oracle.predict(unseen))


def test_an_oracle_of_half_images_and_its_faults() -> None:
    images, labels = bars(0, 100, height=9)
    oracle = train_oracle(images, labels, 4, seed=0, steps=5)
    assert oracle.image_shape == (9, 16)
    with pytest.raises(ValueError, match=r"\(9, 16\), got \(16, 16\)"):
        oracle.predict(bars(0, 4)[0])
    with pytest.raises(ValueError, match="images with labels"):
        train_oracle(images[:0], labels[:0], 4, seed=0)
    with pytest.raises(ValueError, match="grey images"):
        as_images(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="int64"):
        as_images(np.zeros((2, 8, 8), np.int64))


def test_a_saved_oracle_is_taken_only_where_it_is_the_one_asked_for(tmp_path: Path) -> None:
    images, labels = bars(0, 100)
    made: list[int] = []

    def ask(seed: int, rows: int = 100) -> np.ndarray:
        made.append(0)
        oracle = load_or_train_oracle(
            tmp_path / "oracle", images[:rows], labels[:rows], 4, seed=seed, steps=4,
            progress=lambda step, loss: made.__setitem__(-1, step),
        )  # fmt: skip
        assert not oracle.network.training
        return oracle.network.network[0].weight.numpy()

    first = ask(0)
    assert np.array_equal(ask(0), first)
    assert not np.array_equal(ask(1), first)
    ask(1, rows=50)
    assert made == [4, 0, 4, 4]


@pytest.mark.packs
def test_an_oracle_of_digits() -> None:
    folder = find_data_dir(None)
    if folder is None or not (folder / "mnist.npz").is_file():
        pytest.skip("the mnist pack was not found: set AFTERIMAGE_DATA")
    digits = mnist(folder)
    few = digits.train[:4000]
    oracle = train_oracle(digits.images[few], digits.labels[few], 10, seed=0, steps=100)
    held_out = digits.validation[:2000]
    assert oracle.accuracy(digits.images[held_out], digits.labels[held_out]) >= 0.95


def test_probe_separates_what_a_line_separates() -> None:
    rng = np.random.default_rng(0)
    labels, fresh = rng.integers(0, 3, 300), rng.integers(0, 3, 200)
    centres = np.array([[0, 0, 5], [4, 0, 5], [0, 4, 5]], np.float64)  # the last feature is constant
    noise = np.array([0.3, 0.3, 0.0])
    train = centres[labels] + noise * rng.normal(size=(300, 3))
    test = centres[fresh] + noise * rng.normal(size=(200, 3))
    assert probe_accuracy(train, labels, test, fresh) == 1.0
    assert probe_accuracy(1e3 * train + 7, labels, 1e3 * test + 7, fresh) == 1.0  # scale does not matter
    assert probe_accuracy(train.astype(np.float32), labels, torch.from_numpy(test), fresh) == 1.0
    nothing = rng.normal(size=(300, 3)), rng.normal(size=(200, 3))
    assert probe_accuracy(nothing[0], labels, nothing[1], fresh) < 0.5


def test_probe_finds_the_minimum_of_its_loss() -> None:
    """Two rows at +1 and -1: stationarity gives, for w = W[0, 1] - W[0, 0], sigmoid(-w) = penalty w / 2."""
    from trainers.evaluation.linear_probe import _fit

    features = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    weight, bias = _fit(features, torch.tensor([1, 0]), 2, 0.1, 200)
    difference = float(weight[0, 1] - weight[0, 0])
    assert 1 / (1 + np.exp(difference)) == pytest.approx(0.1 * difference / 2, abs=1e-6)
    assert float(bias[1] - bias[0]) == pytest.approx(0.0, abs=1e-6)


def test_probe_names_faults() -> None:
    good, labels = np.zeros((4, 2)), np.zeros(4, int)
    with pytest.raises(ValueError, match=r"\(4, 2\), \(3,\)"):
        probe_accuracy(good, labels[:3], good, labels)
    with pytest.raises(ValueError, match="not finite"):
        probe_accuracy(good + np.nan, labels, good, labels)


def test_active_units_are_those_that_move() -> None:
    means = np.zeros((100, 4))
    means[:, 0] = np.linspace(-1, 1, 100)  # variance 0.34
    means[::2, 1] = 0.18  # variance 0.0081
    means[::2, 2] = 0.22  # variance 0.0121
    means[:, 3] = 50.0
    assert active_units(means) == 2
    assert active_units(means, threshold=0.005) == 3
    with pytest.raises(ValueError, match="N >= 2"):
        active_units(means[:1])
