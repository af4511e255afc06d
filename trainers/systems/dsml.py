"""DSML: a class and a style that all modalities share, learned in games among generators, encoders and classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainers.fusion.masks import draw_subset
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.classification import ABSENT_LABEL, labelled_cross_entropy, masked_mean
from trainers.objectives.dsml import code_distance, discriminator_loss, generator_loss, pseudo_label_loss
from trainers.systems.base import FusedTensors, LabelledWindows, Phase, System, SystemConfig, warm_up
from trainers.systems.dsml_discriminators import Discriminators, Tuples

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class DsmlConfig(SystemConfig):
    """Settings of the DSML system; ``latent_size`` is that of the style z."""

    PHASES: ClassVar = ("adversarial",)

    name: Literal["dsml"] = "dsml"
    discriminator_size: int = Field(default=128, ge=1, description="width of the discriminators' layers")
    style_game: float = Field(default=1.0, ge=0, description="weight of L_xz, data with their style")
    class_game: float = Field(default=1.0, ge=0, description="weight of L_xc, data with their class")
    joint_game: float = Field(default=1.0, ge=0, description="weight of L_xy, modalities with each other")
    classification: float = Field(default=1.0, ge=0, description="weight of R_xc on labelled data")
    generated_classification: float = Field(
        default=1.0, ge=0, description="weight of R_xc on generated pairs, after the warm-up"
    )
    generated_from: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="share of the phase over which generated pairs come to count fully",
    )
    style_matching: float = Field(default=10.0, ge=0, description="λ, weight of R*_z")
    reconstruction: float = Field(
        default=0.0,
        ge=0,
        description="weight of −log p(x|c, z) with class and style from a drawn subset of a row's modalities; our "
        "extension, what imputation asks for",
    )
    pseudo_labels: float = Field(
        default=0.0,
        ge=0,
        description="weight of the cross entropy of distorted views against what unlabelled rows are decided to be; "
        "our extension. Labelled rows are then classified distorted too",
    )
    confidence: float = Field(
        default=0.95, gt=0, le=1, description="least probability of a decision that serves as a label"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def decoder_size(self, modality: str, classes: int) -> int:
        """Class and style."""
        return classes + self.latent_size


class Inferred(NamedTuple):
    """Outputs of classifiers and encoders for data, by modality."""

    logits: Tensor
    """(B, M, C)"""
    styles: Tensor
    """(B, M, L)"""


class Dsml(System):
    """Per modality a generator G(c, z), a classifier C and an encoder E, the latter two heads on one trunk.

    Evidence of a modality is flat: class logits (C), then style (L). Logits of what is present are added up, styles
    averaged (the paper says nothing about fusing styles). The posterior is flat (logits, style); every modality's
    latent is [softmax of the added logits, mean style], so what is imputed shows the class that was decided: the
    paper's class-controlled imputation. E gives a point, as in BiGAN, not a distribution.

    Classes are drawn uniformly and styles from N(0, I); generated moments are complete and labelled, and teach
    classifiers and encoders as measured ones do (the paired augmentation). Networks read them with the batch
    statistics of measured data, as they read everything once they serve.

    Attributes:
        classifiers: modality -> linear head on its trunk, C.
        encoders: modality -> linear head on its trunk, E.
        discriminators: the adversaries.
    """

    latent_kind = "shared"
    config: DsmlConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: DsmlConfig) -> None:
        super().__init__(networks, classes)
        self.config = config
        size = config.latent_size
        self.check_latent_sizes(classes + size, f"class and style have {classes} + {size}")
        self.classifiers = nn.ModuleDict(
            {n: nn.Linear(net.hidden_size, classes) for n, net in networks.items()}
        )
        self.encoders = nn.ModuleDict({n: nn.Linear(net.hidden_size, size) for n, net in networks.items()})
        self.discriminators = Discriminators(networks, size, classes, config.discriminator_size)

    def evidence_size(self, modality: str) -> int:
        """Class logits and style."""
        return self.classes + self.config.latent_size

    @property
    def posterior_size(self) -> int:
        """Added logits and mean style."""
        return self.classes + self.config.latent_size

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat class logits, then style."""
        return self._read(modality, self.network(modality).trunk(window))

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Added logits and mean style; uniform and 0 where nothing is present."""
        inferred = self._split(evidence)
        logits, style = self._fused(inferred, presence)
        latent = torch.cat((logits.softmax(dim=-1), style), dim=-1)
        posterior = torch.cat((logits, style), dim=-1)
        return FusedTensors(logits, posterior, dict.fromkeys(self.names, latent))

    def sample_prior(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One class and one style per row, for all modalities."""
        style = torch.randn(count, self.config.latent_size, generator=generator, device=generator.device)
        return dict.fromkeys(self.names, torch.cat((self._draw_class(count, generator), style), dim=-1))

    def phases(self) -> Sequence[Phase]:
        """One phase, ``adversarial``: discriminators are the adversaries of everything else."""
        modules = (self.networks, self.classifiers, self.encoders)
        return (Phase("adversarial", modules, (self.discriminators,)),)

    def adversary_loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """How badly the discriminators tell this batch's tuples apart."""
        with torch.no_grad():
            tuples = self._tuples(self._infer(batch), self._draw(batch, generator), batch, generator)
        with parametrize.cached():
            games = self.discriminators.games(tuples)
        terms = {n: discriminator_loss(g.logits, g.weight) for n, g in games.items() if self._game_weight(n)}
        total = torch.stack(list(terms.values())).sum() if terms else _nothing(self.discriminators)
        return terms | {"total": total}

    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """The non-saturating games, R_xc with its warm-up, λ R*_z, and our extensions where they have a weight."""
        config = self.config
        inferred, drawn = self._infer(batch), self._draw(batch, generator)
        terms: dict[str, Tensor] = {}
        generated = {n: self.network(n).decode(drawn) for n in self.names}
        if config.style_game or config.class_game or config.joint_game:
            tuples = self._tuples(inferred, drawn, batch, generator, generated)
            with parametrize.cached():
                games = self.discriminators.games(tuples)
            for name, game in games.items():
                if weight := self._game_weight(name):
                    terms[name] = weight * generator_loss(game.logits, game.weight, game.generated_kinds)
        if config.classification:
            terms["classification"] = config.classification * self._classification(inferred, batch)
        if config.generated_classification or config.style_matching:
            reread = self._split({n: self._read_generated(n, generated[n]) for n in self.names})
            terms |= self._generated_terms(reread, drawn, progress)
        if config.style_matching:
            terms["style_agreement"] = config.style_matching * self._style_agreement(inferred, batch.presence)
        if config.reconstruction:
            found = self._reconstruction(inferred, batch, generator)
            terms["reconstruction"] = config.reconstruction * found
        if config.pseudo_labels:
            terms |= self._distorted_views(inferred, batch, generator)
        terms["total"] = torch.stack(list(terms.values())).sum() if terms else _nothing(self.networks)
        return terms

    def _read(self, modality: str, hidden: Tensor) -> Tensor:
        return torch.cat((self.classifiers[modality](hidden), self.encoders[modality](hidden)), dim=-1)

    def _read_generated(self, modality: str, generated: Tensor) -> Tensor:
        """Evidence of generated data in model units, with the batch statistics of measured data."""
        network = self.network(modality)
        with _kept_statistics(network):
            return self._read(modality, network.trunk_of_target(generated))

    def _split(self, evidence: Mapping[str, Tensor]) -> Inferred:
        stacked = torch.stack([evidence[n] for n in self.names], dim=1)
        return Inferred(stacked[..., : self.classes], stacked[..., self.classes :])

    def _infer(self, batch: LabelledWindows) -> Inferred:
        return self._split({n: self.encode(n, batch.windows[n]) for n in self.names})

    def _fused(self, inferred: Inferred, presence: Tensor) -> tuple[Tensor, Tensor]:
        """Σ logits (B, C) and mean style (B, L) of what is present."""
        logits = ((presence * self.reliability).unsqueeze(-1) * inferred.logits).sum(dim=1)
        count = presence.sum(dim=1, keepdim=True).clamp(min=1.0)
        return logits, (presence.unsqueeze(-1) * inferred.styles).sum(dim=1) / count

    def _draw_class(self, count: int, generator: torch.Generator) -> Tensor:
        label = torch.randint(self.classes, (count,), generator=generator, device=generator.device)
        return F.one_hot(label, self.classes).float()

    def _draw(self, batch: LabelledWindows, generator: torch.Generator) -> Tensor:
        """One (c, z) per row, (B, C + L)."""
        return self.sample_prior(len(batch.labels), generator)[self.names[0]]

    def _game_weight(self, game: str) -> float:
        config = self.config
        weights = {"style": config.style_game, "class": config.class_game, "joint": config.joint_game}
        return weights[game.split("_")[0]]

    def _tuples(
        self,
        inferred: Inferred,
        drawn: Tensor,
        batch: LabelledWindows,
        generator: torch.Generator,
        generated: Mapping[str, Tensor] | None = None,
    ) -> Tuples:
        """The tuples of all games; generated and imputed data are blanked where nothing was measured (depth holes)."""
        presence = batch.presence
        measured, decoded, imputed = {}, {}, {}
        for j, name in enumerate(self.names):
            target, weight = self.target(name, batch)
            weight = weight[_rows_that_have(presence[:, j], generator)]
            measured[name] = target * weight
            fresh = generated[name] if generated is not None else self.network(name).decode(drawn)
            decoded[name] = fresh * weight
            if len(self.names) > 1 and self.config.joint_game:
                others = presence * (torch.arange(len(self.names), device=presence.device) != j)
                logits, style = self._fused(inferred, others)
                latent = torch.cat((logits.softmax(dim=-1), style), dim=-1)
                imputed[name] = self.network(name).decode(latent) * weight
        return Tuples(
            presence,
            (batch.labels != ABSENT_LABEL).to(presence.dtype),
            measured,
            decoded,
            imputed,
            {n: inferred.styles[:, j] for j, n in enumerate(self.names)},
            {n: inferred.logits[:, j].softmax(dim=-1) for j, n in enumerate(self.names)},
            self._one_hot(batch.labels),
            drawn[:, self.classes :],
            drawn[:, : self.classes],
        )

    def _one_hot(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels.clamp(min=0), self.classes).float()

    def _classification(self, inferred: Inferred, batch: LabelledWindows) -> Tensor:
        """R_xc on labelled rows, summed over modalities: each classifier by itself."""
        smoothing, terms = self.config.label_smoothing, []
        for j in range(len(self.names)):
            labels = torch.where(batch.presence[:, j] > 0, batch.labels, ABSENT_LABEL)
            terms.append(labelled_cross_entropy(inferred.logits[:, j], labels, smoothing=smoothing))
        return torch.stack(terms).sum()

    def _generated_terms(self, reread: Inferred, drawn: Tensor, progress: float) -> dict[str, Tensor]:
        """R_xc and R_z on what was generated from (c, z)."""
        config, label = self.config, drawn[:, : self.classes].argmax(dim=1)
        style, every = drawn[:, self.classes :], torch.ones_like(drawn[:, 0])
        places, terms = range(len(self.names)), {}
        if config.generated_classification:
            begun = warm_up(progress, config.generated_from)
            found = [labelled_cross_entropy(reread.logits[:, j], label) for j in places]
            terms["generated_classification"] = (
                config.generated_classification * begun * torch.stack(found).sum()
            )
        if config.style_matching:
            distances = [code_distance(reread.styles[:, j], style, every) for j in places]
            terms["style_matching"] = config.style_matching * torch.stack(distances).sum()
        return terms

    def _style_agreement(self, inferred: Inferred, presence: Tensor) -> Tensor:
        """‖E_x(x) − E_y(y)‖ of R*_z, summed over the pairs of modalities."""
        count, found = len(self.names), [presence.sum() * 0.0]
        for i in range(count):
            for j in range(i + 1, count):
                both = presence[:, i] * presence[:, j]
                found.append(code_distance(inferred.styles[:, i], inferred.styles[:, j], both))
        return torch.stack(found).sum()

    def _reconstruction(
        self, inferred: Inferred, batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        """−log p(x_j | c, z) summed over a row's modalities, mean over rows; c is the label where there is one.

        What is decided is not changed by it (no gradient into classifiers), so that c remains the class.
        """
        presence = batch.presence
        subset = draw_subset(presence, generator, smallest=1)
        observed = torch.where(subset.sum(dim=1, keepdim=True) > 0, subset, presence)
        logits, style = self._fused(inferred, observed)
        known = (batch.labels != ABSENT_LABEL).unsqueeze(1)
        belief = torch.where(known, self._one_hot(batch.labels), logits.detach().softmax(dim=-1))
        total = torch.zeros_like(presence[:, 0])
        for j, name in enumerate(self.names):
            network = self.network(name)
            decoded = network.decode(torch.cat((belief, style), dim=-1))
            total = total + presence[:, j] * network.reconstruction_nll(decoded, *self.target(name, batch))
        return masked_mean(total, presence.amax(dim=1))

    def _distorted_views(
        self, inferred: Inferred, batch: LabelledWindows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Classifiers on distorted windows: labels where there are some, sure decisions of the row elsewhere."""
        config, presence = self.config, batch.presence
        with torch.no_grad():
            decided = self._fused(inferred, presence)[0].softmax(dim=-1)
        labelled, unlabelled = [], []
        for j, name in enumerate(self.names):
            network = self.network(name)
            hidden = network.trunk(network.augment(batch.windows[name], generator))
            logits = self.classifiers[name](hidden)
            there = presence[:, j] > 0
            labels = torch.where(there, batch.labels, ABSENT_LABEL)
            labelled.append(labelled_cross_entropy(logits, labels, smoothing=config.label_smoothing))
            open_rows = (there & (batch.labels == ABSENT_LABEL)).to(logits.dtype)
            unlabelled.append(pseudo_label_loss(logits, decided, config.confidence, open_rows))
        return {
            "distorted_classification": config.classification * torch.stack(labelled).sum(),
            "pseudo_labels": config.pseudo_labels * torch.stack(unlabelled).sum(),
        }


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use their running statistics and leave them alone."""
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def _rows_that_have(there: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) indices: each row itself where it has the modality, else one drawn among those that have it."""
    rows = torch.arange(len(there), device=there.device)
    scores = torch.rand((len(there), len(there)), generator=generator, device=generator.device)
    return torch.where(there > 0, rows, (scores * there).argmax(dim=1))


def _nothing(module: nn.Module) -> Tensor:
    """0, with a gradient of 0."""
    return next(module.parameters()).sum() * 0.0
