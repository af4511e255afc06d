"""MMALI: content that all modalities share and a style of each, aligned by a game among M + 1 distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainers.fusion.averaged_product import averaged_product_of_experts
from trainers.fusion.gaussians import Gaussian, standard_normal_like
from trainers.fusion.masks import all_patterns, draw_subset
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.classification import masked_mean
from trainers.systems.base import FusedTensors, LabelledWindows, Phase, System
from trainers.systems.mmali_discriminators import (
    Discriminator,
    FactorizedDiscriminator,
    JointDiscriminator,
    Tuples,
)
from trainers.systems.pattern_classification import PatternClassificationConfig, drawn_pattern_cross_entropy
from trainers.systems.standardization import PresentStandardization


class MmaliConfig(PatternClassificationConfig):
    """Settings of the MMALI system; ``latent_size`` is that of the content."""

    PHASES: ClassVar = ("adversarial",)

    name: Literal["mmali"] = "mmali"
    style_size: int = Field(default=8, ge=1, description="size of each modality's own code")
    discriminator: Literal["factorized", "joint"] = Field(
        default="factorized", description="density ratios put together from factors, or one network for all"
    )
    discriminator_size: int = Field(default=128, ge=1, description="width of the discriminators' layers")
    cross_content: bool = Field(
        default=True, description="factors are also shown a modality's data with other modalities' contents"
    )
    adversarial_weight: float = Field(default=1.0, ge=0, description="weight of the game")
    unimodal_weight: float = Field(
        default=0.1, ge=0, description="weight of each modality's own game, relative to the joint one"
    )
    reconstruction: float = Field(default=0.0, ge=0, description="weight of reconstructing every modality")
    reconstruct_from: Literal["drawn", "whole"] = Field(
        default="drawn",
        description="the content of all present modalities and the own style (whole, as the authors' code has it), or "
        "half the time of a drawn subset, outside of which styles are the prior's mean, as imputation has it (drawn)",
    )
    standardise: bool = Field(
        default=False,
        description="our addition: bring the means of codes to mean 0 and variance 1 over the batch, so that they "
        "have the prior's scale from the first step on, and the game is about their content",
    )
    initial_log_variance: float = Field(
        default=-2.0,
        description="of posteriors before training, small enough that noise does not hide the means",
    )
    classify: Literal["sample", "mean"] = Field(
        default="mean", description="what the classifier sees in training"
    )

    def decoder_size(self, modality: str, classes: int) -> int:
        """Content and style."""
        return self.latent_size + self.style_size


class Mmali(System):
    """Encoders to content and style, decoders from both, discriminators, and a classifier on the content.

    Evidence of a modality is flat: mean and log variance of its content (2C), then of its style (2S). The posterior is
    flat (mean, log variance) of the content, the geometric mean of those of the modalities that are present. A
    modality's latent is [content, style], the style its prior mean where the modality is absent.

    Discriminators see targets in model units, what was not measured (depth holes) blanked in measured and generated
    ones alike. The authors' optional reconstruction of codes is left out: a modality's encoder takes raw windows, which
    no decoder gives.

    Attributes:
        heads: modality -> linear head on its trunk.
        classifier: content -> logits.
        discriminator: the adversary.
    """

    latent_kind = "shared"
    config: MmaliConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: MmaliConfig) -> None:
        super().__init__(networks, classes)
        self.config = config
        content, style = config.latent_size, config.style_size
        self.check_latent_sizes(content + style, f"content and style have {content} + {style}")
        self.heads = nn.ModuleDict(
            {n: _head(network.hidden_size, content, style, config) for n, network in networks.items()}
        )
        self.standards = nn.ModuleDict(
            {n: PresentStandardization(content + style, floor=1e-5) for n in self.names if config.standardise}
        )
        self.classifier = nn.Linear(content, classes)
        size = config.discriminator_size
        self.discriminator: Discriminator = (
            FactorizedDiscriminator(networks, style, content, size, cross_content=config.cross_content)
            if config.discriminator == "factorized"
            else JointDiscriminator(networks, style, content, size)
        )
        self.patterns: Tensor
        self.register_buffer("patterns", all_patterns(len(self.names)), persistent=False)

    def evidence_size(self, modality: str) -> int:
        """Mean and log variance of content and style."""
        return 2 * (self.config.latent_size + self.config.style_size)

    @property
    def posterior_size(self) -> int:
        """2C: mean and log variance of q(c | x_S)."""
        return 2 * self.config.latent_size

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat content, then style."""
        return self._encode(modality, window)

    def _encode(self, modality: str, window: Tensor, present: Tensor | None = None) -> Tensor:
        evidence: Tensor = self.heads[modality](self.network(modality).trunk(window))
        if not self.config.standardise:
            return evidence
        content, style = self.config.latent_size, self.config.style_size
        mean_c, variance_c, mean_s, variance_s = torch.split(
            evidence, [content, content, style, style], dim=-1
        )
        codes = self.standards[modality](torch.cat((mean_c, mean_s), dim=-1), present)
        return torch.cat((codes[:, :content], variance_c, codes[:, content:], variance_s), dim=-1)

    def codes(self, evidence: Mapping[str, Tensor]) -> tuple[Gaussian, Gaussian]:
        """Contents (B, M, C) and styles (B, M, S) of flat evidence."""
        stacked = torch.stack([evidence[n] for n in self.names], dim=1)
        split = 2 * self.config.latent_size
        return Gaussian.from_flat(stacked[..., :split]), Gaussian.from_flat(stacked[..., split:])

    def content(self, contents: Gaussian, presence: Tensor) -> Gaussian:
        """q(c | x_S), (B, C): the geometric mean of the present contents; N(0, I) where nothing is present."""
        return averaged_product_of_experts(contents, presence * self.reliability)

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Averaged content to the classifier, and with each style to every modality's latent."""
        contents, styles = self.codes(evidence)
        q = self.content(contents, presence)
        own = styles.mean * presence.unsqueeze(-1)
        latents = {n: torch.cat((q.mean, own[:, j]), dim=-1) for j, n in enumerate(self.names)}
        return FusedTensors(self.classifier(q.mean), q.flat(), latents)

    def sample_prior(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One content per row for all modalities and a style for each, all from N(0, I)."""

        def draw(size: int) -> Tensor:
            return torch.randn(count, size, generator=generator, device=generator.device)

        content = draw(self.config.latent_size)
        return {n: torch.cat((content, draw(self.config.style_size)), dim=-1) for n in self.names}

    def phases(self) -> Sequence[Phase]:
        """One phase, ``adversarial``: discriminators are the adversaries of everything else."""
        learning = (self.networks, self.heads, self.standards, self.classifier)
        return (Phase("adversarial", learning, (self.discriminator,)),)

    def adversary_loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """What the discriminators minimise on this batch's tuples."""
        with torch.no_grad():
            contents, styles = self._codes(batch)
            tuples = self._tuples(contents, styles, batch, generator)
        with parametrize.cached():
            terms = self.discriminator.learning_terms(tuples, generator)
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """The non-saturating game, reconstruction, and the cross entropy over missing patterns."""
        config = self.config
        terms: dict[str, Tensor] = {}
        contents, styles = self._codes(batch)
        if config.adversarial_weight:
            tuples = self._tuples(contents, styles, batch, generator)
            with parametrize.cached():
                found = self.discriminator.playing_terms(tuples, config.unimodal_weight)
            terms |= {name: config.adversarial_weight * term for name, term in found.items()}
        if config.reconstruction:
            terms["reconstruction"] = config.reconstruction * self._reconstruction(
                contents, styles, batch, generator
            )
        if config.classification:
            terms["classification"] = config.classification * self._classification(contents, batch, generator)
        terms["total"] = torch.stack(list(terms.values())).sum() if terms else contents.mean.sum() * 0.0
        return terms

    def _codes(self, batch: LabelledWindows) -> tuple[Gaussian, Gaussian]:
        evidence = {
            n: self._encode(n, batch.windows[n], batch.presence[:, j]) for j, n in enumerate(self.names)
        }
        return self.codes(evidence)

    def _tuples(
        self, contents: Gaussian, styles: Gaussian, batch: LabelledWindows, generator: torch.Generator
    ) -> Tuples:
        presence = batch.presence
        there = presence.unsqueeze(-1)
        content = contents.sample(generator) * there
        drawn_content = standard_normal_like(content[:, 0], generator)
        drawn_styles = standard_normal_like(styles.mean, generator)
        measured, generated = {}, {}
        for j, name in enumerate(self.names):
            target, weight = self.target(name, batch)
            weight = weight * presence[:, j].reshape(-1, *(1 for _ in target.shape[1:]))
            measured[name] = target * weight
            decoded = self.network(name).decode(torch.cat((drawn_content, drawn_styles[:, j]), dim=-1))
            generated[name] = decoded * weight
        return Tuples(
            presence,
            measured,
            generated,
            styles.sample(generator) * there,
            drawn_styles,
            torch.cat((content.transpose(0, 1), drawn_content.unsqueeze(0))),
        )

    def _reconstruction(
        self, contents: Gaussian, styles: Gaussian, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        """−log p(x_j | c, s_j) summed over a row's modalities, mean over rows; c as configured."""
        presence = observed = batch.presence
        if self.config.reconstruct_from == "drawn":
            subset = draw_subset(presence, generator, smallest=1)
            whole = torch.rand(presence.shape[:1], generator=generator, device=presence.device) < 0.5
            observed = torch.where((whole | (subset.sum(dim=1) == 0)).unsqueeze(1), presence, subset)
        content = self.content(contents, observed).sample(generator)
        style = styles.sample(generator) * observed.unsqueeze(-1)
        total = torch.zeros_like(presence[:, 0])
        for j, name in enumerate(self.names):
            network = self.network(name)
            decoded = network.decode(torch.cat((content, style[:, j]), dim=-1))
            total = total + presence[:, j] * network.reconstruction_nll(decoded, *self.target(name, batch))
        return masked_mean(total, presence.amax(dim=1))

    def _classification(
        self, contents: Gaussian, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        def decide(masks: Tensor, count: int) -> Tensor:
            q = self.content(contents.repeat_rows(count), masks)
            logits: Tensor = self.classifier(
                q.sample(generator) if self.config.classify == "sample" else q.mean
            )
            return logits

        return drawn_pattern_cross_entropy(decide, self.patterns, batch, self.config, generator)


def _head(hidden_size: int, content: int, style: int, config: MmaliConfig) -> nn.Linear:
    head = nn.Linear(hidden_size, 2 * (content + style))
    with torch.no_grad():
        for begin in (content, 2 * content + style):
            size = content if begin == content else style
            head.bias[begin : begin + size] = config.initial_log_variance
    return head
