"""MVAE: a plain product of the present modalities' experts and the prior (Wu & Goodman 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, product_of_experts
from trainers.fusion.masks import draw_subset
from trainers.objectives.elbo import subset_loss
from trainers.systems.base import LabelledWindows
from trainers.systems.shared_latent import SharedLatent, SharedLatentConfig


class MvaeConfig(SharedLatentConfig):
    """Settings of the MVAE baseline."""

    name: Literal["mvae"] = "mvae"


class Mvae(SharedLatent):
    """q(z | x_S) ∝ N(z; 0, I) ∏_{i∈S} q_i(z | x_i), trained on sub-sampled ELBOs.

    Nothing replaces an absent modality, and no term aligns the posteriors of different sets; the seed systems
    improve on both.
    """

    config: MvaeConfig

    def posterior(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Gaussian:
        """The product of what is present and N(0, I), by reliability, (B, L)."""
        return product_of_experts(experts.mean, experts.log_variance, presence * self.reliability)

    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """ELBOs of the whole set, of each modality alone, and of one drawn proper subset (the paper's k = 1)."""
        whole, free_bits = batch.presence, self.config.free_bits
        several = (whole.sum(dim=1) > 1).to(whole.dtype)
        masks = {"whole": whole}
        if len(self.names) > 2:
            masks["subset"] = draw_subset(whole, generator)
        alone = {n: self.posterior(experts, self.only(whole, i)) for i, n in enumerate(self.names)}
        posteriors = {kind: self.posterior(experts, mask) for kind, mask in masks.items()}
        latents = {kind: q.sample(generator) for kind, q in posteriors.items()}
        cross, lacking = self.observed_means(experts, batch, generator)
        counts = {kind: mask.amax(dim=1) for kind, mask in masks.items()}
        counts |= {"alone": whole, "whole": several, "cross": lacking.amax(dim=1)}
        nll = self.reconstruct(batch, latents | cross, generator, alone=alone, counts=counts)
        terms = {
            f"elbo_{n}": subset_loss(nll["alone"], q, self.only(whole, i), beta=beta, free_bits=free_bits)
            for i, (n, q) in enumerate(alone.items())
        }
        terms["elbo"] = subset_loss(
            nll["whole"], posteriors["whole"], whole, beta=beta, rows=several, free_bits=free_bits
        )
        if "subset" in masks:
            terms["elbo_subset"] = subset_loss(
                nll["subset"], posteriors["subset"], masks["subset"], beta=beta, free_bits=free_bits
            )
        return terms | self.cross_terms(nll, lacking)
