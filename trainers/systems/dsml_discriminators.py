"""The adversaries of DSML's generators, encoders and classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trainers.modalities.critic import build_critic
from trainers.modalities.network import ModalityNetwork


@dataclass(frozen=True)
class Tuples:
    """The inputs of the games: a batch and one draw of (c, z) per row.

    Attributes:
        presence: (B, M) of 0/1.
        labelled: (B,) of 0/1.
        measured: modality -> (B, *target_shape) in model units; anything finite where absent.
        generated: modality -> (B, *target_shape) = G(c, z) of the drawn class and style.
        imputed: modality -> (B, *target_shape) = G of class and style from a row's other modalities; empty with one
            modality.
        styles: modality -> (B, L) = E(x).
        beliefs: modality -> (B, C) = softmax C(x).
        labels: (B, C) one-hot; anything where not labelled.
        drawn_style: (B, L) z.
        drawn_class: (B, C) c, one-hot.
    """

    presence: Tensor
    labelled: Tensor
    measured: Mapping[str, Tensor]
    generated: Mapping[str, Tensor]
    imputed: Mapping[str, Tensor]
    styles: Mapping[str, Tensor]
    beliefs: Mapping[str, Tensor]
    labels: Tensor
    drawn_style: Tensor
    drawn_class: Tensor


@dataclass(frozen=True)
class Game:
    """One discriminator's logits for its K kinds of tuples.

    Attributes:
        logits: (K, B, K).
        weight: (K, B) of 0/1, tuples that exist.
        generated_kinds: kinds in which something was generated or inferred.
    """

    logits: Tensor
    weight: Tensor
    generated_kinds: tuple[int, ...]


class Discriminators(nn.Module):
    """D_xz (2 kinds) and D_xc (3 kinds) of every modality, and one D_xy (M + 2 kinds) over all of them.

    The discriminators of a modality share one critic on its data and differ only in the layers after it, as the paper
    says of its softmax: shared except for the top.

    Kinds of D_xy: all measured, all generated, and for every modality that one fake and the others measured. The fake
    one is imputed from the others, G_x(C_y(y), E_y(y)): the paper's definition is in an appendix that is not available,
    but eq. 5 is minimised over encoders and classifiers too. A row that lacks one modality gives that kind as well.
    """

    def __init__(
        self, networks: Mapping[str, ModalityNetwork], style_size: int, classes: int, size: int
    ) -> None:
        super().__init__()
        self.names = tuple(networks)
        self.critics = nn.ModuleDict(
            {n: build_critic(network.target_shape, size) for n, network in networks.items()}
        )
        self.style_layers = nn.ModuleDict({n: _code_layers(style_size, size) for n in self.names})
        self.class_layers = nn.ModuleDict({n: _code_layers(classes, size) for n in self.names})
        self.style_tops = nn.ModuleDict({n: _top_layers(2 * size, size, 2) for n in self.names})
        self.class_tops = nn.ModuleDict({n: _top_layers(2 * size, size, 3) for n in self.names})
        self.joint_top = _top_layers(len(self.names) * size, 2 * size, len(self.names) + 2)

    def style_game(self, name: str, measured: Tensor, generated: Tensor, tuples: Tuples) -> Game:
        """L_xz: (G(c, z), z) and (x, E(x)). ``measured`` and ``generated`` are (B, H) features."""
        there = tuples.presence[:, self.names.index(name)]
        codes = self.style_layers[name](torch.stack((tuples.drawn_style, tuples.styles[name])))
        logits = self.style_tops[name](torch.cat((torch.stack((generated, measured)), codes), dim=-1))
        return Game(logits, torch.stack((_if_any(there), there)), (0, 1))

    def class_game(self, name: str, measured: Tensor, generated: Tensor, tuples: Tuples) -> Game:
        """L_xc: (G(c, z), c), (x, C(x)) and (x, real c). ``measured`` and ``generated`` are (B, H) features."""
        there = tuples.presence[:, self.names.index(name)]
        codes = torch.stack((tuples.drawn_class, tuples.beliefs[name], tuples.labels))
        features = torch.stack((generated, measured, measured))
        logits = self.class_tops[name](torch.cat((features, self.class_layers[name](codes)), dim=-1))
        return Game(logits, torch.stack((_if_any(there), there, there * tuples.labelled)), (0, 1))

    def joint_game(
        self,
        measured: Mapping[str, Tensor],
        generated: Mapping[str, Tensor],
        imputed: Mapping[str, Tensor],
        tuples: Tuples,
    ) -> Game:
        """L_xy over all modalities; arguments are (B, H) features by modality."""
        presence = tuples.presence
        real = torch.stack([measured[n] for n in self.names], dim=1)
        fake = torch.stack([generated[n] for n in self.names], dim=1)
        kinds, weights = [real, fake], [presence.amin(dim=1), _if_any(presence.amin(dim=1))]
        for j, name in enumerate(self.names):
            mixed = [imputed[n] if n == name else measured[n] for n in self.names]
            kinds.append(torch.stack(mixed, dim=1))
            others = torch.cat((presence[:, :j], presence[:, j + 1 :]), dim=1)
            weights.append(others.amin(dim=1))
        logits = self.joint_top(torch.stack(kinds).flatten(2))
        return Game(logits, torch.stack(weights), tuple(range(1, len(kinds))))

    def games(self, tuples: Tuples) -> dict[str, Game]:
        """All games: ``style_<m>``, ``class_<m>`` and, with two modalities or more, ``joint``."""
        found, features = {}, []
        rows = len(tuples.presence)
        for name in self.names:
            images = [tuples.measured[name], tuples.generated[name]]
            images += [tuples.imputed[name]] if tuples.imputed else []
            parts = self.critics[name](torch.cat(images)).split(rows)
            found[f"style_{name}"] = self.style_game(name, parts[0], parts[1], tuples)
            found[f"class_{name}"] = self.class_game(name, parts[0], parts[1], tuples)
            features.append(parts)
        if tuples.imputed:
            kinds = [dict(zip(self.names, part, strict=True)) for part in zip(*features, strict=True)]
            found["joint"] = self.joint_game(kinds[0], kinds[1], kinds[2], tuples)
        return found


def _if_any(there: Tensor) -> Tensor:
    """Ones if any row has the modality, else zeros: without measured rows to compare with, there is no game."""
    return torch.ones_like(there) * there.amax()


def _code_layers(given: int, size: int) -> nn.Module:
    return nn.Sequential(spectral_norm(nn.Linear(given, size)), nn.LeakyReLU(0.2))


def _top_layers(given: int, size: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Linear(given, size)), nn.LeakyReLU(0.2), spectral_norm(nn.Linear(size, outputs))
    )
