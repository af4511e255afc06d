"""Variational systems with one latent for all modalities: a posterior for every mask, one classifier on it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import draw_subset
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.classification import masked_mean
from trainers.objectives.svae import divergence_to_smaller_subsets, paired_loss, unimodal_loss
from trainers.systems.base import FusedTensors, LabelledWindows
from trainers.systems.variational import Variational, VariationalConfig


class SharedLatentConfig(VariationalConfig):
    """Settings that all systems with one latent have."""

    cross_reconstruction: float = Field(
        default=0.0,
        ge=0,
        description="our extension: weight of reconstructing what a drawn subset lacks, from the mean it gives",
    )


class SharedLatent(Variational):
    """One latent z (L) for all modalities, and a linear classifier on it.

    The fused posterior is flat (mean, log variance), (B, 2L); every modality is decoded from its mean. By default
    evidence is flat (mean, log variance) of ``experts_each`` Gaussians that a linear head gives on the modality's
    trunk.

    Attributes:
        heads: modality -> linear head on its trunk.
        classifier: latent -> logits.
    """

    latent_kind = "shared"
    config: SharedLatentConfig

    def __init__(
        self,
        networks: Mapping[str, ModalityNetwork],
        classes: int,
        config: SharedLatentConfig,
        experts_each: int = 1,
    ) -> None:
        super().__init__(networks, classes, config)
        size = config.latent_size
        self.check_latent_sizes(size, f"the shared latent has {size}")
        self.experts_each = experts_each
        self.heads = nn.ModuleDict(
            {n: nn.Linear(network.hidden_size, experts_each * 2 * size) for n, network in networks.items()}
        )
        self.classifier = nn.Linear(size, classes)

    def evidence_size(self, modality: str) -> int:
        """Mean and log variance of each of the modality's experts."""
        return self.experts_each * 2 * self.config.latent_size

    @property
    def posterior_size(self) -> int:
        """2L: mean and log variance of q(z | x_S)."""
        return 2 * self.config.latent_size

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat (mean, log variance) of the modality's experts."""
        evidence: Tensor = self.heads[modality](self.network(modality).trunk(window))
        return evidence

    def experts(self, evidence: Mapping[str, Tensor]) -> Gaussian:
        """Stack flat evidence of one expert each to mean and log variance, (B, M, L)."""
        return Gaussian.from_flat(torch.stack([evidence[n] for n in self.names], dim=1))

    @abstractmethod
    def posterior(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Gaussian:
        """q(z | x_S) under masks (B, M), (B, L); N(0, I) for the empty one.

        Args:
            experts: what :meth:`experts` gives.
            presence: (B, M) of 0/1.
            generator: given in training; a system that draws part of its posterior there draws from it.
        """

    def sample_posterior(self, experts: Gaussian, presence: Tensor, generator: torch.Generator) -> Tensor:
        """One reparameterised sample of q(z | x_S) per row, (B, L)."""
        return self.posterior(experts, presence, generator).sample(generator)

    def classify(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits (B, C) of the posterior's mean, or of a sample where ``classify: sample`` trains."""
        q = self.posterior(experts, presence, generator)
        drawn = generator is not None and self.config.classify == "sample"
        logits: Tensor = self.classifier(q.sample(generator) if drawn else q.mean)
        return logits

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Posterior mean to every modality's latent and to the classifier."""
        q = self.posterior(self.experts(evidence), presence)
        return FusedTensors(self.classifier(q.mean), q.flat(), dict.fromkeys(self.names, q.mean))

    def observed_means(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor]:
        """For ``cross_reconstruction``: the mean that a drawn subset gives, (B, L), and what it lacks, (B, M).

        Imputation decodes the mean, so the mean is what learns to give the average of what may be missing. Without
        ``cross_reconstruction`` there is no such latent and nothing is drawn.
        """
        if not self.config.cross_reconstruction:
            return {}, torch.zeros_like(batch.presence)
        observed = draw_subset(batch.presence, generator, smallest=1)
        lacking = (batch.presence - observed) * (observed.sum(dim=1, keepdim=True) > 0)
        return {"cross": self.posterior(experts, observed, generator).mean}, lacking

    def cross_terms(self, nll: Mapping[str, Tensor], lacking: Tensor) -> dict[str, Tensor]:
        """The weighted term of ``cross_reconstruction``: mean over rows of the summed nll of what was lacking."""
        if "cross" not in nll:
            return {}
        total = (nll["cross"] * lacking).sum(dim=1)
        return {"cross": self.config.cross_reconstruction * masked_mean(total, lacking.amax(dim=1))}

    def aligned_terms(
        self,
        experts: Gaussian,
        batch: LabelledWindows,
        generator: torch.Generator,
        beta: float,
        *,
        unimodal: Tensor,
        subset_prior: bool,
    ) -> dict[str, Tensor]:
        """Eqs. 7 and 8 of the SVAE paper for any number of modalities; see :mod:`trainers.objectives.svae`.

        Args:
            experts: of the batch.
            batch: windows, labels and presence.
            generator: the only source of randomness.
            beta: weight of the divergences.
            unimodal: (B, M) of 0/1, which rows have the unimodal ELBO of which modality.
            subset_prior: add D.29's KL(q(z | x_S) ‖ p(z)) for the drawn proper subset S.
        """
        whole, several = batch.presence, len(self.names) > 2
        subset = draw_subset(whole, generator)
        alone = {n: self.posterior(experts, self.only(whole, i), generator) for i, n in enumerate(self.names)}
        latents = {"whole": self.sample_posterior(experts, whole, generator)}
        if several:
            latents["subset"] = self.sample_posterior(experts, subset, generator)
        cross, lacking = self.observed_means(experts, batch, generator)
        counts = {
            "alone": unimodal,
            "whole": (whole.sum(dim=1) > 1).float(),
            "subset": subset.amax(dim=1),
            "cross": lacking.amax(dim=1),
        }
        nll = self.reconstruct(batch, latents | cross, generator, alone=alone, counts=counts)
        terms = {
            f"unimodal_{name}": unimodal_loss(
                nll["alone"][:, i], q, unimodal[:, i], beta=beta, free_bits=self.config.free_bits
            )
            for i, (name, q) in enumerate(alone.items())
        }
        posterior = self._posterior_of(experts, generator)
        divergence = divergence_to_smaller_subsets(posterior, whole)
        terms["paired"] = paired_loss(nll["whole"].unbind(1), whole, divergence, beta=beta)
        if several:
            divergence = divergence_to_smaller_subsets(posterior, subset, prior=subset_prior)
            terms["paired_subset"] = paired_loss(nll["subset"].unbind(1), subset, divergence, beta=beta)
        return terms | self.cross_terms(nll, lacking)

    def _posterior_of(self, experts: Gaussian, generator: torch.Generator) -> Callable[[Tensor], Gaussian]:
        return lambda mask: self.posterior(experts, mask, generator)
