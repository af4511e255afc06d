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


class PresentStandardization(nn.Module):
    """Brings features to mean 0 and variance 1 over the rows that have the modality; what rows without hold is ignored.

    After it, 0 is the mean feature: what the joint network is given in place of an absent modality. Running moments
    serve in evaluation mode, and in training while fewer than two rows have the modality.

    Attributes:
        mean: (D,) running mean.
        variance: (D,) running variance.
    """

    def __init__(self, size: int, momentum: float = 0.1, floor: float = 1e-4) -> None:
        super().__init__()
        self.momentum, self.floor = momentum, floor
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Standardise (B, D); ``present`` (B,) of 0/1 says in training which rows to learn the moments from."""
        mean, variance = self.mean, self.variance
        if self.training and present is not None and int(present.sum()) > 1:
            weight = (present / present.sum()).unsqueeze(1)
            mean = (weight * features).sum(dim=0)
            variance = (weight * (features - mean).square()).sum(dim=0)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        return (features - mean) / torch.sqrt(variance + self.floor)
