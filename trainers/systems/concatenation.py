"""The baseline without multimodal inference: a VAE per modality, and a classifier on their latents side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from trainers.fusion.gaussians import Gaussian
from trainers.modalities.network import ModalityNetwork
from trainers.objectives.svae import unimodal_loss
from trainers.systems.base import FusedTensors, LabelledWindows
from trainers.systems.variational import Variational, VariationalConfig


class ConcatenationConfig(VariationalConfig):
    """Settings of the concatenation baseline; ``latent_size`` is that of each modality."""

    name: Literal["concatenation"] = "concatenation"


class Concatenation(Variational):
    """Unimodal VAEs and logits W [p_1 r_1 z_1, …, p_M r_M z_M] + b: zeros where a modality is absent.

    Nothing relates the latents to each other, so it *cannot impute*: an absent modality's latent is the prior's mean,
    whatever is present. It shows what the shared and associated latents of the other systems are worth.

    Evidence of a modality is flat (mean, log variance) of q(z_i | x_i), (B, 2L); the posterior is that of every
    modality one after the other, N(0, I) where absent.
    """

    latent_kind = "associated"
    config: ConcatenationConfig

    def __init__(
        self, networks: Mapping[str, ModalityNetwork], classes: int, config: ConcatenationConfig
    ) -> None:
        super().__init__(networks, classes, config)
        size = config.latent_size
        self.heads = nn.ModuleDict({n: nn.Linear(net.hidden_size, 2 * size) for n, net in networks.items()})
        self.classifier = nn.Linear(len(self.names) * size, classes)

    def evidence_size(self, modality: str) -> int:
        """Mean and log variance of the modality's own latent."""
        return 2 * self.config.latent_size

    @property
    def posterior_size(self) -> int:
        """Mean and log variance of every modality's latent."""
        return len(self.names) * 2 * self.config.latent_size

    def encode(self, modality: str, window: Tensor) -> Tensor:
        """Raw windows -> flat (mean, log variance) of q(z_i | x_i)."""
        evidence: Tensor = self.heads[modality](self.network(modality).trunk(window))
        return evidence

    def experts(self, evidence: Mapping[str, Tensor]) -> Gaussian:
        """Every modality's own posterior, (B, M, L)."""
        return Gaussian.from_flat(torch.stack([evidence[n] for n in self.names], dim=1))

    def classify(
        self, experts: Gaussian, presence: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits (B, C) of what is present, side by side, scaled by reliability."""
        drawn = generator is not None and self.config.classify == "sample"
        latents = experts.sample(generator) if drawn else experts.mean
        weighted = (presence * self.reliability).unsqueeze(2) * latents
        logits: Tensor = self.classifier(weighted.flatten(1))
        return logits

    def fuse(self, evidence: Mapping[str, Tensor], presence: Tensor) -> FusedTensors:
        """Each modality's own latent where it is present, the prior's mean where it is not."""
        experts = self.experts(evidence)
        own = presence.unsqueeze(2)
        flat = own * experts.flat()
        means = own * experts.mean
        latents = {n: means[:, i] for i, n in enumerate(self.names)}
        return FusedTensors(self.classify(experts, presence), flat.flatten(1), latents)

    def sample_prior(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw from N(0, I) for every modality by itself: nothing makes them belong together."""
        shape = (count, self.config.latent_size)
        return {n: torch.randn(shape, generator=generator, device=generator.device) for n in self.names}

    def generative_terms(
        self, experts: Gaussian, batch: LabelledWindows, generator: torch.Generator, beta: float
    ) -> dict[str, Tensor]:
        """The negative ELBO of every modality by itself."""
        own = {n: Gaussian(experts.mean[:, i], experts.log_variance[:, i]) for i, n in enumerate(self.names)}
        nll = self.reconstruct(batch, {}, generator, alone=own)["alone"]
        return {
            f"unimodal_{n}": unimodal_loss(
                nll[:, i], q, batch.presence[:, i], beta=beta, free_bits=self.config.free_bits
            )
            for i, (n, q) in enumerate(own.items())
        }
