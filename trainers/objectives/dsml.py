"""DSML's objective: games against softmax discriminators with any number of kinds, and distances between codes.

A discriminator with a K-way softmax tells K kinds of tuples apart (eqs. 1, 3, 5):

    min max Σ_k E_{p_k} [log D[k]]

Minimised as printed, the generating networks would lower log D of a tuple's own kind, which has no gradient where the
discriminator is sure. Here they raise the mean of log D[i] over the other kinds i ≠ k instead. For K = 2 this is the
usual non-saturating game, and the equilibrium of Proposition 1 is the same. Eq. 6 names L_xc, L_yc and L_xy twice;
each counts once here.

Tuples are stacked by kind: axis 0 of logits has K entries, as has the last axis, the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.objectives.classification import masked_mean


def discriminator_loss(logits: Tensor, weight: Tensor) -> Tensor:
    """Loss of a discriminator: Σ_k mean of −log D[k] over tuples of kind k (eqs. 1, 3, 5).

    Args:
        logits: (K, B, K).
        weight: (K, B) of 0/1, tuples that exist; a kind without any adds nothing.

    Returns:
        A scalar, in nats; K log K for a discriminator that cannot tell the kinds apart.
    """
    own = torch.diagonal(F.log_softmax(logits, dim=-1), dim1=0, dim2=2).T
    return torch.stack([masked_mean(-o, w) for o, w in zip(own, weight, strict=True)]).sum()


def generator_loss(logits: Tensor, weight: Tensor, generated_kinds: Sequence[int]) -> Tensor:
    """Loss of the networks that generate tuples: Σ_{k generated} mean of 1/(K − 1) Σ_{i≠k} −log D[i].

    Args:
        logits: (K, B, K).
        weight: (K, B) of 0/1.
        generated_kinds: kinds in which something was generated or inferred; no network generates measured ones.

    Returns:
        A scalar, in nats; len(generated_kinds) log K at the equilibrium.
    """
    log_probability = F.log_softmax(logits, dim=-1)
    others = logits.shape[0] - 1
    terms = [
        masked_mean((log_probability[k, :, k] - log_probability[k].sum(dim=-1)) / others, weight[k])
        for k in generated_kinds
    ]
    return torch.stack(terms).sum()


def code_distance(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Mean over rows of ‖one − other‖₂, not squared, as eq. 2 has it.

    Args:
        one: (B, L).
        other: (B, L).
        weight: (B,) of 0/1, rows that count.

    Returns:
        A scalar; 0 when no row counts.
    """
    return masked_mean(torch.linalg.vector_norm(one - other, dim=1), weight)


def pseudo_label_loss(logits: Tensor, decided: Tensor, confidence: float, weight: Tensor) -> Tensor:
    """Cross entropy against the decision on another view of the same row; an extension, not DSML's.

    Args:
        logits: (B, C) of this view.
        decided: (B, C) probabilities from the other view, without gradients.
        confidence: rows whose largest probability is below it are left out.
        weight: (B,) of 0/1, rows that may count.

    Returns:
        A scalar, in nats: the sum over rows that are sure, over the number of rows that may count.
    """
    sure, label = decided.max(dim=1)
    loss = F.cross_entropy(logits, label, reduction="none")
    return masked_mean(loss * (sure >= confidence).to(loss.dtype), weight)
