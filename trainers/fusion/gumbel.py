"""Relaxed categorical samples, so that an unknown label can be sampled with gradients through the sample."""

from __future__ import annotations

import torch
from torch import Tensor


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One sample of Cat(softmax(logits)), relaxed: softmax((logits + g) / τ), g ~ Gumbel(0, 1).

    Args:
        logits: (..., C).
        temperature: τ > 0; towards 0 samples become one-hot and gradients noisy.
        generator: source of randomness; numbers are drawn on its device.

    Returns:
        (..., C), positive, summing to 1.
    """
    tiny = torch.finfo(torch.float32).tiny
    uniform = torch.rand(logits.shape, generator=generator, device=generator.device).to(logits.device)
    exponential = (-torch.log(uniform.clamp(min=tiny))).clamp(min=tiny)
    gumbel = -torch.log(exponential)
    return torch.softmax((logits + gumbel) / temperature, dim=-1)
