"""MMVAE: the posterior of any set of modalities is the mixture of their own posteriors (Shi et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.fusion.gaussians import Gaussian, kl_to_standard_normal
from trainers.fusion.replacement_experts import draw_donors
from trainers.objectives.classification import masked_mean
from trainers.objectives.mixture import (
    importance_weighted_bound,
    log_importance_weight,
    mixture_moments,
    reweighted_elbo,
)
from trainers.systems.base import FusedTensors, LabelledWindows
from trainers.systems.shared_latent import SharedLatent, SharedLatentConfig

LEAST_PROBABILITY = 1e-6
"""Added to a mixture's probabilities before their logarithm."""


class MmvaeConfig(SharedLatentConfig):
    """Settings of the MMVAE baseline. ``reconstruct: drawn`` draws one expert per row, ``all`` takes every one."""

    name: Literal["mmvae"] = "mmvae"
    objective: Literal["dreg", "elbo", "reweighted"] = Field(
        default="dreg",
        description="importance weighted bound with DReG's gradient, the ELBO, or the ELBO of the public code, whose "
        "cross terms are own reconstructions with an importance weight (one sample, all experts)",
    )
    samples: int = Field(
        default=1, ge=1, description="K samples of each expert; with 1 both objectives bound alike"
    )


class Mmvae(SharedLatent):
    """q(z | x_S) = Σ_{m∈S} q_m(z | x_m) / |S|.

    A mixture is not a Gaussian, and the output of fusion must be deterministic. So the posterior has the mixture's mean
    and variance, and decoders get that mean. The decision is the mixture's own: the weighted mean of *probabilities*
    that each expert's mean gives, Σ_m w_m p(y | μ_m), with weights by reliability; its logarithm is published as
    logits. :meth:`sample_posterior` draws from the mixture itself, one expert per row.
    """

    config: MmvaeConfig

    def weights(self, presence: Tensor) -> Tensor:
        """Weight of every expert, (B, M): reliability of what is present, summing to 1, or all 0."""
        weight = presence * self.reliability
        return weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)

    def posterior(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Gaussian:
        """The Gaussian with the mixture's mean and variance, (B, L)."""
        return mixture_moments(experts, self.weights(presence))

    def sample_posterior(self, experts: Gaussian, presence: Tensor, generator: torch.Generator) -> Tensor:
        """One sample of the mixture per row, (B, L), from one of the present experts, all equally likely."""
        return _chosen(experts, draw_donors(presence, generator)).sample(generator)

    def classify(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Log of the mixture's class probabilities, (B, C); those of the latent 0 where nothing is present."""
        drawn = generator is not None and self.config.classify == "sample"
        latents = experts.sample(generator) if drawn else experts.mean
        weight = self.weights(presence)
        nothing = 1.0 - weight.sum(dim=1, keepdim=True)
        probabilities = (weight.unsqueeze(2) * torch.softmax(self.classifier(latents), dim=2)).sum(dim=1)
        prior = torch.softmax(self.classifier.bias, dim=0)
        return torch.log(probabilities + nothing.clamp(min=0.0) * prior + LEAST_PROBABILITY)

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """The mixture's decision, its moments, and its mean as every modality's latent."""
        experts = self.experts(evidence)
        q = self.posterior(experts, presence)
        return FusedTensors(self.classify(experts, presence), q.flat(), dict.fromkeys(self.names, q.mean))

    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """The negative bound under samples of every present expert, or of one drawn per row."""
        present = batch.presence
        if self.config.objective == "reweighted":
            return {"mixture": self._reweighted(experts, batch, generator, beta)}
        if self.config.reconstruct == "drawn":
            sources = [draw_donors(present, generator)]
        else:
            chosen = torch.eye(len(self.names), device=present.device)
            sources = [chosen[m].expand_as(present) * present for m in range(len(self.names))]
        bounds = [self._bound(experts, source, batch, generator, beta) for source in sources]
        share = torch.stack([source.sum(dim=1) for source in sources])
        bound = (torch.stack(bounds) * share).sum(dim=0) / share.sum(dim=0).clamp(min=1.0)
        terms = {"mixture": -masked_mean(bound, present.amax(dim=1))}
        cross, lacking = self.observed_means(experts, batch, generator)
        nll = self.reconstruct(batch, cross, generator) if cross else {}
        return terms | self.cross_terms(nll, lacking)

    def _reweighted(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> Tensor:
        z = experts.sample(generator)
        nll = []
        for i, name in enumerate(self.names):
            network, (target, weight) = self.network(name), self.target(name, batch)
            nll.append(network.reconstruction_nll(network.decode(z[:, i]), target, weight))
        divergence = kl_to_standard_normal(experts)
        return reweighted_elbo(torch.stack(nll, dim=1), z, experts, divergence, batch.presence, beta=beta)

    def _bound(
        self,
        experts: Gaussian,
        source: Tensor,
        batch: LabelledWindows,
        generator: torch.Generator,
        beta: float,
    ) -> Tensor:
        """Bound of every row, (B,), under K samples of the expert that ``source`` (B, M), one-hot or 0, names."""
        q = _chosen(experts, source)
        z = torch.stack([q.sample(generator) for _ in range(self.config.samples)])
        nll = self.reconstruct_each(batch, z)
        if self.config.objective == "elbo":
            return log_importance_weight(z, nll, experts, batch.presence, beta=beta).mean(dim=0)
        detached = Gaussian(experts.mean.detach(), experts.log_variance.detach())
        log_weight = log_importance_weight(z, nll, detached, batch.presence, beta=beta)
        bound, weight = importance_weighted_bound(log_weight)
        if z.requires_grad:
            z.register_hook(lambda gradient: gradient * weight.unsqueeze(2))  # type: ignore[no-untyped-call]
        return bound


def _chosen(experts: Gaussian, source: Tensor) -> Gaussian:
    """The expert (B, L) that each row of ``source`` (B, M), one-hot, names; N(0, I) where it names none."""
    named = source.unsqueeze(2)
    return Gaussian((named * experts.mean).sum(dim=1), (named * experts.log_variance).sum(dim=1))
