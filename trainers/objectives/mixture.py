"""MMVAE's objective: bounds under a mixture of experts, q(z | x_S) = Σ_m w_m q_m(z | x_m), as pure functions.

With z_k ~ q_m(z | x_m) the log importance weight is

    log w_k = Σ_{i∈S} log p_i(x_i | z_k) + β [log N(z_k; 0, I) − log q(z_k | x_S)],

the ELBO is the mean of log w_k, and the importance weighted bound log 1/K Σ_k w_k. Both are averaged over the m ∈ S
(stratified sampling), outside of the logarithm: the looser of the two bounds of Shi et al. (2019), which they train.

The public code's default objective is another one, :func:`reweighted_elbo`: cross terms are own reconstructions with an
importance weight, so that nothing is ever decoded from another modality. The SVAE paper trained its MMVAE so.

The public code has Laplace distributions; ours are Gaussians, like everywhere in this package.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, log_density
from trainers.objectives.classification import masked_mean

LARGEST_LOG_RATIO = 10.0
"""Of densities in :func:`reweighted_elbo`; beyond, a single row would be all of a batch's loss."""


def mixture_log_density(value: Tensor, experts: Gaussian, present: Tensor) -> Tensor:
    """Log density of the uniform mixture over a row's present experts, (K, B), in nats.

    Args:
        value: (K, B, L).
        experts: (B, M, L).
        present: (B, M) of 0/1; absent experts have no part and get no gradient. Rows with nothing present give the
            density of the mixture of all, so that they stay finite.
    """
    nothing = (present.sum(dim=1, keepdim=True) == 0).to(present.dtype)
    member = present + nothing
    log_densities = log_density(value.unsqueeze(2), experts).masked_fill(member == 0, -torch.inf)
    return torch.logsumexp(log_densities, dim=2) - torch.log(member.sum(dim=1))


def log_importance_weight(
    value: Tensor, reconstruction: Tensor, experts: Gaussian, present: Tensor, *, beta: float
) -> Tensor:
    """Log w of every sample, (K, B), in nats; see the module's formula.

    Args:
        value: (K, B, L) samples z.
        reconstruction: (K, B, M) −log p_i(x_i | z); columns of absent modalities are ignored.
        experts: q_m(z | x_m), (B, M, L).
        present: (B, M) of 0/1.
        beta: weight of log p(z) − log q(z | x_S); 1 in the paper.
    """
    likelihood = -(reconstruction * present).sum(dim=2)
    standard = Gaussian(torch.zeros_like(value), torch.zeros_like(value))
    return likelihood + beta * (log_density(value, standard) - mixture_log_density(value, experts, present))


def importance_weighted_bound(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log 1/K Σ_k w_k with DReG's gradient (Tucker et al. 2019), and the normalised weights.

    The gradient in log w_k is w̃_k = w_k / Σ w, held constant. To be DReG's, log q in log w must see its parameters
    detached, and the gradient that reaches z_k be multiplied by w̃_k once more.

    Args:
        log_weight: (K, B).

    Returns:
        (B,) the bound, and (K, B) w̃ without gradient.
    """
    weight = torch.softmax(log_weight.detach(), dim=0)
    surrogate = (weight * log_weight).sum(dim=0)
    value = torch.logsumexp(log_weight.detach(), dim=0) - torch.log(torch.tensor(float(len(log_weight))))
    return value + surrogate - surrogate.detach(), weight


def reweighted_elbo(
    reconstruction: Tensor,
    value: Tensor,
    experts: Gaussian,
    divergence: Tensor,
    present: Tensor,
    *,
    beta: float,
) -> Tensor:
    """The negative importance-sampled ELBO that the public code calls ``elbo``; mean over rows, in nats.

    1/|S| Σ_{r∈S} [ β KL(q_r ‖ p) − Σ_{d∈S} w_rd log p_d(x_d | z_d) ],  z_d ~ q_d,  w_rd = q_r(z_d) / q_d(z_d)

    In w_rd only q_r has a gradient. As log p_d is negative, that gradient drives q_r away from what the others say.

    Args:
        reconstruction: (B, M) −log p_d(x_d | z_d).
        value: (B, M, L) z_d, one sample of each expert.
        experts: q_d(z | x_d), (B, M, L).
        divergence: (B, M) KL(q_d ‖ p).
        present: (B, M) of 0/1.
        beta: weight of the divergences.
    """
    drawn = value.detach().transpose(0, 1)
    # (B, r, d): the density of expert r at the sample of expert d.
    density = torch.stack([log_density(z.unsqueeze(1), experts) for z in drawn], dim=2)
    own = density.diagonal(dim1=1, dim2=2).detach()
    ratio = torch.exp((density - own.unsqueeze(1)).clamp(max=LARGEST_LOG_RATIO))
    same = torch.eye(present.shape[1], dtype=ratio.dtype, device=ratio.device)
    weight = (same + (1.0 - same) * ratio) * present.unsqueeze(1) * present.unsqueeze(2)
    total = (weight * reconstruction.unsqueeze(1)).sum(dim=(1, 2)) + beta * (divergence * present).sum(dim=1)
    return masked_mean(total / present.sum(dim=1).clamp(min=1.0), present.amax(dim=1))


def mixture_moments(experts: Gaussian, weight: Tensor) -> Gaussian:
    """The Gaussian with the mean and variance of a mixture, (B, L); N(0, I) where all weights are 0.

    μ = Σ w_m μ_m,  σ² = Σ w_m (σ²_m + (μ_m − μ)²)

    Args:
        experts: (B, M, L).
        weight: (B, M), summing to 1 or all 0.
    """
    nothing = 1.0 - weight.sum(dim=1, keepdim=True)
    weight = weight.unsqueeze(2)
    mean = (weight * experts.mean).sum(dim=1)
    spread = torch.exp(experts.log_variance) + (experts.mean - mean.unsqueeze(1)).square()
    return Gaussian(mean, torch.log((weight * spread).sum(dim=1) + nothing.clamp(min=1e-6)))
