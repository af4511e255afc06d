"""MMALI's objective: density ratios put together from factors, and a game among M + 1 distributions.

Over tuples (X, S, c) of all modalities' data, styles and one content there are M encoder distributions and one decoder
distribution (eqs. 8, 9),

    q_i(X, S, c) = q(X) q(c|x_i) Π_j q(s_j|x_j)              p(X, S, c) = p(c) Π_j p(s_j) p(x_j|s_j, c)

which are to be made equal. A discriminator D tells them apart (eq. 4); at its best D[i] = r_i / (1 + Σ_j r_j) and
D[M + 1] = 1 / (1 + Σ_j r_j) with r_i = q_i / p (eqs. 5, 6). Eq. 10 in logarithms, with

    t_j = log q(x_j, s_j, c) / [q(x_j, s_j) p(c)]      u_j = log q(x_j, s_j, c) / p(x_j, s_j, c)
    J   = log q(X) / Π_k q(x_k)

is log r_i = t_i + J + Σ_j (u_j − t_j): every factor but J can be learned from one modality. Eq. 7 as printed leaves out
the brackets around p(x_j|z) p(z), and in the remark after it, r_i ∝ q(x_1, z) / (q(x_1) q(x_2)), q(x_1, x_2) is meant.
A row that has only the modalities T is the same game over T: sums over T, J of T, and classes T and p.

Tuples are stacked by where they come from: axis 0 has M + 1 entries, the encoder distributions in the modalities'
order and the decoder distribution last, as have the classes on the last axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.objectives.classification import masked_mean

IMPOSSIBLE = -1e4
"""Logit of a class that cannot be: its probability is 0 in float32, and so is every gradient through it."""


def factorized_logits(
    content_ratio: Tensor, model_ratio: Tensor, dependence: Tensor, presence: Tensor
) -> Tensor:
    """Logits (..., B, M + 1) of the optimal discriminator: [t_1 .. t_M, −(J + Σ_{j∈T} (u_j − t_j))].

    They are [log r_1 .. log r_M, 0] of eq. 10, all shifted by the same amount, which softmax does not see.

    Args:
        content_ratio: (..., B, M) t_j.
        model_ratio: (..., B, M) u_j.
        dependence: (..., B) J of the modalities that are present; 0 for a single one.
        presence: (B, M) of 0/1, T.
    """
    shared = dependence + (presence * (model_ratio - content_ratio)).sum(dim=-1)
    return torch.cat((content_ratio, -shared.unsqueeze(-1)), dim=-1)


def possible_classes(presence: Tensor) -> Tensor:
    """Which of the M + 1 distributions a row can come from, (B, M + 1): q_i of present i, and p; none if empty."""
    return torch.cat((presence, presence.amax(dim=1, keepdim=True)), dim=1)


def discriminator_loss(logits: Tensor, possible: Tensor) -> Tensor:
    """Mean of −log D[k] over tuples that come from distribution k (the maximum over D of eq. 4).

    Args:
        logits: (M + 1, B, M + 1), tuples by origin, rows, classes.
        possible: (B, M + 1) of 0/1: classes of a row; tuples from others do not count.

    Returns:
        A scalar, in nats.
    """
    log_probability = _log_softmax(logits, possible)
    own = torch.diagonal(log_probability, dim1=0, dim2=2)
    return masked_mean(-own, possible)


def generator_loss(logits: Tensor, possible: Tensor) -> Tensor:
    """Non-saturating loss of encoders and decoders: tuples from k are to be taken for any other possible class.

    Mean over tuples of 2 / (K − 1) Σ_{i≠k} −log D[i], K possible classes; at the equilibrium 2 log K. The sum over k
    of the mean over wrong classes times 2 / (1 + M), as the authors' code has it, is this for complete rows.

    Args:
        logits: (M + 1, B, M + 1).
        possible: (B, M + 1) of 0/1.

    Returns:
        A scalar, in nats; 0 for a batch with no possible tuple.
    """
    log_probability = _log_softmax(logits, possible)
    every = -(possible * log_probability).sum(dim=-1)
    own = -torch.diagonal(log_probability, dim1=0, dim2=2).T
    others = (possible.sum(dim=-1) - 1.0).clamp(min=1.0)
    # A tuple that cannot be has a huge loss of no meaning: it is set to 0, not multiplied by 0.
    wrong = torch.where(possible.T > 0, (every - own) / others, torch.zeros_like(own))
    return 2.0 * masked_mean(wrong, possible.T)


def density_ratio_loss(positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """Logistic loss whose best score is the log ratio of the densities of positive and negative samples.

    Args:
        positive: (B,) scores of samples from the numerator.
        negative: (B,) scores of samples from the denominator.
        weight: (B,) of 0/1, rows that count.

    Returns:
        A scalar, in nats: mean softplus(−positive) + mean softplus(negative).
    """
    return masked_mean(F.softplus(-positive), weight) + masked_mean(F.softplus(negative), weight)


def _log_softmax(logits: Tensor, possible: Tensor) -> Tensor:
    allowed = torch.where(possible > 0, logits, torch.full_like(logits, IMPOSSIBLE))
    return F.log_softmax(allowed, dim=-1)
