"""SS-HMVAE and SS-HMVAE-kl: a joint representation a below a label y and a style z, learned with few labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from engines.refinement import Refinement, refined_evidence
from trainers.fusion.gaussians import Gaussian, product_of_experts
from trainers.fusion.gumbel import gumbel_softmax
from trainers.fusion.masks import draw_subset
from trainers.modalities.likelihood import weighted_gaussian_nll
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.classification import ABSENT_LABEL, labelled_cross_entropy, masked_mean
from trainers.objectives.hmvae import (
    divergence_to_singles,
    label_divergence,
    negative_bound,
    semi_supervised_mean,
)
from trainers.systems.base import FusedTensors, LabelledWindows, Phase, System, SystemConfig, warm_up
from trainers.systems.hmvae_distributions import ConditionalGaussian, block
from trainers.systems.standardization import PresentStandardization


class HmvaeConfig(SystemConfig):
    """Settings of SS-HMVAE; ``latent_size`` is the size of a."""

    PHASES: ClassVar[tuple[str, ...]] = ("joint",)

    name: Literal["hmvae"] = "hmvae"
    kl: bool = Field(
        default=False, description="SS-HMVAE-kl: a network q(a | x_i) for every modality (eq. 4)"
    )
    z_size: int = Field(default=32, ge=1, description="size of z, the style above a")
    hidden_size: int = Field(default=128, ge=1, description="width of every block; 1024 in the paper")
    normalization: Literal["batch", "layer"] = Field(
        default="layer",
        description="of the blocks; batch: as in the paper; layer: no row depends on the others in its batch",
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in q(y | a)")
    classification: float = Field(default=1.0, ge=0, description="α: weight of log q(y | x)")
    classify: Literal["sample", "mean"] = Field(
        default="sample", description="what q(y | a) sees of a in training"
    )
    single_divergence: float = Field(default=1.0, ge=0, description="β of eq. 4; kl only")
    divergence_moves_joint: bool = Field(
        default=True,
        description="β's divergence also moves q(a | x) towards the single posteriors, as printed",
    )
    gumbel_temperature: float = Field(
        default=0.5, gt=0, description="of the relaxed labels; unstated in the paper"
    )
    generative_weight: float = Field(default=1.0, ge=0, description="weight of both bounds (eqs. 1, 2)")
    divergence_warmup: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of training over which the bounds' divergences rise from 0",
    )
    observation_weight: float = Field(
        default=1.0, ge=0, description="weight of log p(x_j | a) of observations"
    )
    feature_weight: float = Field(default=1.0, ge=0, description="weight of log p(h_j | a) of trunk features")
    feature_noise: float = Field(
        default=1.0,
        gt=0,
        description="standard deviation of p(h_j | a), in standard deviations of the feature",
    )
    subset_classification: float = Field(
        default=0.0,
        ge=0,
        description="our extension: weight, times α, of log q(y | x_S) for drawn subsets S of what a row has",
    )
    subsets_per_step: int = Field(default=1, ge=1, description="subsets drawn per row for it")
    refinement_iterations: int = Field(
        default=100,
        ge=0,
        description="rounds of iterative sampling around the engine; plain only, 0: one pass",
    )


class Hmvae(System):
    """Trunk features h_j of every modality, q(a | h_1 … h_M) over their blocks, q(y | a), q(z | a, y), p(a | z, y).

    The paper's inputs are features of pre-trained networks. Here h_j is the standardised output of a modality's trunk.
    The generative model has both p(h_j | a) and p(x_j | a) of the observation, with a weight each. No gradient flows
    into the target of p(h_j | a): otherwise the trunk could make it easy to predict by carrying no information.

    Plain: an absent modality's h_j is its mean, 0, and one network infers a from every pattern. Its posterior is flat
    (mean, log variance) of q(a | x), then an estimate of every h_j, (B, 2L + Σ D_j): with it a session iterates
    (:mod:`engines.refinement`), as the paper's appendix D does.

    kl: the joint network serves complete rows, q(a | x_i) one modality alone. In between, which the paper's two
    modalities do not have, stands a product of the single networks' experts weighted by reliability: our extension
    for more modalities. Evidence is h_j, then flat (mean, log variance) of q(a | x_j); the posterior is (B, 2L).

    With nothing present the label is uniform and a the prior's mean, E[p(a | z = 0, y)] over y.
    """

    latent_kind = "shared"
    config: HmvaeConfig

    def __init__(self, networks: Mapping[str, ModalityNetwork], classes: int, config: HmvaeConfig) -> None:
        super().__init__(networks, classes)
        self.config = config
        size, width, norm = config.latent_size, config.hidden_size, config.normalization
        self.check_latent_sizes(size, f"the shared representation has {size}")
        features = {n: network.hidden_size for n, network in networks.items()}
        self.standardization = nn.ModuleDict({n: PresentStandardization(d) for n, d in features.items()})
        self.joint = ConditionalGaussian(list(features.values()), size, width, norm)
        self.singles = nn.ModuleDict(
            {n: ConditionalGaussian([d], size, width, norm) for n, d in features.items()} if config.kl else {}
        )
        self.classifier = nn.Sequential(
            block(size, width, norm), nn.Dropout(config.dropout), nn.Linear(width, classes)
        )
        self.style = ConditionalGaussian([size, classes], config.z_size, width, norm)
        self.prior = ConditionalGaussian([config.z_size, classes], size, width, norm)
        self.feature_decoders = nn.ModuleDict(
            {
                n: nn.Sequential(block(size, width, norm), block(width, width, norm), nn.Linear(width, d))
                for n, d in features.items()
            }
        )

    def evidence_size(self, modality: str) -> int:
        """Features, and with ``kl`` mean and log variance of q(a | x_j)."""
        own = 2 * self.config.latent_size if self.config.kl else 0
        return self.network(modality).hidden_size + own

    @property
    def posterior_size(self) -> int:
        """Mean and log variance of q(a | x), and where a session refines an estimate of all evidence."""
        estimates = sum(self.evidence_size(n) for n in self.names) if self.refinement() else 0
        return 2 * self.config.latent_size + estimates

    def refinement(self) -> Refinement | None:
        """Plain: rounds and where the estimates are. None with ``kl``, which has networks for what it lacks."""
        if self.config.kl or not self.config.refinement_iterations:
            return None
        offsets, place = {}, 2 * self.config.latent_size
        for name in self.names:
            offsets[name] = place
            place += self.evidence_size(name)
        return Refinement(iterations=self.config.refinement_iterations, offsets=offsets)

    def features(self, modality: str, window: Tensor, present: Tensor | None = None) -> Tensor:
        """Raw windows -> standardised features (B, D); ``present`` as in :class:`PresentStandardization`."""
        found: Tensor = self.standardization[modality](self.network(modality).trunk(window), present)
        return found

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> standardised features, with ``kl`` followed by flat q(a | x_j)."""
        features = self.features(modality, window)
        if not self.config.kl:
            return features
        return torch.cat((features, self.singles[modality](features).flat()), dim=1)

    def posterior(
        self, features: Mapping[str, Tensor], presence: Tensor, alone: Mapping[str, Gaussian] | None = None
    ) -> Gaussian:
        """q(a | x_S), (B, L).

        Args:
            features: modality -> (B, D), finite; those of absent modalities are ignored.
            presence: (B, M) of 0/1.
            alone: with ``kl``, modality -> q(a | x_j), finite; worked out from ``features`` where not given.
        """
        known = {n: features[n] * presence[:, i : i + 1] for i, n in enumerate(self.names)}
        joint: Gaussian = self.joint(*known.values())
        if not self.config.kl:
            return joint
        experts = alone or {n: self.singles[n](known[n]) for n in self.names}
        product = product_of_experts(
            torch.stack([experts[n].mean for n in self.names], dim=1),
            torch.stack([experts[n].log_variance for n in self.names], dim=1),
            presence * self.reliability,
            prior=False,
        )
        complete = presence.prod(dim=1, keepdim=True)
        return Gaussian(*(complete * j + (1.0 - complete) * p for j, p in zip(joint, product, strict=True)))

    def prior_mean(self) -> Tensor:
        """E[a] (1, L) of the prior at z = 0: the mean of p(a | z = 0, y) over all y."""
        labels = torch.eye(self.classes, device=self.reliability.device)
        mean: Tensor = self.prior(labels.new_zeros(self.classes, self.config.z_size), labels).mean
        return mean.mean(dim=0, keepdim=True)

    def sample_prior(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A label drawn uniformly, z ~ N(0, I), a ~ p(a | z, y), shared by all."""
        device = generator.device
        z = torch.randn(count, self.config.z_size, generator=generator, device=device)
        y = torch.randint(self.classes, (count,), generator=generator, device=device)
        prior: Gaussian = self.prior(z, nn.functional.one_hot(y, self.classes).float())
        return dict.fromkeys(self.names, prior.sample(generator))

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """One pass: q(a | x_S), q(y | a) at its mean, and the mean as everyone's latent."""
        size = {n: self.network(n).hidden_size for n in self.names}
        features = {n: evidence[n][:, : size[n]] for n in self.names}
        alone = (
            {n: Gaussian.from_flat(evidence[n][:, size[n] :]) for n in self.names} if self.config.kl else None
        )
        q = self.posterior(features, presence, alone)
        known = presence.amax(dim=1, keepdim=True)
        a = known * q.mean + (1.0 - known) * self.prior_mean()
        logits = known * self.classifier(a)
        return FusedTensors(logits, self._flat_posterior(q, a), dict.fromkeys(self.names, a))

    @torch.no_grad()
    def sample_absent(
        self,
        evidence: Mapping[str, Tensor],
        presence: Tensor,
        generator: torch.Generator,
        *,
        iterations: int = 100,
        start: Mapping[str, Tensor] | None = None,
    ) -> FusedTensors:
        """The paper's iterative sampling (eq. 5): absent h ~ p(h), then a ~ q(a | h), absent h ~ p(h | a), and again.

        Without any iteration a random sample stands for what is absent: the paper's starting point, and what it calls
        missing. :meth:`fuse` starts from the mean feature instead, which says less.

        Args:
            evidence: modality -> (B, D); that of absent modalities is ignored.
            presence: (B, M) of 0/1.
            generator: source of randomness.
            iterations: rounds.
            start: modality -> (B, D) evidence that absent modalities start from, of other rows, say, which are samples
                of the true p(h). By default the model is sampled, with ``feature_noise``.

        Raises:
            ValueError: the system is SS-HMVAE-kl, or was made without refinement.
        """
        refinement = self.refinement()
        if refinement is None:
            raise ValueError(
                "iterative sampling is for SS-HMVAE without kl, with refinement_iterations of at least 1"
            )
        complete = torch.ones_like(presence)
        unused = presence.new_zeros(len(presence), 2 * self.config.latent_size)

        def estimates(a: Tensor) -> Tensor:
            found = torch.cat([self.feature_decoders[n](a) for n in self.names], dim=1)
            noise = torch.randn(found.shape, generator=generator, device=generator.device).to(a.device)
            return torch.cat((unused, found + self.config.feature_noise * noise), dim=1)

        if start is None:
            first = estimates(self.sample_prior(len(presence), generator)[self.names[0]])
        else:
            first = torch.cat((unused, *(start[n] for n in self.names)), dim=1)
        rounds = refinement.model_copy(update={"iterations": 1 + iterations})
        filled = refined_evidence(
            lambda given: estimates(self.posterior(given, complete).sample(generator)),
            self.names,
            evidence,
            presence,
            first,
            rounds,
        )
        return self.fuse(filled, complete)

    def phases(self) -> Sequence[Phase]:
        """One phase, ``joint``: everything learns end to end."""
        return (Phase("joint", tuple(self.children())),)

    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """Eq. 3, with ``kl`` eq. 4, over whatever labels and modalities each row has."""
        config, presence = self.config, batch.presence
        features = {
            n: self.features(n, batch.windows[n], presence[:, i]) * presence[:, i : i + 1]
            for i, n in enumerate(self.names)
        }
        alone = {n: network(features[n]) for n, network in self.singles.items()}
        q = self.posterior(features, presence, alone)
        a = q.sample(generator)
        weight = presence.amax(dim=1)
        terms = self._reconstruction_terms(features, a, batch)
        reconstruction = torch.stack(list(terms.values())).sum(dim=0)
        bound = self._bound(a, q, reconstruction, batch.labels, generator, progress)
        terms = {n: masked_mean(t.detach(), weight) for n, t in terms.items()}
        terms["bound"] = semi_supervised_mean(bound, batch.labels, weight)
        logits = self.classifier(a if config.classify == "sample" else q.mean)
        known = torch.where(weight > 0, batch.labels, ABSENT_LABEL)
        terms["classification"] = labelled_cross_entropy(logits, known)
        total = config.generative_weight * terms["bound"] + config.classification * terms["classification"]
        if alone:
            places = {i: alone[n] for i, n in enumerate(self.names)}
            aim = q if config.divergence_moves_joint else Gaussian(*(t.detach() for t in q))
            terms["divergence_to_singles"] = masked_mean(divergence_to_singles(aim, places, presence), weight)
            total = total + config.single_divergence * terms["divergence_to_singles"]
        if config.subset_classification:
            terms["subset_classification"] = self._subset_term(features, alone, batch, generator)
            total = (
                total + config.classification * config.subset_classification * terms["subset_classification"]
            )
        terms["total"] = total
        return terms

    def _flat_posterior(self, q: Gaussian, a: Tensor) -> Tensor:
        if self.refinement() is None:
            return q.flat()
        return torch.cat((q.flat(), *(self.feature_decoders[n](a) for n in self.names)), dim=1)

    def _reconstruction_terms(
        self, features: Mapping[str, Tensor], a: Tensor, batch: LabelledWindows
    ) -> dict[str, Tensor]:
        """−log p(x_j | a) − log p(h_j | a) of every modality, weighted, (B,); 0 where it is absent."""
        config, terms = self.config, {}
        for i, name in enumerate(self.names):
            nll = torch.zeros_like(a[:, 0])
            if config.feature_weight:
                target = features[name].detach()
                nll = nll + config.feature_weight * weighted_gaussian_nll(
                    self.feature_decoders[name](a),
                    target,
                    torch.ones_like(target),
                    noise_scale=config.feature_noise,
                    effective_size=target.shape[1],
                )
            if config.observation_weight:
                network = self.network(name)
                target, measured = self.target(name, batch)
                found = network.reconstruction_nll(network.decode(a), target, measured)
                nll = nll + config.observation_weight * found
            terms[f"reconstruction_{name}"] = nll * batch.presence[:, i]
        return terms

    def _bound(
        self,
        a: Tensor,
        q: Gaussian,
        reconstruction: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        progress: float,
    ) -> Tensor:
        """The negative ELBO of every row (B,): eq. 1 where labelled, eq. 2 with a relaxed label where not."""
        config = self.config
        logits = self.classifier(a)
        labelled = (labels != ABSENT_LABEL).unsqueeze(1)
        given = nn.functional.one_hot(labels.clamp(min=0), self.classes).to(a.dtype)
        y = torch.where(labelled, given, gumbel_softmax(logits, config.gumbel_temperature, generator))
        top = self.style(a, y)
        prior = self.prior(top.sample(generator), y)
        warm = warm_up(progress, config.divergence_warmup)
        return negative_bound(
            reconstruction, a, q, prior, top, label_divergence(logits, labels), divergence_weight=warm
        )

    def _subset_term(
        self,
        features: Mapping[str, Tensor],
        alone: Mapping[str, Gaussian],
        batch: LabelledWindows,
        generator: torch.Generator,
    ) -> Tensor:
        """Cross entropy from drawn proper subsets of what each row has; rows with one modality have none."""
        count = self.config.subsets_per_step
        whole = batch.presence.repeat(count, 1)
        subset = draw_subset(whole, generator, smallest=1)
        repeated = {n: h.repeat(count, 1) for n, h in features.items()}
        singles = {n: Gaussian(*(t.repeat(count, 1) for t in q)) for n, q in alone.items()}
        q = self.posterior(repeated, subset, singles)
        logits = self.classifier(q.sample(generator) if self.config.classify == "sample" else q.mean)
        labels = torch.where(subset.amax(dim=1) > 0, batch.labels.repeat(count), ABSENT_LABEL)
        return labelled_cross_entropy(logits, labels)
