"""The adversaries of MMALI's encoders and decoders: a product of factors, or one network over everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trainers.fusion.gaussians import standard_normal_like
from trainers.modalities.critic import build_critic
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.mmali import (
    density_ratio_loss,
    discriminator_loss,
    factorized_logits,
    generator_loss,
    possible_classes,
)


@dataclass(frozen=True)
class Tuples:
    """One (X, S, c) per row from each of the M encoder distributions and from the decoder distribution.

    Attributes:
        presence: (B, M) of 0/1.
        measured: modality -> (B, *target_shape) in model units, zeros where it is absent.
        generated: modality -> (B, *target_shape), decoded from the drawn style and content, zeros likewise.
        styles: (B, M, S) samples of q(s_j|x_j).
        drawn_styles: (B, M, S) samples of p(s_j).
        contents: (M + 1, B, C): samples of q(c|x_i) in the modalities' order, then of p(c).
    """

    presence: Tensor
    measured: Mapping[str, Tensor]
    generated: Mapping[str, Tensor]
    styles: Tensor
    drawn_styles: Tensor
    contents: Tensor

    def style_stack(self) -> Tensor:
        """Styles of each tuple, (M + 1, B, M, S); those of absent modalities are zeros."""
        modalities = self.presence.shape[1]
        encoded = self.styles.unsqueeze(0).expand(modalities, -1, -1, -1)
        return torch.cat((encoded, self.drawn_styles.unsqueeze(0))) * self.presence.unsqueeze(-1)


class Discriminator(nn.Module, ABC):
    """Tells from which of the M + 1 distributions a tuple comes."""

    @abstractmethod
    def logits(self, tuples: Tuples) -> Tensor:
        """(M + 1, B, M + 1): tuples by origin, rows, classes."""

    @abstractmethod
    def learning_terms(self, tuples: Tuples, generator: torch.Generator) -> dict[str, Tensor]:
        """Its own loss on tuples without gradients, as terms to be summed."""

    @abstractmethod
    def playing_terms(self, tuples: Tuples, unimodal_weight: float) -> dict[str, Tensor]:
        """The loss of encoders and decoders, as terms to be summed."""


class FactorizedDiscriminator(Discriminator):
    """Two discriminators per modality on a common trunk, and one of the modalities' dependence (section 3.2).

    The softmax of a modality's u has M + 1 classes: its own q_j, p, and, with ``cross_content``, the tuples
    (x_j, s_j, c_k) that have another modality's content, as the authors' code has it; the factors would otherwise
    never have seen these. u_j is the logit of q_j less that of p.
    """

    def __init__(
        self,
        networks: Mapping[str, ModalityNetwork],
        style_size: int,
        content_size: int,
        size: int,
        *,
        cross_content: bool,
    ) -> None:
        super().__init__()
        self.names = tuple(networks)
        classes = len(self.names) + 1
        self.cross_content = cross_content
        self.critics = _critics(networks, size)
        self.style_size = style_size
        self.latents = nn.ModuleDict({n: _latent_layers(style_size + content_size, size) for n in self.names})
        self.pairs = nn.ModuleDict({n: _top_layers(2 * size, size, classes + 1) for n in self.names})
        self.contents = nn.ModuleDict({n: _latent_layers(content_size, size) for n in self.names})
        self.asked = nn.ModuleDict(
            {n: spectral_norm(nn.Linear(size, size * (classes + 1))) for n in self.names}
        )
        self.dependence_critics = _critics(networks, size)
        self.dependence_top = _top_layers(len(self.names) * (size + 1), size, 1)

    def pair_scores(self, name: str, data: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Scores t_j (K, B) and logits of u_j's softmax (K, B, M + 1).

        Args:
            name: of the modality.
            data: (K, B, H) features of its data.
            latents: (K, B, S + C) style and content.
        """
        scores = self.pairs[name](torch.cat((data, self.latents[name](latents)), dim=-1))
        asked = self.asked[name](data).unflatten(-1, (scores.shape[-1], -1))
        content = self.contents[name](latents[..., self.style_size :])
        scores = scores + (asked * content.unsqueeze(-2)).sum(dim=-1)
        return scores[..., 0], scores[..., 1:]

    def embeddings(self, data: Mapping[str, Tensor], presence: Tensor) -> Tensor:
        """Features of each modality for J, (B, M, H); zeros where it is absent."""
        found = torch.stack([self.dependence_critics[n](data[n]) for n in self.names], dim=1)
        return found * presence.unsqueeze(-1)

    def dependence(self, embeddings: Tensor, presence: Tensor) -> Tensor:
        """J = log q(X_T) / Π_{k∈T} q(x_k), (B,); exactly 0 for a single modality."""
        score: Tensor = self.dependence_top(torch.cat((embeddings.flatten(1), presence), dim=1)).squeeze(1)
        return score * (presence.sum(dim=1) >= 2).to(score.dtype)

    def _pair_features(self, name: str, tuples: Tuples) -> tuple[Tensor, Tensor]:
        """Features (M + 1, B, H) and latents (M + 1, B, S + C) of a modality's part of all tuples."""
        place, copies = self.names.index(name), len(self.names)
        measured = self.critics[name](tuples.measured[name])
        generated = self.critics[name](tuples.generated[name])
        features = torch.cat((measured.expand(copies, *measured.shape), generated.unsqueeze(0)))
        return features, torch.cat((tuples.style_stack()[:, :, place], tuples.contents), dim=-1)

    def _possible(self, name: str, presence: Tensor) -> Tensor:
        """Classes of u_j's softmax, (B, M + 1); none where the modality is absent."""
        place = self.names.index(name)
        if self.cross_content:
            return possible_classes(presence) * presence[:, place : place + 1]
        possible = torch.zeros_like(possible_classes(presence))
        possible[:, place] = possible[:, -1] = presence[:, place]
        return possible

    def _scores(self, tuples: Tuples) -> tuple[Tensor, Tensor, list[Tensor]]:
        """T and u of all tuples, (M + 1, B, M) each, and per modality the logits of u's softmax."""
        scores = [self.pair_scores(n, *self._pair_features(n, tuples)) for n in self.names]
        content_ratio = torch.stack([t for t, _ in scores], dim=-1)
        model_ratio = torch.stack([v[..., j] - v[..., -1] for j, (_, v) in enumerate(scores)], dim=-1)
        return content_ratio, model_ratio, [v for _, v in scores]

    def _joined(self, tuples: Tuples, content_ratio: Tensor, model_ratio: Tensor) -> Tensor:
        presence = tuples.presence
        measured = self.dependence(self.embeddings(tuples.measured, presence), presence)
        generated = self.dependence(self.embeddings(tuples.generated, presence), presence)
        dependence = torch.cat((measured.expand(len(self.names), -1), generated.unsqueeze(0)))
        return factorized_logits(content_ratio, model_ratio, dependence, presence)

    def logits(self, tuples: Tuples) -> Tensor:
        """Eq. 6 with eq. 10."""
        content_ratio, model_ratio, _ = self._scores(tuples)
        return self._joined(tuples, content_ratio, model_ratio)

    def learning_terms(self, tuples: Tuples, generator: torch.Generator) -> dict[str, Tensor]:
        """Each factor learns its own ratio; rows with a single modality train its pair as well as complete rows do."""
        terms, presence = {}, tuples.presence
        for j, name in enumerate(self.names):
            features, latents = self._pair_features(name, tuples)
            content = standard_normal_like(tuples.contents[-1], generator)
            independent = torch.cat((latents[j, :, : tuples.styles.shape[-1]], content), dim=-1)
            content_ratio, logits = self.pair_scores(
                name,
                torch.cat((features, features[j : j + 1])),
                torch.cat((latents, independent.unsqueeze(0))),
            )
            terms[f"content_{name}"] = density_ratio_loss(content_ratio[j], content_ratio[-1], presence[:, j])
            terms[f"model_{name}"] = discriminator_loss(logits[:-1], self._possible(name, presence))
        together = self.embeddings(tuples.measured, presence)
        rows = _unpaired_rows(presence, generator)
        apart = torch.stack([together[rows[:, j], j] for j in range(len(self.names))], dim=1)
        terms["dependence"] = density_ratio_loss(
            self.dependence(together, presence),
            self.dependence(apart * presence.unsqueeze(-1), presence),
            (presence.sum(dim=1) >= 2).to(presence.dtype),
        )
        return terms

    def playing_terms(self, tuples: Tuples, unimodal_weight: float) -> dict[str, Tensor]:
        """The game of eq. 4 with the factors put together, and each modality's own game against its u_j."""
        content_ratio, model_ratio, logits = self._scores(tuples)
        presence = tuples.presence
        joined = self._joined(tuples, content_ratio, model_ratio)
        terms = {"aligned": generator_loss(joined, possible_classes(presence))}
        if unimodal_weight:
            for name, found in zip(self.names, logits, strict=True):
                terms[f"unimodal_{name}"] = unimodal_weight * generator_loss(
                    found, self._possible(name, presence)
                )
        return terms


