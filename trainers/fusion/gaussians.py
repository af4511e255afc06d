"""Diagonal Gaussians in precision space: products of experts, divergences, samples.

Every function is batched over leading axes, computes in float32 and has no branch on data, so it exports to
a static graph. An absent expert is one whose weight is 0: it adds no precision. No infinity ever stands for
"absent".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_VARIANCE_LIMIT = 8.0
"""Log variances are kept within ± this, so that precisions stay well inside float32 (and mostly float16)."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian: ``mean`` and ``log_variance``, both (..., L)."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_flat(cls, flat: Tensor) -> Gaussian:
        """Split (..., 2L) into mean (first half) and log variance (second half, limited)."""
        mean, log_variance = flat.float().chunk(2, dim=-1)
        return cls(mean, log_variance.clamp(-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT))

    def flat(self) -> Tensor:
        """(..., 2L): mean, then log variance."""
        return torch.cat((self.mean, self.log_variance), dim=-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparameterised sample: mean + standard deviation * noise, noise ~ N(0, I)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * standard_normal_like(self.mean, generator)

    def repeat_rows(self, count: int) -> Gaussian:
        """Every row of the first axis ``count`` times in succession."""
        return Gaussian(*(t.repeat_interleave(count, dim=0) for t in self))


def standard_normal_like(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Samples of N(0, I) with the shape, device and dtype of a tensor."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def product_of_experts(mean: Tensor, log_variance: Tensor, weight: Tensor, *, prior: bool = True) -> Gaussian:
    """Weighted product of Gaussian experts, q(z) ∝ [N(z; 0, I)] · ∏_k N(z; μ_k, σ²_k)^{w_k}.

    In precision space: Λ = [1] + Σ_k w_k / σ²_k and μ = Λ⁻¹ Σ_k w_k μ_k / σ²_k.

    Args:
        mean: (B, K, L) means of the experts.
        log_variance: (B, K, L).
        weight: (B, K) at least 0; 0 leaves the expert out.
        prior: multiply in N(0, I). Without it a row whose weights are all 0 still gives N(0, I), so that the
            product is a distribution for every weight.

    Returns:
        The product, (B, L).
    """
    weighted = weight.float().unsqueeze(-1) * torch.exp(-log_variance.float())
    precision = weighted.sum(dim=1)
    moment = (weighted * mean.float()).sum(dim=1)
    nothing = (weight.sum(dim=1, keepdim=True) <= 0).float()
    precision = precision + (1.0 if prior else nothing)
    return Gaussian(moment / precision, -torch.log(precision))


def log_density(value: Tensor, gaussian: Gaussian) -> Tensor:
    """Log density log N(value; μ, σ²) summed over the latent, (...,), in nats."""
    distance = (value - gaussian.mean).square() * torch.exp(-gaussian.log_variance)
    return -0.5 * (math.log(2 * math.pi) + gaussian.log_variance + distance).sum(dim=-1)


def kl_divergence_per_dimension(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) of each dimension, (..., L), in nats.

    ½ [log σ²_p − log σ²_q + (σ²_q + (μ_q − μ_p)²) / σ²_p − 1]
    """
    ratio = torch.exp(q.log_variance - p.log_variance)
    distance = (q.mean - p.mean).square() * torch.exp(-p.log_variance)
    return 0.5 * (p.log_variance - q.log_variance + ratio + distance - 1.0)


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) summed over the latent, (...,), in nats; see :func:`kl_divergence_per_dimension`."""
    return kl_divergence_per_dimension(q, p).sum(dim=-1)


def kl_to_standard_normal(q: Gaussian, *, free_bits: float = 0.0) -> Tensor:
    """KL(q ‖ N(0, I)) summed over the latent, (...,), in nats: −½ Σ (1 + log σ² − μ² − σ²).

    Args:
        q: (..., L).
        free_bits: nats per dimension that cost nothing: each dimension counts max(KL, free_bits), so a
            dimension below the floor gets no gradient towards the prior.
    """
    per_dimension = -0.5 * (1.0 + q.log_variance - q.mean.square() - torch.exp(q.log_variance))
    if free_bits > 0.0:
        per_dimension = per_dimension.clamp(min=free_bits)
    return per_dimension.sum(dim=-1)
