"""SVAE's objective for any number of modalities, as pure functions of tensors.

Two modalities (eq. 7), per paired row, as a loss:

    −log p₁(x₁|z) − log p₂(x₂|z) + KL(q(z|x₁,x₂) ‖ q(z|x₁)) + KL(q(z|x₁,x₂) ‖ q(z|x₂))        z ~ q(z|x₁,x₂)
    + Σ_i [ −log p_i(x_i|z_i) + KL(q(z|x_i) ‖ p(z)) ]                                           z_i ~ q(z|x_i)

and the unimodal line alone for an unpaired row (eq. 8). For n modalities (D.28-D.31) the first line holds
for the full set T of the row and for its subsets S: reconstruct S from q(z|x_S), and pull q(z|x_S) towards
what remains when any one of its modalities goes, q(z|x_{S∖j}). For |T| = 2 that is eq. 7, for |T| = 3 it is
D.28. The paper sums over all subsets; we draw one proper subset per row and step, an unbiased draw up to the
weighting of subset sizes. D.29 as printed also pulls towards a modality that is not in S, which nothing
observed supports; we take j in S only, and D.29's KL(q(z|x_S) ‖ p(z)) where it is asked for.

VAEVAE (Wu & Goodman 2019, the paper's appendix C) has the joint line for paired and the unimodal line for unpaired rows
only; VAEVAE* has the whole objective. Algorithm 1 prints the divergences with the sign of the likelihoods; they are
subtracted from the bound, as in eq. 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal
from trainers.fusion.masks import without
from trainers.objectives.classification import masked_mean

Posterior = Callable[[Tensor], Gaussian]
"""Presence mask (B, M) -> q(z | x_S), (B, L)."""


def divergence_to_smaller_subsets(posterior: Posterior, subset: Tensor, *, prior: bool = False) -> Tensor:
    """Σ_{j∈S} KL(q(z|x_S) ‖ q(z|x_{S∖j})), (B,), in nats; 0 for rows with fewer than two modalities.

    Args:
        posterior: q(z | x_S) for any S.
        subset: (B, M) of 0/1, the set S of each row.
        prior: add KL(q(z|x_S) ‖ N(0, I)), as D.29 does.
    """
    whole = posterior(subset)
    total = torch.zeros(subset.shape[0], dtype=whole.mean.dtype, device=subset.device)
    for j in range(subset.shape[1]):
        total = total + subset[:, j] * kl_divergence(whole, posterior(without(subset, j)))
    if prior:
        total = total + kl_to_standard_normal(whole)
    return total * (subset.sum(dim=1) >= 2).to(total.dtype)


def paired_loss(
    reconstruction: Sequence[Tensor], subset: Tensor, divergence: Tensor, *, beta: float
) -> Tensor:
    """Eq. 7's joint line (D.28 for n > 2), mean over rows with at least two modalities in ``subset``.

    Args:
        reconstruction: per modality −log p_i(x_i | z), z ~ q(z|x_S), each (B,).
        subset: (B, M) of 0/1, the set S that z was inferred from.
        divergence: (B,) of :func:`divergence_to_smaller_subsets`.
        beta: weight of the divergences.
    """
    negative_log_likelihood = (torch.stack(tuple(reconstruction), dim=1) * subset).sum(dim=1)
    paired = (subset.sum(dim=1) >= 2).to(negative_log_likelihood.dtype)
    return masked_mean(negative_log_likelihood + beta * divergence, paired)


def unimodal_loss(
    reconstruction: Tensor, posterior: Gaussian, present: Tensor, *, beta: float, free_bits: float = 0.0
) -> Tensor:
    """One modality's negative ELBO (eq. 7's second part, eq. 8), mean over the rows that have it.

    −log p_i(x_i|z_i) + β KL(q(z|x_i) ‖ N(0, I))

    Args:
        reconstruction: (B,) −log p_i(x_i|z_i), z_i ~ q(z|x_i).
        posterior: q(z|x_i), (B, L).
        present: (B,) of 0/1.
        beta: weight of the divergence.
        free_bits: nats per dimension that cost nothing.
    """
    return masked_mean(reconstruction + beta * kl_to_standard_normal(posterior, free_bits=free_bits), present)
