"""Joint networks: an encoder of its own for a set of modalities, over the features of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian


def subset_weights(presence: Tensor, subsets: Tensor) -> Tensor:
    """Which of some subsets each row's present modalities are, (B, K) of 0/1, by arithmetic on the mask.

    1 − Σ_i |p_i − s_i|, at least 0: 1 for the subset that equals the mask, 0 for every other one. A row whose mask
    is none of them has all weights 0.

    Args:
        presence: (B, M) of 0/1.
        subsets: (K, M) of 0/1.
    """
    distance = (presence.float().unsqueeze(1) - subsets).abs().sum(dim=2)
    return (1.0 - distance).clamp(min=0.0)


def choose_subset(candidates: Gaussian, weight: Tensor) -> Gaussian:
    """The Gaussian of each row's subset, N(0, I) where no subset has weight.

    Args:
        candidates: (B, K, L), one for each subset, all finite.
        weight: (B, K) of :func:`subset_weights`.
    """
    weight = weight.unsqueeze(-1)
    return Gaussian((weight * candidates.mean).sum(dim=1), (weight * candidates.log_variance).sum(dim=1))


class SubsetNetwork(nn.Module):
    """q(z | x_S) for one set S of at least two modalities.

    A layer with ReLU on each member's features and a linear layer over all of these side by side, as in the appendix
    of the SVAE paper ("joint encoding network").
    """

    def __init__(self, members: Sequence[int], sizes: Sequence[int], width: int, latent_size: int) -> None:
        super().__init__()
        self.members = tuple(members)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(sizes[i], width), nn.ReLU()) for i in members)
        self.parameters_of = nn.Linear(len(members) * width, 2 * latent_size)

    def forward(self, features: Sequence[Tensor]) -> Gaussian:
        """Features of all modalities, each (B, sizes[i]) -> Gaussian over (B, L); reads its members' only."""
        hidden = [layer(features[i]) for i, layer in zip(self.members, self.layers, strict=True)]
        return Gaussian.from_flat(self.parameters_of(torch.cat(hidden, dim=1)))


class SubsetNetworks(nn.Module):
    """A joint network for every set of at least two modalities among some subsets.

    Attributes:
        subsets: (K, M) of 0/1, sets of one included: those are answered by the modality's own Gaussian.
    """

    def __init__(self, subsets: Tensor, sizes: Sequence[int], width: int, latent_size: int) -> None:
        super().__init__()
        self.subsets: Tensor
        self.register_buffer("subsets", subsets, persistent=False)
        self._members = [tuple(row.nonzero().flatten().tolist()) for row in subsets]
        self.networks = nn.ModuleList(
            SubsetNetwork(members, sizes, width, latent_size) for members in self._members if len(members) > 1
        )

    def forward(self, features: Sequence[Tensor], own: Gaussian) -> Gaussian:
        """The posterior of every subset, (B, K, L).

        Args:
            features: of each modality, (B, sizes[i]).
            own: q(z | x_i) of each modality, (B, M, L).
        """
        joint = iter(self.networks)
        found = []
        for members in self._members:
            if len(members) > 1:
                found.append(next(joint)(features))
            else:
                found.append(Gaussian(own.mean[:, members[0]], own.log_variance[:, members[0]]))
        return Gaussian(
            torch.stack([g.mean for g in found], dim=1), torch.stack([g.log_variance for g in found], dim=1)
        )
