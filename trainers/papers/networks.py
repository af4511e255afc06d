"""Networks for the small grey images of the papers, which are modalities like any other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.network import ModalityNetwork, WindowSpec

LAPLACE_SCALE = 0.75
"""Of intensities of 0..1, in MMVAE's public code."""


@dataclass(frozen=True)
class ImageSpec:
    """A grey image of any size as a modality; what a network needs to know of its "sensor"."""

    name: str
    sample_shape: tuple[int, ...]
    kind: str = "grey"
    rate_hz: float = 1.0
    window: int = 1


class GreyImageNetwork(ModalityNetwork):
    """(H, W) uint8 images in, (1, H, W) intensities in 0..1 in model units.

    The trunk and the decoder are two linear layers each (``mlp``), or strided convolutions and their transposes
    (``convolutions``, H and W multiples of 4).

    With the Bernoulli likelihood, which the papers use, -log p(x|z) is the binary cross entropy of intensities, summed
    over pixels, and :meth:`decode` gives probabilities. With the Laplace likelihood, MMVAE's, it is
    |x − μ| / 0.75 + log 1.5 summed over pixels, with μ in 0..1 likewise.
    """

    def __init__(
        self,
        spec: WindowSpec,
        latent_size: int,
        hidden_size: int = 400,
        *,
        body: Literal["mlp", "convolutions"] = "mlp",
        likelihood: Literal["bernoulli", "gaussian", "laplace"] = "bernoulli",
    ) -> None:
        """Build the network.

        Args:
            spec: a (H, W) sample shape and a window of 1.
            latent_size: size of the latent that the decoder takes.
            hidden_size: size of what the trunk returns.
            body: kind of trunk and decoder.
            likelihood: of pixels.

        Raises:
            ValueError: a shape that is not (H, W), or that the convolutions cannot halve twice.
        """
        super().__init__(spec, latent_size, hidden_size)
        if len(spec.sample_shape) != 2 or spec.window != 1:
            raise ValueError(
                f"modality {spec.name!r}: expected a window of 1 image of shape (H, W), got window {spec.window} and "
                f"{spec.sample_shape}"
            )
        height, width = spec.sample_shape
        self.window_shape = self.observation_shape = (height, width)
        self.target_shape = (1, height, width)
        self.observation_unit = "intensity"
        self.noise_scale, self.effective_size = 0.1, 50.0
        self.likelihood = likelihood
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        if body == "mlp":
            self.encoder, self.decoder = _linear_layers(height, width, latent_size, hidden_size)
        else:
            self.encoder, self.decoder = _convolutions(height, width, latent_size, hidden_size, spec.name)

    def features(self, window: Tensor) -> Tensor:
        """(B, H, W) 0..255 -> (B, 1, H, W) 0..1."""
        return window.unsqueeze(1) / 255.0

    def trunk(self, window: Tensor) -> Tensor:
        """(B, H, W) 0..255 -> (B, hidden_size)."""
        return self.encoder(self.features(window))

    def target(self, window: Tensor) -> Tensor:
        """(B, H, W) 0..255 -> (B, 1, H, W) 0..1."""
        return self.features(window)

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 1, H, W), unbounded; logits under the Bernoulli likelihood."""
        return self.decoder(latent).view(-1, *self.target_shape)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 1, H, W) in 0..1, or unbounded around the mean target (Gaussian)."""
        if self.likelihood != "gaussian":
            return torch.sigmoid(self._starting_logits() + self.deviation(latent))
        return super().decode(latent)

    def _starting_logits(self) -> Tensor:
        # 0.5 if no mean target was set, so that decoding starts from logits of 0.
        mean = torch.where(
            self.target_mean.amax() > 0, self.target_mean, torch.full_like(self.target_mean, 0.5)
        )
        return torch.logit(mean, eps=0.01)

    def reconstruction_nll(self, decoded: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """-log p(x|z), (B,) in nats."""
        if self.likelihood == "gaussian":
            return super().reconstruction_nll(decoded, target, weight)
        if self.likelihood == "laplace":
            distance = (decoded - target).abs() / LAPLACE_SCALE + math.log(2 * LAPLACE_SCALE)
            return (weight * distance).flatten(1).sum(1)
        # Clamped where float32 cannot tell a probability from 1, because ``decode`` hides the logits.
        probability = decoded.clamp(1e-6, 1 - 1e-6)
        nll = F.binary_cross_entropy(probability, target, reduction="none")
        return (weight * nll).flatten(1).sum(1)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, 1, H, W) 0..1 -> (B, H, W) 0..255."""
        return decoded.clamp(0.0, 1.0).squeeze(1) * 255.0

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """The windows as they are: the papers do not augment."""
        return window


def _linear_layers(height: int, width: int, latent: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    pixels = height * width
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU())
    decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
    return encoder, decoder


def _convolutions(
    height: int, width: int, latent: int, hidden: int, name: str
) -> tuple[nn.Module, nn.Module]:
    if height % 4 or width % 4:
        raise ValueError(
            f"modality {name!r}: convolutions need sides that are multiples of 4, got {(height, width)}; use body='mlp'"
        )
    small = (64, height // 4, width // 4)
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(math.prod(small), hidden), nn.ReLU(),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, math.prod(small)), nn.ReLU(), nn.Unflatten(1, small),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
    )  # fmt: skip
    return encoder, decoder
