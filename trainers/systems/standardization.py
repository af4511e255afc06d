"""Standardisation of features where some rows lack the modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
