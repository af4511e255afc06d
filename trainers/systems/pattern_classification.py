"""The cross entropy over missing patterns, which teaches one set of weights to decide in every pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.fusion.masks import draw_pattern_groups
from trainers.objectives.classification import labelled_cross_entropy
from trainers.systems.base import LabelledWindows, SystemConfig

Decide = Callable[[Tensor, int], Tensor]
"""Logits (B * P, C) under masks (B * P, M), where every row of the batch stands P times in succession."""


class PatternClassificationConfig(SystemConfig):
    """Settings of systems that classify patterns drawn in every step."""

    classification: float = Field(default=1.0, ge=0, description="weight of the cross entropy")
    classification_patterns: int = Field(default=15, ge=1, description="missing patterns classified per step")
    alone_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the cross entropy that falls on modalities alone: sensors that are slow to learn "
        "get next to no gradient from patterns that stronger ones decide",
    )
    classify: Literal["sample", "mean"] = Field(
        default="sample", description="what the classifier sees in training"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


def pattern_cross_entropy(
    decide: Decide, patterns: Tensor, batch: LabelledWindows, *, smoothing: float
) -> Tensor:
    """Mean cross entropy over labelled rows and patterns.

    A row is masked by what it lacks and by the pattern; where nothing is left, no encoder learns from it.

    Args:
        decide: the system's logits under given masks.
        patterns: (P, M) of 0/1.
        batch: rows with labels and presence.
        smoothing: share of each label spread evenly over the classes.

    Returns:
        A scalar, in nats.
    """
    rows, count = batch.presence.shape[0], len(patterns)
    masks = (batch.presence.unsqueeze(1) * patterns).reshape(rows * count, -1)
    logits = decide(masks, count).reshape(rows, count, -1)
    return labelled_cross_entropy(logits, batch.labels, smoothing=smoothing)


def drawn_pattern_cross_entropy(
    decide: Decide,
    patterns: Tensor,
    batch: LabelledWindows,
    config: PatternClassificationConfig,
    generator: torch.Generator,
) -> Tensor:
    """:func:`pattern_cross_entropy` of patterns drawn for this step, modalities alone with a share of their own."""
    groups = draw_pattern_groups(patterns, config.classification_patterns, config.alone_share, generator)
    terms = [
        share * pattern_cross_entropy(decide, group, batch, smoothing=config.label_smoothing)
        for group, share in groups
    ]
    return torch.stack(terms).sum()
