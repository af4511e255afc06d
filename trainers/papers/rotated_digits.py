"""MultiMNIST as MMALI makes it: a modality per quarter turn, each digit beside 30 others of its class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.sampler import Batch

Rows = npt.NDArray[np.int64]
Images = npt.NDArray[Any]

PAIRINGS = 30


def modality_name(turns: int) -> str:
    """The modality of images turned counterclockwise by so many quarter turns: ``turned_90`` for one."""
    return f"turned_{90 * turns}"


def turned(images: Images, turns: int) -> Images:
    """Images (N, H, W) turned counterclockwise by quarter turns."""
    return np.rot90(images, turns, axes=(1, 2))


class RotatedDigits:
    """Pairings of the same images in several quarter turns, by class; a source of batches for training.

    Modality 0 shows an instance upright. With each pairing, every other modality shows another instance of its class:
    the members of a class are put in a random order, so that over all pairings each instance is beside
    ``pairings`` others in each modality. Labels are not given to training; they only made the pairs.

    Args:
        images: (N, H, W) uint8.
        labels: (N,) classes to pair by.
        modalities: number of modalities, 1 to 4.
        seed: of the pairings.
        pairings: partners of each instance in each other modality.

    Raises:
        ValueError: no images, another number of labels, or a number of modalities that quarter turns do not give.
    """

    def __init__(
        self,
        images: Images,
        labels: npt.NDArray[np.integer[Any]],
        modalities: int,
        seed: int,
        pairings: int = PAIRINGS,
    ) -> None:
        if not len(images) or len(images) != len(labels) or not 1 <= modalities <= 4 or pairings < 1:
            raise ValueError(
                f"expected images with as many labels, 1 to 4 modalities and a pairing, got {len(images)} images, "
                f"{len(labels)} labels, {modalities} modalities and {pairings} pairings"
            )
        self.images = images
        self.modality_names = tuple(modality_name(turns) for turns in range(modalities))
        self.partners = _partners(np.asarray(labels), modalities, pairings, seed)

    def __len__(self) -> int:
        """Number of tuples: instances times pairings."""
        return int(self.partners.shape[0] * self.partners.shape[2])

    def instances(self, index: Rows) -> npt.NDArray[np.int32]:
        """Instance that each modality shows, (B, M), in numbered tuples."""
        pairing, instance = np.divmod(index, self.partners.shape[2])
        return self.partners[pairing, :, instance]

    def batch(self, index: Rows) -> Batch:
        """Numbered tuples as a batch without labels."""
        shown = self.instances(index)
        windows = {
            name: torch.from_numpy(turned(self.images[shown[:, turns]], turns).astype(np.float32))
            for turns, name in enumerate(self.modality_names)
        }
        return Batch(windows, torch.full((len(index),), -1), torch.ones(shown.shape))


def _partners(
    labels: npt.NDArray[np.integer[Any]], modalities: int, pairings: int, seed: int
) -> npt.NDArray[np.int32]:
    """(pairings, M, N): what each modality shows beside instance n in each pairing."""
    rng = np.random.default_rng([0x4D4D4E, seed])
    found = np.empty((pairings, modalities, len(labels)), np.int32)
    found[:, 0] = np.arange(len(labels))
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for pairing in range(pairings):
        for turns in range(1, modalities):
            for rows in members:
                found[pairing, turns, rows] = rng.permutation(rows)
    return found
