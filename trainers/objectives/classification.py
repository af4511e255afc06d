"""Classification losses where labels may be absent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

ABSENT_LABEL = -1


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Σ w·v / Σ w, and 0 (with a gradient of 0) where all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp(min=torch.finfo(values.dtype).eps)


def labelled_cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean over labelled rows of −log softmax(logits)[label]; rows labelled −1 are skipped.

    Args:
        logits: (B, P, C) or (B, C); P patterns of the same row share its label.
        labels: (B,) int64, −1 where absent.
        smoothing: share of the target spread evenly over the classes.

    Returns:
        A scalar, in nats; 0 when no row is labelled.
    """
    if logits.dim() == 2:
        logits = logits.unsqueeze(1)
    rows, patterns, classes = logits.shape
    target = labels.clamp(min=0).unsqueeze(1).expand(rows, patterns).reshape(-1)
    loss = functional.cross_entropy(
        logits.reshape(-1, classes), target, reduction="none", label_smoothing=smoothing
    ).reshape(rows, patterns)
    weight = (labels != ABSENT_LABEL).to(loss.dtype).unsqueeze(1).expand_as(loss)
    return masked_mean(loss, weight)
