"""Networks that SS-HMVAE's distributions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian

Normalization = Literal["batch", "layer"]


def block(size: int, width: int, normalization: Normalization) -> nn.Sequential:
    """The paper's DkBR: linear, normalisation, ReLU; (B, size) -> (B, width)."""
    norm = nn.BatchNorm1d(width) if normalization == "batch" else nn.LayerNorm(width)
    return nn.Sequential(nn.Linear(size, width), norm, nn.ReLU())


class ConditionalGaussian(nn.Module):
    """q or p(· | u, v, ...): a block for each condition, their outputs side by side, then mean and log variance.

    The paper takes the variance from a softplus; we take its logarithm, limited, as everywhere in this package.
    """

    def __init__(
        self, conditions: Sequence[int], size: int, width: int, normalization: Normalization
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(given, width, normalization) for given in conditions)
        self.parameters_of = nn.Linear(width * len(conditions), 2 * size)

    def forward(self, *conditions: Tensor) -> Gaussian:
        """Conditions (B, ·) in the order given -> Gaussian over (B, size)."""
        hidden = [network(given) for network, given in zip(self.blocks, conditions, strict=True)]
        return Gaussian.from_flat(self.parameters_of(torch.cat(hidden, dim=1)))
