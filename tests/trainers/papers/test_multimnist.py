"""MultiMNIST's pairs, what training is shown of them, and how an arm's settings follow from its name."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
from trainers.data.array_sampler import ArraySampler
from trainers.papers.multimnist import SETTINGS, MultiMnist, make_config
from trainers.papers.rotated_digits import RotatedDigits, turned


def numbered_images(count: int) -> np.ndarray:
    """Images that tell their row by the pixel in the top left corner, and which way is up by the one beside it."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count), 255
    return images


def test_a_quarter_turn_is_counterclockwise() -> None:
    image = numbered_images(1)
    assert turned(image, 1)[0, 26, 0] == 255
    assert turned(image, 2)[0, 27, 26] == 255
    assert turned(image, 3)[0, 1, 27] == 255


def test_every_instance_is_beside_others_of_its_class_once_per_pairing() -> None:
    labels = np.array([0, 1, 2] * 20)
    pairs = RotatedDigits(numbered_images(60), labels, 3, seed=0, pairings=5)
    assert len(pairs) == 300
    shown = pairs.instances(np.arange(300))
    assert np.array_equal(shown[:, 0], np.tile(np.arange(60), 5))
    for turns in (1, 2):
        assert np.array_equal(labels[shown[:, turns]], labels[shown[:, 0]])
        for pairing in range(5):
            assert sorted(shown[60 * pairing : 60 * (pairing + 1), turns]) == list(range(60))
    assert not np.array_equal(shown[:60, 1], shown[60:120, 1])
    assert not np.array_equal(shown[:, 1], shown[:, 2])


def test_batches_show_the_turned_partners_and_no_label() -> None:
    labels = np.repeat(np.arange(4), 10)
    pairs = RotatedDigits(numbered_images(40), labels, 4, seed=3, pairings=2)
    batch = ArraySampler(pairs, 16, seed=0).next()
    assert list(batch.windows) == ["turned_0", "turned_90", "turned_180", "turned_270"]
    corner = ((0, 0), (27, 0), (27, 27), (0, 27))
    for (row, column), window in zip(corner, batch.windows.values(), strict=True):
        assert window.shape == (16, 28, 28)
        upright = batch.windows["turned_0"][:, 0, 0].numpy().astype(int)
        assert np.array_equal(labels[window[:, row, column].numpy().astype(int)], labels[upright])
    assert bool((batch.labels == -1).all())
    assert bool((batch.presence == 1).all())


@pytest.mark.parametrize(("count", "modalities"), [(0, 2), (4, 5), (4, 0)])
def test_pairs_that_cannot_be_made_are_refused(count: int, modalities: int) -> None:
    with pytest.raises(ValueError, match="1 to 4 modalities"):
        RotatedDigits(numbered_images(count), np.zeros(count, np.int64), modalities, seed=0)


def test_the_full_budget_is_the_papers_setting() -> None:
    config = make_config("factorized", 4, 0, SETTINGS["full"])
    phase = config.phases["adversarial"]
    assert (phase.steps, phase.learning_rate, config.batch_size) == (250_000, 2e-4, 64)
    assert config.optimizer.average == 0.9999
    assert config.system.decoder_size("turned_90", 10) == 20
    assert config.system.classification == config.system.reconstruction == 0.0  # type: ignore[union-attr]


def test_every_arm_names_a_discriminator_and_a_number_of_modalities() -> None:
    arms = MultiMnist().arms("small")
    assert len(arms) == 6
    assert {(a.split(",")[0], a.split()[1]) for a in arms} == {
        (kind, str(m)) for kind in ("factorized", "joint") for m in (2, 3, 4)
    }
