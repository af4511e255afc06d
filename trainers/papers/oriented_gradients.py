"""Histograms of oriented gradients (Dalal and Triggs 2005): fixed features, with which learned ones are compared."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 9
CELL = 8
CLIP = 0.2


def oriented_gradients(images: Tensor) -> Tensor:
    """Histograms of unsigned gradient directions over cells of 8 pixels, normalised over blocks of 2x2 cells (L2-Hys).

    A gradient's length is shared between the two nearest of 9 directions; blocks overlap by one cell.

    Args:
        images: (B, S, S) grey values of any scale; S a multiple of 8.

    Returns:
        (B, (S/8 − 1)² · 36).
    """
    padded = F.pad(images.unsqueeze(1), (1, 1, 1, 1), mode="replicate").squeeze(1)
    across = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    length = torch.sqrt(across.square() + down.square())
    place = torch.atan2(down, across).remainder(math.pi) / math.pi * BINS - 0.5
    bins = torch.arange(BINS, dtype=images.dtype, device=images.device).view(1, BINS, 1, 1)
    distance = (place.unsqueeze(1) - bins).remainder(BINS)
    share = (1.0 - torch.minimum(distance, BINS - distance)).clamp(min=0.0)
    cells = F.avg_pool2d(share * length.unsqueeze(1), CELL) * CELL**2
    blocks = F.unfold(cells, 2).transpose(1, 2)
    blocks = blocks / torch.sqrt(blocks.square().sum(-1, keepdim=True) + 1.0)
    blocks = blocks.clamp(max=CLIP)
    blocks = blocks / torch.sqrt(blocks.square().sum(-1, keepdim=True) + 1e-6)
    return blocks.flatten(1)
