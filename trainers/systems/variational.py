"""What variational systems with one forward pass share: warm-up, drawn reconstruction, cross entropy over patterns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import all_patterns
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.classification import labelled_cross_entropy
from trainers.systems.base import LabelledWindows, Phase, System, SystemConfig


class VariationalConfig(SystemConfig):
    """Settings that all variational systems have."""

    PHASES: ClassVar = ("joint",)

    beta: float = Field(default=1.0, ge=0, description="weight of the divergences")
    beta_warmup: float = Field(
        default=0.2, ge=0, le=1, description="share of training over which beta rises from 0"
    )
    free_bits: float = Field(default=0.0, ge=0, description="nats per dimension free of the prior's pull")
    generative_weight: float = Field(
        default=1.0, gt=0, description="weight of the variational objective (SVAE: eqs. 7, 8)"
    )
    reconstruct: Literal["drawn", "all"] = Field(
        default="drawn",
        description="decode every row from its whole set, a subset and each modality alone (all), or from one of "
        "these at random, counted as many times: unbiased at a fraction of the cost",
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


class Variational(System):
    """Encoders that give Gaussian experts, a variational objective, and the cross entropy of the fused decision.

    A concrete system says what its evidence holds (:meth:`experts`), how a mask turns experts into logits
    (:meth:`classify`), and what its objective is (:meth:`generative_terms`). The cross entropy reaches the
    encoders, over missing patterns drawn every step, so that one set of weights serves every pattern.

    Attributes:
        patterns: (P, M) all masks with something present.
    """

    config: VariationalConfig

    def __init__(
        self, networks: Mapping[str, ModalityNetwork], classes: int, config: VariationalConfig
    ) -> None:
        super().__init__(networks, classes)
        self.config = config
        self.patterns: Tensor
        self.register_buffer("patterns", all_patterns(len(self.names)), persistent=False)

    @abstractmethod
    def experts(self, evidence: Mapping[str, Tensor]) -> Gaussian:
        """Evidence -> the Gaussians that fusion works on, (B, ..., L), rows first."""

    @abstractmethod
    def classify(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits (B, C) under masks (B, M): from samples drawn with the generator, from means without one."""

    @abstractmethod
    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """The named terms of the variational objective, each a scalar; ``beta`` is already warmed up."""

    def phases(self) -> Sequence[Phase]:
        """One phase, ``joint``: everything learns."""
        return (Phase("joint", tuple(self.children())),)

    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """The variational objective, and the cross entropy over missing patterns."""
        config = self.config
        beta = config.beta * (min(1.0, progress / config.beta_warmup) if config.beta_warmup else 1.0)
        experts = self.experts({n: self.encode(n, batch.windows[n]) for n in self.names})
        terms = self.generative_terms(experts, batch, generator, beta)
        total = config.generative_weight * torch.stack(list(terms.values())).sum()
        if config.classification:
            terms["classification"] = self._classification_term(experts, batch, generator)
            total = total + config.classification * terms["classification"]
        terms["total"] = total
        return terms

    def reconstruct(
        self,
        batch: LabelledWindows,
        latents: Mapping[str, Tensor],
        generator: torch.Generator,
        *,
        alone: Mapping[str, Gaussian] | None = None,
    ) -> dict[str, Tensor]:
        """−log p_i(x_i | z) of every modality under every kind of latent, kind -> (B, M), in nats.

        Args:
            batch: what is reconstructed; columns of absent modalities are finite and mean nothing.
            latents: kind -> (B, L), the same latent for all modalities.
            generator: for samples of ``alone`` and for which kind is decoded under ``reconstruct: drawn``.
            alone: modality -> q(z | x_i); if given, kind ``alone`` reconstructs each from a sample of its own.
        """
        nll: dict[str, list[Tensor]] = {kind: [] for kind in (["alone"] if alone else []) + list(latents)}
        for name in self.names:
            own = (alone[name].sample(generator),) if alone else ()
            target = self.target(name, batch)
            found = self._reconstruction(name, target, torch.stack((*own, *latents.values())), generator)
            for kind, row in zip(nll, found, strict=True):
                nll[kind].append(row)
        return {kind: torch.stack(rows, dim=1) for kind, rows in nll.items()}

    def reconstruct_each(self, batch: LabelledWindows, latents: Tensor) -> Tensor:
        """−log p_i(x_i | z) of every modality under each of K latents of every row, (K, B, L) -> (K, B, M)."""
        return torch.stack([self._nll_of_each(n, self.target(n, batch), latents) for n in self.names], dim=2)

    def only(self, presence: Tensor, modality: int) -> Tensor:
        """The masks with all but one modality taken out."""
        return presence * torch.eye(len(self.names), device=presence.device)[modality]

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
            choice = torch.randint(kinds, (rows,), generator=generator, device=generator.device)
            choice = choice.to(latents.device)
            chosen = latents[choice, torch.arange(rows, device=latents.device)]
            nll = network.reconstruction_nll(network.decode(chosen), target, weight)
            return kinds * nll * nn.functional.one_hot(choice, kinds).T
        return self._nll_of_each(name, measured, latents)

    def _nll_of_each(self, name: str, measured: tuple[Tensor, Tensor], latents: Tensor) -> Tensor:
        network, (target, weight) = self.network(name), measured
        repeat = (len(latents), *(1 for _ in target.shape[1:]))
        decoded = network.decode(latents.flatten(0, 1))
        nll = network.reconstruction_nll(decoded, target.repeat(repeat), weight.repeat(repeat))
        return nll.unflatten(0, latents.shape[:2])

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
                    chosen = torch.randperm(len(patterns), generator=generator, device=generator.device)
                    patterns = patterns[chosen[: config.classification_patterns].to(patterns.device)]
                terms.append(share * self._cross_entropy(experts, patterns, batch, generator))
        return torch.stack(terms).sum()

    def _cross_entropy(
        self, experts: Gaussian, patterns: Tensor, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        rows, count = batch.presence.shape[0], len(patterns)
        masks = (batch.presence.unsqueeze(1) * patterns).reshape(rows * count, -1)
        repeated = Gaussian(*(t.repeat_interleave(count, dim=0) for t in experts))
        logits = self.classify(repeated, masks, generator).reshape(rows, count, -1)
        return labelled_cross_entropy(logits, batch.labels, smoothing=self.config.label_smoothing)
