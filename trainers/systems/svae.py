"""SVAE: one shared latent; in its product of experts replacements stand in for absent modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.replacement_experts import draw_donors, fuse_replacement_experts
from trainers.modalities.network import ModalityNetwork
from trainers.systems.base import LabelledWindows
from trainers.systems.shared_latent import SharedLatent, SharedLatentConfig


class SvaeConfig(SharedLatentConfig):
    """Settings of the SVAE system."""

    name: Literal["svae"] = "svae"
    prior_expert: bool = Field(default=True, description="multiply N(0, I) into every product")
    donor: Literal["average", "drawn"] = Field(
        default="average",
        description="who fills an absent slot in training: all present averaged, or one drawn per row "
        "(the paper: one posterior per donor, terms summed over donors); the exported graph always averages",
    )
    subset_prior: bool = Field(
        default=False,
        description="with three modalities or more, D.29's KL of a subset's posterior to the prior",
    )


class Svae(SharedLatent):
    """n trunks × n heads, fused by :func:`fuse_replacement_experts`, with a classifier on the fused latent.

    Evidence of a modality is flat (mean, log variance) of its n experts: (B, n · 2L), expert of slot 0 first.
    """

    config: SvaeConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: SvaeConfig) -> None:
        super().__init__(networks, classes, config, experts_each=len(networks))

    def experts(self, evidence: Mapping[str, Tensor]) -> Gaussian:
        """Stack flat evidence to mean and log variance (B, M, M, L): speaker first, then the slot spoken for."""
        modalities, size = len(self.names), self.config.latent_size
        stacked = torch.stack([evidence[n] for n in self.names], dim=1)
        return Gaussian.from_flat(stacked.reshape(-1, modalities, modalities, 2 * size))

    def posterior(
        self,
        experts: Gaussian,
        presence: Tensor,
        generator: torch.Generator | None = None,
        *,
        donors: Tensor | None = None,
    ) -> Gaussian:
        """q(z | x_S), (B, L); see :func:`fuse_replacement_experts`.

        Donors (B, M), a distribution over present modalities, may be given: one-hot ones give the paper's per-donor
        posteriors (D.34, D.35). With a generator and ``donor: drawn`` they are drawn; else all present are averaged.
        """
        if donors is None and generator is not None and self.config.donor == "drawn":
            donors = draw_donors(presence, generator)
        return fuse_replacement_experts(
            experts, presence, donors=donors, reliability=self.reliability, prior=self.config.prior_expert
        )

    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """Eqs. 7 and 8 for any number of modalities; every row that has a modality has its unimodal ELBO."""
        return self.aligned_terms(
            experts,
            batch,
            generator,
            beta,
            unimodal=batch.presence,
            subset_prior=self.config.subset_prior,
        )
