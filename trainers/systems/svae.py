"""SVAE: one shared latent; in its product of experts replacements stand in for absent modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import all_patterns, draw_subset
from trainers.fusion.replacement_experts import draw_donors, fuse_replacement_experts
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.classification import labelled_cross_entropy, masked_mean
from trainers.objectives.svae import divergence_to_smaller_subsets, paired_loss, unimodal_loss
from trainers.systems.base import FusedTensors, LabelledWindows, Phase, System, SystemConfig


class SvaeConfig(SystemConfig):
    """Settings of the SVAE system."""

    PHASES: ClassVar = ("joint",)

    name: Literal["svae"] = "svae"
    prior_expert: bool = Field(default=True, description="multiply N(0, I) into every product")
    donor: Literal["average", "drawn"] = Field(
        default="average",
        description="who fills an absent slot in training: all present averaged, or one drawn per row "
        "(the paper); the exported graph always averages",
    )
    beta: float = Field(default=1.0, ge=0, description="weight of the divergences")
    beta_warmup: float = Field(
        default=0.2, ge=0, le=1, description="share of training over which beta rises from 0"
    )
    free_bits: float = Field(default=0.0, ge=0, description="nats per dimension free of the prior's pull")
    generative_weight: float = Field(
        default=1.0, gt=0, description="weight of the SVAE objective (eqs. 7, 8)"
    )
    reconstruct: Literal["drawn", "all"] = Field(
        default="drawn",
        description="decode every row from its whole set, a subset and each modality alone (all), or from one of "
        "these at random, counted as many times: unbiased at a fraction of the cost",
    )
    cross_reconstruction: float = Field(
        default=0.0,
        ge=0,
        description="our extension: weight of reconstructing what a drawn subset lacks, from the mean it gives",
    )
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


class Svae(System):
    """n trunks × n heads, fused by :func:`fuse_replacement_experts`, with a classifier on the fused latent.

    Evidence of a modality is flat (mean, log variance) of its n experts: (B, n · 2L), expert of slot 0 first.
    The posterior is flat (mean, log variance), (B, 2L). The classifier's cross entropy reaches the encoders,
    over missing patterns drawn every step, so that one set of weights serves every pattern.
    """

    latent_kind = "shared"

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: SvaeConfig) -> None:
        super().__init__(networks, classes)
        self.config = config
        modalities, size = len(self.names), config.latent_size
        for name, network in networks.items():
            if network.latent_size != size:
                raise ValueError(
                    f"modality {name!r}: latent_size {network.latent_size}, the shared latent has {size}"
                )
        self.heads = nn.ModuleDict(
            {n: nn.Linear(network.hidden_size, modalities * 2 * size) for n, network in networks.items()}
        )
        self.classifier = nn.Linear(size, classes)
        self.patterns: Tensor
        self.register_buffer("patterns", all_patterns(modalities), persistent=False)

    def evidence_size(self, modality: str) -> int:
        """N experts of 2L numbers."""
        return len(self.names) * 2 * self.config.latent_size

    @property
    def posterior_size(self) -> int:
        """2L: mean and log variance of q(z | x_S)."""
        return 2 * self.config.latent_size

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat (mean, log variance) of the modality's own and replacement experts."""
        evidence: Tensor = self.heads[modality](self.network(modality).trunk(window))
        return evidence

    def experts(self, evidence: Mapping[str, Tensor]) -> Gaussian:
        """Stack flat evidence to mean and log variance (B, M, M, L): speaker first, then the slot spoken for."""
        modalities, size = len(self.names), self.config.latent_size
        stacked = torch.stack([evidence[n] for n in self.names], dim=1)
        return Gaussian.from_flat(stacked.reshape(-1, modalities, modalities, 2 * size))

    def posterior(self, experts: Gaussian, presence: Tensor, donors: Tensor | None = None) -> Gaussian:
        """q(z | x_S), (B, L); see :func:`fuse_replacement_experts`."""
        return fuse_replacement_experts(
            experts, presence, donors=donors, reliability=self.reliability, prior=self.config.prior_expert
        )

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Posterior mean to every modality's latent and to the classifier."""
        q = self.posterior(self.experts(evidence), presence)
        return FusedTensors(self.classifier(q.mean), q.flat(), dict.fromkeys(self.names, q.mean))

    def phases(self) -> Sequence[Phase]:
        """One phase, ``joint``: everything learns."""
        return (Phase("joint", (self.networks, self.heads, self.classifier)),)

    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """Eqs. 7 and 8 for any number of modalities, and the cross entropy over missing patterns."""
        config = self.config
        beta = config.beta * (min(1.0, progress / config.beta_warmup) if config.beta_warmup else 1.0)
        experts = self.experts({n: self.encode(n, batch.windows[n]) for n in self.names})
        terms = self._generative_terms(experts, batch, generator, beta)
        total = config.generative_weight * torch.stack(list(terms.values())).sum()
        if config.classification:
            terms["classification"] = self._classification_term(experts, batch, generator)
            total = total + config.classification * terms["classification"]
        terms["total"] = total
        return terms

    def _generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        whole = batch.presence
        subset = draw_subset(whole, generator)
        donors = {id(m): self._donors(m, generator) for m in (whole, subset)}

        def posterior(mask: Tensor) -> Gaussian:
            return self.posterior(experts, mask, donors.get(id(mask)))

        alone = {
            n: posterior(whole * torch.nn.functional.one_hot(torch.tensor(i), len(self.names)))
            for i, n in enumerate(self.names)
        }
        latents = {
            "whole": posterior(whole).sample(generator),
            "subset": posterior(subset).sample(generator),
        }
        if self.config.cross_reconstruction:
            # Imputation decodes the mean, so the mean is what learns to give the average of what may be missing.
            observed = draw_subset(whole, generator, smallest=1)
            latents["cross"] = posterior(observed).mean
            lacking = (whole - observed) * (observed.sum(dim=1, keepdim=True) > 0)
        nll: dict[str, list[Tensor]] = {kind: [] for kind in latents}
        terms = {}
        for i, name in enumerate(self.names):
            target = self.target(name, batch)
            stacked = torch.stack((alone[name].sample(generator), *latents.values()))
            nll_alone, *others = self._reconstruction(name, target, stacked, generator)
            for kind, found in zip(nll, others, strict=True):
                nll[kind].append(found)
            terms[f"unimodal_{name}"] = unimodal_loss(
                nll_alone, alone[name], whole[:, i], beta=beta, free_bits=self.config.free_bits
            )
        divergence = divergence_to_smaller_subsets(posterior, whole)
        terms["paired"] = paired_loss(nll["whole"], whole, divergence, beta=beta)
        if len(self.names) > 2:
            divergence = divergence_to_smaller_subsets(posterior, subset)
            terms["paired_subset"] = paired_loss(nll["subset"], subset, divergence, beta=beta)
        if self.config.cross_reconstruction:
            total = (torch.stack(nll["cross"], dim=1) * lacking).sum(dim=1)
            terms["cross"] = self.config.cross_reconstruction * masked_mean(total, lacking.amax(dim=1))
        return terms

    def _donors(self, mask: Tensor, generator: torch.Generator) -> Tensor | None:
        return draw_donors(mask, generator) if self.config.donor == "drawn" else None

    def _reconstruction(
        self, name: str, measured: tuple[Tensor, Tensor], latents: Tensor, generator: torch.Generator
    ) -> Tensor:
        """−log p(x | z) of one modality for K latents of every row, (K, B, L) -> (K, B).

        With ``reconstruct: drawn`` one of the K is decoded per row and counts K times, the others count 0; sums over
        rows keep their expectation.
        """
        network, (kinds, rows) = self.network(name), latents.shape[:2]
        target, weight = measured
        if self.config.reconstruct == "drawn":
            choice = torch.randint(kinds, (rows,), generator=generator)
            nll = network.reconstruction_nll(
                network.decode(latents[choice, torch.arange(rows)]), target, weight
            )
            return kinds * nll * nn.functional.one_hot(choice, kinds).T
        repeat = (kinds, *(1 for _ in target.shape[1:]))
        decoded = network.decode(latents.flatten(0, 1))
        nll = network.reconstruction_nll(decoded, target.repeat(repeat), weight.repeat(repeat))
        return nll.unflatten(0, (kinds, rows))

    def _classification_term(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        config = self.config
        alone = self.patterns.sum(dim=1) == 1
        terms = []
        for patterns, share in (
            (self.patterns[~alone], 1 - config.alone_share), (self.patterns[alone], config.alone_share)
        ):  # fmt: skip
            if len(patterns) and share:
                if config.classification_patterns < len(patterns):
                    chosen = torch.randperm(len(patterns), generator=generator)
                    patterns = patterns[chosen[: config.classification_patterns]]
                terms.append(share * self._cross_entropy(experts, patterns, batch, generator))
        return torch.stack(terms).sum()

    def _cross_entropy(
        self, experts: Gaussian, patterns: Tensor, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        config = self.config
        rows, count = batch.presence.shape[0], len(patterns)
        masks = (batch.presence.unsqueeze(1) * patterns).reshape(rows * count, -1)
        repeated = Gaussian(*(t.repeat_interleave(count, dim=0) for t in experts))
        q = self.posterior(repeated, masks, self._donors(masks, generator))
        z = q.sample(generator) if config.classify == "sample" else q.mean
        logits = self.classifier(z).reshape(rows, count, -1)
        return labelled_cross_entropy(logits, batch.labels, smoothing=config.label_smoothing)
