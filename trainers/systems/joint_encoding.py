"""Shared-latent systems whose fusion looks at several modalities' features at once, through joint networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.subset_networks import SubsetNetworks
from trainers.modalities.network import ModalityNetwork
from trainers.systems.shared_latent import SharedLatent, SharedLatentConfig


class JointEncodingConfig(SharedLatentConfig):
    """Settings of systems with joint networks."""

    joint_size: int = Field(
        default=128, ge=1, description="width that each modality's features have in a joint network"
    )


class JointEncoding(SharedLatent):
    """Evidence is a modality's own (mean, log variance) and its trunk's features, flat: (B, 2L + hidden_size).

    The experts are the posteriors of a number of subsets, (B, K, L), all computed in every row; masks choose.

    Attributes:
        joint: the networks of the subsets.
    """

    config: JointEncodingConfig

    def __init__(
        self,
        networks: Mapping[str, ModalityNetwork],
        classes: int,
        config: JointEncodingConfig,
        subsets: Tensor,
    ) -> None:
        super().__init__(networks, classes, config)
        sizes = [network.hidden_size for network in networks.values()]
        self.joint = SubsetNetworks(subsets, sizes, config.joint_size, config.latent_size)

    def evidence_size(self, modality: str) -> int:
        """Mean and log variance of the modality's own posterior, then its features."""
        return 2 * self.config.latent_size + self.network(modality).hidden_size

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat (mean, log variance, features)."""
        features = self.network(modality).trunk(window)
        return torch.cat((self.heads[modality](features), features), dim=1)

    def experts(self, evidence: Mapping[str, Tensor]) -> Gaussian:
        """The posterior of every subset, (B, K, L)."""
        size = 2 * self.config.latent_size
        own = Gaussian.from_flat(torch.stack([evidence[n][:, :size] for n in self.names], dim=1))
        found: Gaussian = self.joint([evidence[n][:, size:] for n in self.names], own)
        return found
