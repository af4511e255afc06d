"""The base of variational systems: warm-up, drawn reconstruction, cross entropy over missing patterns."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import all_patterns
from trainers.modalities.network import ModalityNetwork
from trainers.systems.base import LabelledWindows, Phase, System, warm_up
from trainers.systems.pattern_classification import PatternClassificationConfig, drawn_pattern_cross_entropy


class VariationalConfig(PatternClassificationConfig):
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
        beta = config.beta * warm_up(progress, config.beta_warmup)
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
        counts: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """−log p_i(x_i | z) of every modality under every kind of latent, kind -> (B, M), in nats.

        With ``reconstruct: drawn`` only one kind is decoded per row and modality. It is drawn from those that count
        there and multiplied by their number; the others are 0. So the expectation of sums over rows stays the same.

        Args:
            batch: the rows to reconstruct; columns of absent modalities are finite but meaningless.
            latents: kind -> (B, L), the same latent for all modalities.
            generator: for samples of ``alone`` and for which kind is decoded under ``reconstruct: drawn``.
            alone: modality -> q(z | x_i); if given, kind ``alone`` reconstructs each from a sample of its own.
            counts: kind -> (B,) or (B, M) of 0/1, where the objective uses it; everywhere if not named.
        """
        nll: dict[str, list[Tensor]] = {kind: [] for kind in (["alone"] if alone else []) + list(latents)}
        useful = _where_kinds_count(list(nll), batch.presence, counts or {})
        for i, name in enumerate(self.names):
            own = (alone[name].sample(generator),) if alone else ()
            target, stacked = self.target(name, batch), torch.stack((*own, *latents.values()))
            if self.config.reconstruct == "drawn":
                found = self._drawn_nll(name, target, stacked, useful[:, :, i], generator)
            else:
                found = self._nll_of_each(name, target, stacked)
            for kind, row in zip(nll, found, strict=True):
                nll[kind].append(row)
        return {kind: torch.stack(rows, dim=1) for kind, rows in nll.items()}

    def reconstruct_each(self, batch: LabelledWindows, latents: Tensor) -> Tensor:
        """−log p_i(x_i | z) of every modality under each of K latents of every row, (K, B, L) -> (K, B, M)."""
        return torch.stack([self._nll_of_each(n, self.target(n, batch), latents) for n in self.names], dim=2)

    def only(self, presence: Tensor, modality: int) -> Tensor:
        """The masks with all but one modality taken out."""
        return presence * torch.eye(len(self.names), device=presence.device)[modality]

    def _drawn_nll(
        self,
        name: str,
        measured: tuple[Tensor, Tensor],
        latents: Tensor,
        useful: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """−log p(x | z) of one of K latents per row, times the number of ``useful`` ones, (K, B, L) -> (K, B)."""
        network, (kinds, rows), device = self.network(name), latents.shape[:2], latents.device
        number = useful.sum(dim=0).clamp(min=1)
        # A multiple of every possible number, so that the remainder is uniform for each.
        fine = math.lcm(*range(1, kinds + 1))
        drawn = torch.randint(fine, (rows,), generator=generator, device=generator.device).to(device)
        rank = torch.where(useful > 0, useful.cumsum(dim=0) - 1, -1)
        choice = (rank == drawn % number).int().argmax(dim=0)
        decoded = network.decode(latents[choice, torch.arange(rows, device=device)])
        nll = number * network.reconstruction_nll(decoded, *measured)
        return nll * nn.functional.one_hot(choice, kinds).T

    def _nll_of_each(self, name: str, measured: tuple[Tensor, Tensor], latents: Tensor) -> Tensor:
        network, (target, weight) = self.network(name), measured
        repeat = (len(latents), *(1 for _ in target.shape[1:]))
        decoded = network.decode(latents.flatten(0, 1))
        nll = network.reconstruction_nll(decoded, target.repeat(repeat), weight.repeat(repeat))
        return nll.reshape(latents.shape[:2])

    def _classification_term(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        def decide(masks: Tensor, count: int) -> Tensor:
            return self.classify(experts.repeat_rows(count), masks, generator)

        return drawn_pattern_cross_entropy(decide, self.patterns, batch, self.config, generator)


def _where_kinds_count(kinds: Sequence[str], presence: Tensor, counts: Mapping[str, Tensor]) -> Tensor:
    """(K, B, M) of 0/1 int64: where each kind of latent counts; everywhere for one that ``counts`` does not name."""
    masks = []
    for kind in kinds:
        mask = counts.get(kind, torch.ones_like(presence))
        masks.append(mask.unsqueeze(1).expand_as(presence) if mask.dim() == 1 else mask)
    return (torch.stack(masks) > 0).long() if masks else presence.new_zeros(0, *presence.shape).long()
