"""Presence masks as tensors: all patterns, random subsets, subsets with one modality less."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from engines.bundle import presence_patterns


def all_patterns(modalities: int, *, empty: bool = False) -> Tensor:
    """(P, M) float32 masks in the order of ``engines.bundle.presence_patterns``: complete first."""
    return torch.tensor(list(presence_patterns(modalities, empty=empty)), dtype=torch.float32)


def draw_subset(presence: Tensor, generator: torch.Generator | None = None, *, smallest: int = 2) -> Tensor:
    """A random proper subset of at least ``smallest`` present modalities per row, (B, M).

    The size is uniform over smallest .. |T| − 1, then the members are uniform. Rows with no more than ``smallest``
    present modalities have no such subset and give all 0.
    """
    present = presence.sum(dim=1, keepdim=True)
    drawn = torch.rand(present.shape, generator=generator, device=presence.device)
    size = smallest + torch.floor(drawn * (present - smallest).clamp(min=1.0))
    scores = torch.rand(presence.shape, generator=generator, device=presence.device) + presence
    rank = scores.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = (rank < size).to(presence.dtype) * presence
    return chosen * (present > smallest).to(presence.dtype)


def draw_pattern_groups(
    patterns: Tensor, most: int, alone_share: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """What a step classifies: patterns of several modalities and patterns of one, each with its share of the loss.

    Args:
        patterns: (P, M) masks to draw from.
        most: patterns drawn of each group; all where there are no more.
        alone_share: of the loss, for modalities alone; the rest is for the others.
        generator: the only source of randomness.

    Yields:
        (patterns, share) of each group that has patterns and a share above 0; drawn when it is asked for.
    """
    alone = patterns.sum(dim=1) == 1
    for group, share in ((patterns[~alone], 1 - alone_share), (patterns[alone], alone_share)):
        if len(group) and share:
            if most < len(group):
                chosen = torch.randperm(len(group), generator=generator, device=generator.device)
                group = group[chosen[:most].to(group.device)]
            yield group, share


def without(presence: Tensor, modality: int) -> Tensor:
    """The masks with one modality taken out."""
    out = presence.clone()
    out[:, modality] = 0.0
    return out
