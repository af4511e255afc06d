"""Digits cut into horizontal stripes, each a modality of its own, with few or many kept together (MNIST-Split)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.data.array_sampler import ArraySampler
from trainers.data.sampler import Batch
from trainers.modalities.network import WindowSpec
from trainers.papers.networks import GreyImageNetwork, ImageSpec

Rows = npt.NDArray[np.int64]
Images = npt.NDArray[Any]

SIDE = 28
"""Height and width of a digit."""
NAMES: Mapping[int, tuple[str, ...]] = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
"""Number of stripes -> what they are called, from above."""

LAST_LAYER: Mapping[tuple[int, ...], tuple[tuple[int, int], tuple[int, int]]] = {
    (14, SIDE): ((2, 4), (2, 2)),
    (9, SIDE): ((3, 4), (1, 2)),
}
"""Shape of a stripe -> kernel and stride of the paper's decoder's last layer; that of 9 rows is our own."""


@dataclass(frozen=True)
class Stripes:
    """How a digit is cut: into stripes of equal height; rows below the last one are left out.

    Three stripes of 9 rows leave the last row of 28 out, which is blank in nearly every digit.

    Attributes:
        names: of the stripes, from above.
        height: of each, in rows.
    """

    names: tuple[str, ...]
    height: int

    @classmethod
    def of(cls, count: int) -> Stripes:
        """Two halves or three thirds.

        Raises:
            ValueError: another number.
        """
        if count not in NAMES:
            raise ValueError(f"expected 2 or 3 stripes, got {count}")
        return cls(NAMES[count], SIDE // count)

    def split(self, images: Images) -> dict[str, Images]:
        """(N, 28, 28) -> stripe -> (N, height, 28)."""
        return {n: images[:, i * self.height : (i + 1) * self.height] for i, n in enumerate(self.names)}

    def join(self, stripes: Mapping[str, Tensor]) -> Tensor:
        """Stripe -> (B, height, 28), back to (B, 28, 28); rows that were left out are 0."""
        whole = torch.cat([stripes[n] for n in self.names], dim=1)
        return F.pad(whole, (0, 0, 0, SIDE - whole.shape[1]))

    def specs(self) -> tuple[ImageSpec, ...]:
        """Each stripe as a modality."""
        return tuple(ImageSpec(n, (self.height, SIDE)) for n in self.names)


class StripedDigits:
    """Digits as batches of stripes: N rows with all stripes, then for every stripe N rows with that one alone.

    So unpaired rows are views of the same digits as the paired ones, as in the paper's code, whose unpaired loaders
    cover the whole training set. No labels: nothing here learns from them.
    """

    def __init__(self, images: Images, stripes: Stripes) -> None:
        """Take digits (N, 28, 28) uint8."""
        self._stripes, self._arrays, self._count = stripes, stripes.split(images), len(images)

    def __len__(self) -> int:
        """Rows of all kinds, (M + 1) N."""
        return (len(self._stripes.names) + 1) * self._count

    def batch(self, index: Rows) -> Batch:
        """Some rows as a batch; absent stripes are zeros."""
        kind, row = np.divmod(index, self._count)
        own = np.arange(1, len(self._stripes.names) + 1)
        presence = torch.from_numpy(((kind[:, None] == 0) | (kind[:, None] == own)).astype(np.float32))
        windows = {
            name: torch.from_numpy(array[row].astype(np.float32)) * presence[:, i, None, None]
            for i, (name, array) in enumerate(self._arrays.items())
        }
        return Batch(windows, torch.full((len(index),), -1, dtype=torch.int64), presence)

    def sampler(self, share: float, paired: int, alone: int, seed: int) -> ArraySampler:
        """Batches of so many rows with all stripes, from a share of the digits, and so many of every stripe alone.

        Args:
            share: of the digits whose stripes are known to belong together, drawn by the seed.
            paired: rows with all stripes in a batch.
            alone: rows of each stripe alone in a batch, from all digits; 0 for none.
            seed: of the draw and of the order.

        Raises:
            ValueError: a share outside 0..1, or one that leaves no pair.
        """
        if not 0 < share <= 1 or round(share * self._count) < 1:
            raise ValueError(
                f"a share of {share} of {self._count} digits leaves no pair; expected one of 0..1"
            )
        order = np.random.default_rng([0x53545250, seed]).permutation(self._count)
        groups = [(order[: round(share * self._count)], paired)]
        every = np.arange(self._count, dtype=np.int64)
        if alone:
            groups += [(every + k * self._count, alone) for k in range(1, len(self._stripes.names) + 1)]
        return ArraySampler(self, groups, seed)


class StripeNetwork(GreyImageNetwork):
    """One stripe's networks as in the paper's public code: three convolutions and 512 units, 512 units and three back.

    Takes stripes of 14 or 9 rows; see :class:`GreyImageNetwork` for the likelihood.
    """

    def __init__(
        self,
        spec: WindowSpec,
        latent_size: int,
        *,
        likelihood: Literal["bernoulli", "gaussian", "laplace"] = "bernoulli",
    ) -> None:
        """Build it.

        Raises:
            ValueError: a stripe of another size.
        """
        super().__init__(spec, latent_size, hidden_size=512, likelihood=likelihood)
        last = LAST_LAYER.get(self.window_shape)
        if last is None:
            raise ValueError(
                f"modality {spec.name!r}: expected stripes of 14 or 9 rows of 28, got {self.window_shape}"
            )
        convolutions = []
        for inside, outside in ((1, 64), (64, 128), (128, 256)):
            convolutions += [nn.Conv2d(inside, outside, 4, stride=2, padding=1, bias=False), nn.ReLU()]
        self.encoder = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(768, 512), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 512), nn.ReLU(), nn.Linear(512, 112), nn.ReLU(), nn.Unflatten(1, (112, 1, 1)),
            nn.ConvTranspose2d(112, 56, (3, 5), stride=2), nn.ReLU(),
            nn.ConvTranspose2d(56, 28, (3, 5), stride=2), nn.ReLU(),
            nn.ConvTranspose2d(28, 1, last[0], stride=last[1]),
        )  # fmt: skip