class JointDiscriminator(Discriminator):
    """One network over X, S and c with M + 1 outputs, with which the paper compares the factorized one.

    It learns from rows with two modalities or more; absent modalities enter as zeros, together with the mask.
    """

    def __init__(
        self, networks: Mapping[str, ModalityNetwork], style_size: int, content_size: int, size: int
    ) -> None:
        super().__init__()
        self.names = tuple(networks)
        modalities = len(self.names)
        self.critics = _critics(networks, size)
        self.latents = _latent_layers(modalities * style_size + content_size, size)
        self.top = _top_layers(
            (modalities + 1) * size + modalities, 2 * size, modalities + 1, hidden_layers=2
        )

    def _features(self, data: Mapping[str, Tensor], presence: Tensor) -> Tensor:
        found = torch.stack([self.critics[n](data[n]) for n in self.names], dim=1)
        return torch.cat(((found * presence.unsqueeze(-1)).flatten(1), presence), dim=1)

    def logits(self, tuples: Tuples) -> Tensor:
        """All of a tuple through one network."""
        measured = self._features(tuples.measured, tuples.presence)
        generated = self._features(tuples.generated, tuples.presence)
        features = torch.cat((measured.expand(len(self.names), *measured.shape), generated.unsqueeze(0)))
        latents = self.latents(torch.cat((tuples.style_stack().flatten(2), tuples.contents), dim=-1))
        scores: Tensor = self.top(torch.cat((features, latents), dim=-1))
        return scores

    def learning_terms(self, tuples: Tuples, generator: torch.Generator) -> dict[str, Tensor]:
        """The cross entropy of eq. 4."""
        return {"joint": discriminator_loss(self.logits(tuples), _paired_classes(tuples.presence))}

    def playing_terms(self, tuples: Tuples, unimodal_weight: float) -> dict[str, Tensor]:
        """The game of eq. 4; there is nothing unimodal to play against."""
        return {"aligned": generator_loss(self.logits(tuples), _paired_classes(tuples.presence))}


def _paired_classes(presence: Tensor) -> Tensor:
    paired = (presence.sum(dim=1, keepdim=True) >= 2).to(presence.dtype)
    return possible_classes(presence) * paired


def _unpaired_rows(presence: Tensor, generator: torch.Generator) -> Tensor:
    """For every row and modality a row drawn among those that have the modality, (B, M): samples of Π_k q(x_k)."""
    rows, modalities = presence.shape
    scores = torch.rand((rows, rows, modalities), generator=generator, device=presence.device)
    return (scores * presence.unsqueeze(0)).argmax(dim=1)


def _critics(networks: Mapping[str, ModalityNetwork], size: int) -> nn.ModuleDict:
    return nn.ModuleDict({n: build_critic(network.target_shape, size) for n, network in networks.items()})


def _latent_layers(latent_size: int, size: int) -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Linear(latent_size, size)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(size, size)),
        nn.LeakyReLU(0.2),
    )


def _top_layers(given: int, size: int, outputs: int, *, hidden_layers: int = 1) -> nn.Module:
    layers: list[nn.Module] = []
    for number in range(hidden_layers):
        layers += [spectral_norm(nn.Linear(given if number == 0 else size, size)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Linear(size, outputs)))
