"""Evidence lower bounds of the baselines, as losses: of a subset (MVAE), of a joint network (JMVAE)."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal
from trainers.objectives.classification import masked_mean


def subset_loss(
    reconstruction: Tensor,
    posterior: Gaussian,
    subset: Tensor,
    *,
    beta: float,
    rows: Tensor | None = None,
    free_bits: float = 0.0,
) -> Tensor:
    """Negative ELBO of a set S of modalities (MVAE, Wu & Goodman 2018, eq. 5), mean over rows.

    −Σ_{i∈S} log p_i(x_i | z) + β KL(q(z | x_S) ‖ N(0, I)),  z ~ q(z | x_S)

    Args:
        reconstruction: (B, M) −log p_i(x_i | z); columns outside of S are ignored.
        posterior: q(z | x_S), (B, L).
        subset: (B, M) of 0/1, the set S of each row.
        beta: weight of the divergence.
        rows: (B,) of 0/1, which rows count; None: all whose S is not empty.
        free_bits: nats per dimension that cost nothing.
    """
    if rows is None:
        rows = subset.amax(dim=1)
    divergence = kl_to_standard_normal(posterior, free_bits=free_bits)
    return masked_mean((reconstruction * subset).sum(dim=1) + beta * divergence, rows)


def joint_loss(
    reconstruction: Tensor,
    joint: Gaussian,
    singles: Gaussian,
    complete: Tensor,
    *,
    beta: float,
    alpha: float,
    free_bits: float = 0.0,
) -> Tensor:
    """Negative bound of JMVAE-kl (Suzuki et al. 2017; SVAE eq. 2 has α = 1), mean over complete rows.

    −Σ_i log p_i(x_i | z) + β [KL(q(z | x) ‖ N(0, I)) + α Σ_i KL(q(z | x) ‖ q(z | x_i))],  z ~ q(z | x)

    Args:
        reconstruction: (B, M) −log p_i(x_i | z).
        joint: q(z | x_1 … x_M), (B, L).
        singles: q(z | x_i), (B, M, L).
        complete: (B,) of 0/1.
        beta: weight of all divergences.
        alpha: weight of the divergences to the singles.
        free_bits: nats per dimension that the divergence to the prior does not count.
    """
    whole = Gaussian(joint.mean.unsqueeze(1), joint.log_variance.unsqueeze(1))
    to_singles = kl_divergence(whole, singles).sum(dim=1)
    divergence = kl_to_standard_normal(joint, free_bits=free_bits) + alpha * to_singles
    return masked_mean(reconstruction.sum(dim=1) + beta * divergence, complete)


def complete_rows(presence: Tensor) -> Tensor:
    """(B,) of 0/1: 1 where every modality is present."""
    return torch.amin(presence, dim=1)
