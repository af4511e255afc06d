"""The associator network: a latent space per modality, joined by associators, cascaded where none is direct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from trainers.fusion.association_paths import Edge, Path, cheapest_paths
from trainers.fusion.associators import Associator, own_or_associated
from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import all_patterns
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.association import cross_modal_loss, intra_modal_loss, latent_matching_loss
from trainers.objectives.classification import labelled_cross_entropy
from trainers.systems.associators_config import AssociatorsConfig
from trainers.systems.base import Batches, FusedTensors, LabelledWindows, Phase, System, warm_up
from trainers.systems.pattern_classification import pattern_cross_entropy


class Associators(System):
    """VAEs (phase ``intra``), associators between them (``cross``), a classifier over all (``classify``).

    Evidence of a modality is flat (mean, log variance) of q(z_i | x_i): (B, 2 L_i). The posterior is flat
    (mean, log variance) of every modality's latent, own or associated, one after the other. Each phase
    trains its modules alone; everything else is frozen, as in the paper. A network of one modality is its
    autoencoder alone; :func:`trainers.systems.adding_modalities.add_modality` joins others to a trained one.

    Attributes:
        pairs: (source, target) of every associator.
        edge_cost: validated cost of every associator.
        paths: (source, target) -> modalities that a latent passes through.
        kept_paths: those of ``paths`` that an earlier run chose, and that stay.
    """

    latent_kind = "associated"
    config: AssociatorsConfig

    def __init__(
        self, networks: Mapping[str, ModalityNetwork], classes: int, config: AssociatorsConfig
    ) -> None:
        super().__init__(networks, classes)
        self.config = config
        self.pairs = config.edges(self.names)
        sizes = {name: network.latent_size for name, network in networks.items()}
        self.heads = nn.ModuleDict(
            {n: nn.Linear(net.hidden_size, 2 * sizes[n]) for n, net in networks.items()}
        )
        self.intra_classifiers = nn.ModuleDict({n: nn.Linear(sizes[n], classes) for n in self.names})
        self.associators = nn.ModuleDict(
            {
                _key(i, j): Associator(sizes[i], sizes[j], config.hidden_size, config.prototypes)
                for i, j in self.pairs
            }
        )
        self.classifiers = nn.ModuleDict({n: nn.Linear(sizes[n], classes) for n in self.names})
        kept = {edge for i, j in config.kept_pairs for edge in ((i, j), (j, i))}
        self._new_names = tuple(n for n in self.names if n not in config.kept_modalities)
        self._new_pairs = tuple(pair for pair in self.pairs if pair not in kept)
        self.edge_cost: dict[Edge, float] = dict.fromkeys(self.pairs, 1.0)
        self.kept_paths: dict[Edge, Path] = {}
        self.paths: dict[Edge, Path] = cheapest_paths(self.edge_cost)
        # Whether a modality votes on the class while it is absent: one that was added later must not change the
        # decisions of the network before.
        votes = [float(n not in config.added) for n in self.names]
        self.votes_imputed: Tensor
        self.register_buffer("votes_imputed", torch.tensor(votes), persistent=False)
        self.patterns: Tensor
        self.register_buffer("patterns", all_patterns(len(self.names)), persistent=False)

    def evidence_size(self, modality: str) -> int:
        """Mean and log variance of the modality's own latent."""
        return 2 * self.latent_size(modality)

    @property
    def posterior_size(self) -> int:
        """Mean and log variance of every modality's latent."""
        return sum(2 * self.latent_size(n) for n in self.names)

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat (mean, log variance) of q(z_i | x_i)."""
        evidence: Tensor = self.heads[modality](self.network(modality).trunk(window))
        return evidence

    def own(self, modality: str, window: Tensor) -> Gaussian:
        """Raw windows -> q(z_i | x_i), (B, L_i)."""
        return Gaussian.from_flat(self.encode(modality, window))

    def associate(self, path: Path, latent: Tensor) -> Gaussian:
        """Carry a latent along a path: means pass from hop to hop, the last hop's variance is the result's."""
        for source, target in pairwise(path):
            associated: Gaussian = self.associators[_key(source, target)](latent)
            latent = associated.mean
        return associated

    def latents(self, own: Mapping[str, Gaussian], presence: Tensor) -> dict[str, Gaussian]:
        """Every modality's latent distribution: its own where present, associated where not."""
        weight = presence * self.reliability
        found = {}
        for j, target in enumerate(self.names):
            others = [i for i in range(len(self.names)) if i != j]
            associated = [
                self.associate(self.paths[self.names[i], target], own[self.names[i]].mean) for i in others
            ]
            found[target] = own_or_associated(
                own[target], associated, presence[:, j : j + 1], weight[:, others]
            )
        return found

    def classify(self, latents: Mapping[str, Tensor], presence: Tensor) -> Tensor:
        """Sum of every latent's logits (B, C): own ones by reliability, imputed ones by their sources' mean.

        Imputed latents of modalities that were added later do not count. With nothing present all weights are 0
        and the logits are uniform.
        """
        weight = presence * self.reliability
        mean = weight.sum(dim=1, keepdim=True) / presence.sum(dim=1, keepdim=True).clamp(min=1.0)
        weight = weight + (1.0 - presence) * mean * self.votes_imputed
        logits = torch.stack([self.classifiers[n](latents[n]) for n in self.names], dim=1)
        return (weight.unsqueeze(-1) * logits).sum(dim=1)

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Own or associated latents, and the classifier over all of them."""
        found = self.latents({n: Gaussian.from_flat(evidence[n]) for n in self.names}, presence)
        means = {n: g.mean for n, g in found.items()}
        posterior = torch.cat([found[n].flat() for n in self.names], dim=-1)
        return FusedTensors(self.classify(means, presence), posterior, means)

    def sample_prior(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw z_i ~ N(0, I) of one modality, in turn from row to row, and associate the others from it."""
        own = {
            n: Gaussian(z, torch.zeros_like(z))
            for n in self.names
            for z in [torch.randn(count, self.latent_size(n), generator=generator, device=generator.device)]
        }
        source = torch.arange(count, device=generator.device) % len(self.names)
        presence = nn.functional.one_hot(source, len(self.names)).float()
        return {n: g.mean for n, g in self.latents(own, presence).items()}

    def phases(self) -> Sequence[Phase]:
        """``intra`` (VAEs), ``cross`` (associators, VAEs frozen), ``classify`` (classifiers, all else frozen).

        Modules that an earlier run trained do not learn; a phase in which nothing learns is left out.
        """
        names, found = self._new_names, []
        if names:
            parts = (self.networks, self.heads, self.intra_classifiers)
            found.append(Phase("intra", tuple(part[n] for part in parts for n in names)))
        if self._new_pairs:
            found.append(Phase("cross", tuple(self.associators[_key(*pair)] for pair in self._new_pairs)))
        if names and self.config.classify != "never":
            found.append(Phase("classify", tuple(self.classifiers[n] for n in names)))
        return tuple(found)

    def loss(
        self, phase: str, batch: LabelledWindows, generator: torch.Generator, *, progress: float
    ) -> dict[str, Tensor]:
        """Eq. 6, eq. 7 or the cross entropy over all missing patterns, by phase."""
        warm = warm_up(progress, self.config.kl_warmup)
        if phase == "intra":
            own = self._own(batch, self._new_names)
            terms = self._intra_terms(own, batch, generator, self.config.intra_kl * warm)
        else:
            with torch.no_grad():
                own = self._own(batch)
            if phase == "cross":
                terms = self._cross_terms(own, batch, generator, self.config.cross_kl * warm)
            else:
                terms = {"classification": self._classification_term(own, batch, generator)}
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def _own(self, batch: LabelledWindows, names: Sequence[str] | None = None) -> dict[str, Gaussian]:
        chosen = self.names if names is None else names
        return {n: self.own(n, batch.windows[n]) for n in chosen}

    def _intra_terms(
        self, own: dict[str, Gaussian], batch: LabelledWindows, generator: torch.Generator, kl_weight: float
    ) -> dict[str, Tensor]:
        config, terms = self.config, {}
        for name, q in own.items():
            present = batch.presence[:, self.names.index(name)]
            z = q.sample(generator)
            nll = self._reconstruction(name, self.target(name, batch), z)
            terms[f"intra_{name}"] = intra_modal_loss(nll, q, present, kl_weight=kl_weight)
            if config.intra_classification:
                logits = self.intra_classifiers[name](z if config.classify == "sample" else q.mean)
                labels = torch.where(present > 0, batch.labels, -torch.ones_like(batch.labels))
                cross_entropy = labelled_cross_entropy(logits, labels, smoothing=config.label_smoothing)
                terms[f"classification_{name}"] = config.intra_classification * cross_entropy
        return terms

    def _cross_terms(
        self, own: dict[str, Gaussian], batch: LabelledWindows, generator: torch.Generator, kl_weight: float
    ) -> dict[str, Tensor]:
        terms = {}
        column = {n: i for i, n in enumerate(self.names)}
        # Only a few associators per step: they share no weights, so each learns as if alone, only less often.
        pairs = self._new_pairs
        drawn = torch.randperm(len(pairs), generator=generator, device=generator.device)
        for source, target in (pairs[int(k)] for k in drawn[: self.config.associators_per_step]):
            mean = self.config.associate_from == "mean"
            latent = own[source].mean if mean else own[source].sample(generator)
            associated: Gaussian = self.associators[_key(source, target)](latent)
            both = batch.presence[:, column[source]] * batch.presence[:, column[target]]
            if self.config.cross_objective == "latent":
                loss = latent_matching_loss(own[target], associated, both)
            else:
                nll = self._reconstruction(target, self.target(target, batch), associated.sample(generator))
                loss = cross_modal_loss(nll, associated, both, kl_weight=kl_weight)
            terms[f"cross_{source}_{target}"] = loss
            if self.config.round_trip:
                back = self._round_trip(source, target, own[target], batch.presence[:, column[target]])
                terms[f"round_trip_{target}_{source}"] = self.config.round_trip * back
        return terms

    def _round_trip(self, source: str, target: str, own: Gaussian, present: Tensor) -> Tensor:
        """How far A_(source → target) is from restoring a latent that the opposite associator has carried over.

        So it also learns from associated latents, which are its input in a cascade: they lie between the latents of
        real recordings, where similar classes of the source are mixed. Only A_(source → target) learns.
        """
        with torch.no_grad():
            there: Gaussian = self.associators[_key(target, source)](own.mean)
        returned: Gaussian = self.associators[_key(source, target)](there.mean)
        return latent_matching_loss(own, returned, present)

    def _classification_term(
        self, own: dict[str, Gaussian], batch: LabelledWindows, generator: torch.Generator
    ) -> Tensor:
        def decide(masks: Tensor, count: int) -> Tensor:
            with torch.no_grad():
                found = self.latents({n: g.repeat_rows(count) for n, g in own.items()}, masks)
                chosen = {
                    n: g.sample(generator) if self.config.classify == "sample" else g.mean
                    for n, g in found.items()
                }
            return self.classify(chosen, masks)

        return pattern_cross_entropy(decide, self.patterns, batch, smoothing=self.config.label_smoothing)

    def _reconstruction(self, name: str, measured: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        network = self.network(name)
        return network.reconstruction_nll(network.decode(z), *measured)

    @torch.no_grad()
    def finish_phase(self, phase: str, validation: Batches) -> dict[str, Any]:
        """After ``cross``: measure the new associators on validation data and choose the cheapest paths.

        Paths that an earlier run chose stay.
        """
        if phase != "cross":
            return {}
        costs = self._validated_costs(validation)
        self.edge_cost |= {pair: costs[pair] for pair in self._new_pairs}
        self.paths = cheapest_paths(self.edge_cost) | self.kept_paths
        return {
            "associator_cost": {f"{i}->{j}": round(c, 4) for (i, j), c in self.edge_cost.items()},
            "paths": ["->".join(path) for path in self.paths.values()],
        }

    def _validated_costs(self, validation: Batches) -> dict[Edge, float]:
        """Cost of A_ji: how much of what j's own encoder explains of x_j is lost when z_j comes from i.

        (NLL(x_j | A_ji(z_i)) − NLL(x_j | z_j)) / (NLL(x_j | 0) − NLL(x_j | z_j)), at least 0, plus a small step
        cost, so that the shorter of two equally good paths is taken. Means stand for the distributions.
        """
        own_nll = dict.fromkeys(self.names, 0.0)
        prior_nll = dict.fromkeys(self.names, 0.0)
        edge_nll = dict.fromkeys(self.pairs, 0.0)
        column = {n: i for i, n in enumerate(self.names)}
        counts: dict[Any, float] = dict.fromkeys([*self.names, *self.pairs], 1e-9)
        for batch in validation():
            own = self._own(batch)
            for name in self.names:
                present = batch.presence[:, column[name]]
                measured, mean = self.target(name, batch), own[name].mean
                own_nll[name] += float((self._reconstruction(name, measured, mean) * present).sum())
                prior_nll[name] += float((self._reconstruction(name, measured, mean * 0) * present).sum())
                counts[name] += float(present.sum())
            for source, target in self.pairs:
                both = batch.presence[:, column[source]] * batch.presence[:, column[target]]
                mean = self.associators[_key(source, target)](own[source].mean).mean
                nll = self._reconstruction(target, self.target(target, batch), mean)
                edge_nll[source, target] += float((nll * both).sum())
                counts[source, target] += float(both.sum())
        costs = {}
        for source, target in self.pairs:
            own_mean, prior_mean = own_nll[target] / counts[target], prior_nll[target] / counts[target]
            lost = edge_nll[source, target] / counts[source, target] - own_mean
            costs[source, target] = STEP_COST + max(0.0, lost / max(prior_mean - own_mean, 1e-6))
        return costs

    def structure(self) -> dict[str, Any]:
        """Validated costs of the associators, and paths that an earlier run chose; the others follow from the costs."""
        found: dict[str, Any] = {
            "associator_cost": {f"{i}->{j}": cost for (i, j), cost in self.edge_cost.items()}
        }
        if self.kept_paths:
            found["kept_paths"] = [list(path) for path in self.kept_paths.values()]
        return found

    def load_structure(self, structure: Mapping[str, Any]) -> None:
        """Restore the costs and choose the paths again.

        Raises:
            ValueError: the costs are of other pairs.
        """
        costs = structure.get("associator_cost", {})
        wanted = {f"{i}->{j}" for i, j in self.pairs}
        if set(costs) != wanted:
            raise ValueError(f"structure should have costs of {sorted(wanted)}, got {sorted(costs)}")
        self.edge_cost = {(i, j): float(costs[f"{i}->{j}"]) for i, j in self.pairs}
        self.kept_paths = {(path[0], path[-1]): tuple(path) for path in structure.get("kept_paths", [])}
        self.paths = cheapest_paths(self.edge_cost) | self.kept_paths


STEP_COST = 0.01
"""Cost of each hop in addition to its loss."""


def _key(source: str, target: str) -> str:
    return f"{source}_to_{target}"
