"""Critics: the part of a discriminator that reads an observation in model units, for any kind of modality."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as normalised


def build_critic(target_shape: tuple[int, ...], hidden_size: int, *, spectral_norm: bool = True) -> nn.Module:
    """A network (B, *target_shape) -> (B, hidden_size), without batch norm: rows must not see each other.

    Images (C, S, S) with S a multiple of 8 pass patches of 4 x 4 and a strided convolution; everything else is
    flattened into two linear layers.

    Args:
        target_shape: of one target in model units.
        hidden_size: size of what comes out.
        spectral_norm: bound every layer's largest singular value by 1.
    """

    def bounded(layer: nn.Module) -> nn.Module:
        return normalised(layer) if spectral_norm else layer

    if len(target_shape) == 3 and target_shape[1] == target_shape[2] and target_shape[1] % 8 == 0:
        channels, size, _ = target_shape
        # Patches first: at half the resolution instead, that layer alone would cost as much as a whole encoder.
        return nn.Sequential(
            bounded(nn.Conv2d(channels, 48, 4, stride=4)),
            nn.LeakyReLU(0.2),
            bounded(nn.Conv2d(48, 64, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            bounded(nn.Linear(64 * (size // 8) ** 2, hidden_size)),
            nn.LeakyReLU(0.2),
        )
    return nn.Sequential(
        nn.Flatten(),
        bounded(nn.Linear(math.prod(target_shape), 2 * hidden_size)),
        nn.LeakyReLU(0.2),
        bounded(nn.Linear(2 * hidden_size, hidden_size)),
        nn.LeakyReLU(0.2),
    )
