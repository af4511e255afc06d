"""SS-HMVAE's objective for any number of modalities, as pure functions of tensors.

Generative model p(x_1 | a) ⋯ p(x_M | a) p(a | z, y) p(z) p(y), posterior q(a | x) q(y | a) q(z | a, y), p(z) = N(0, I),
p(y) uniform. Per row, as a loss (eqs. 1 and 2), with a ~ q(a | x) and z ~ q(z | a, y):

    −Σ_j log p(x_j | a) − H[q(a | x)] − log p(a | z, y) + KL(q(z | a, y) ‖ p(z)) + D_y

D_y = −log p(y) where the label is given, and KL(q(y | a) ‖ p(y)) where y is a Gumbel-softmax sample of q(y | a). The
entropy and the two divergences are in closed form, which has the paper's expectation with less noise. Eq. 1 as printed
drops y from q(z | a, y); eq. 2 and the networks of the paper's appendix have it, and so do we.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal, log_density
from trainers.objectives.classification import ABSENT_LABEL, masked_mean


def entropy(gaussian: Gaussian) -> Tensor:
    """H[N(μ, σ²)] = ½ Σ (1 + log 2πσ²), (...,), in nats."""
    return 0.5 * (1.0 + math.log(2 * math.pi) + gaussian.log_variance).sum(dim=-1)


def label_divergence(logits: Tensor, labels: Tensor) -> Tensor:
    """D_y of every row, (B,): log C where labelled, KL(q(y | a) ‖ uniform) = log C − H[q(y | a)] where not.

    Args:
        logits: (B, C) of q(y | a).
        labels: (B,) int64, −1 where absent.
    """
    log_q = torch.log_softmax(logits, dim=-1)
    label_entropy = -(log_q.exp() * log_q).sum(dim=-1)
    return math.log(logits.shape[-1]) - label_entropy * (labels == ABSENT_LABEL).to(logits.dtype)


def negative_bound(
    reconstruction: Tensor,
    a: Tensor,
    posterior: Gaussian,
    prior: Gaussian,
    top: Gaussian,
    label_term: Tensor,
    *,
    divergence_weight: float = 1.0,
) -> Tensor:
    """The negative ELBO of every row (eqs. 1 and 2), (B,), in nats; see the module's formula.

    Args:
        reconstruction: (B,) −Σ_j log p(x_j | a) over what the row has.
        a: (B, L) sample of ``posterior``.
        posterior: q(a | x).
        prior: p(a | z, y) at a sample z of ``top``.
        top: q(z | a, y).
        label_term: (B,) D_y of :func:`label_divergence`.
        divergence_weight: of all but the reconstruction; for warm-ups, 1 in the paper.
    """
    divergence = -entropy(posterior) - log_density(a, prior) + kl_to_standard_normal(top) + label_term
    return reconstruction + divergence_weight * divergence


def semi_supervised_mean(bound: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Eq. 3 without α: mean over labelled rows plus mean over unlabelled rows.

    Two means, not one: with 5 % of the labels a labelled row counts 19 times as much as an unlabelled one.

    Args:
        bound: (B,) loss of each row.
        labels: (B,) int64, −1 where absent.
        weight: (B,) of 0/1; rows of 0 count for nothing.
    """
    labelled = (labels != ABSENT_LABEL).to(bound.dtype)
    return masked_mean(bound, weight * labelled) + masked_mean(bound, weight * (1.0 - labelled))


def divergence_to_singles(whole: Gaussian, alone: Mapping[int, Gaussian], presence: Tensor) -> Tensor:
    """J_div of eq. 4: Σ_{i present} KL(q(a | x) ‖ q(a | x_i)), (B,), in nats.

    Args:
        whole: q(a | x) of everything that the row has.
        alone: place of a modality in the mask -> q(a | x_i).
        presence: (B, M) of 0/1.
    """
    terms = [presence[:, i] * kl_divergence(whole, q) for i, q in alone.items()]
    return torch.stack(terms).sum(dim=0)
