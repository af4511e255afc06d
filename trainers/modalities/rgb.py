"""RGB frames: (S, S, 3) intensities 0..255."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.modalities.images import (
    ImageDecoder,
    ImageTrunk,
    apply_geometry,
    normal_strips,
    random_boxes,
    random_geometry,
    uniform,
)
from trainers.modalities.network import ModalityNetwork, WindowSpec


class RgbNetwork(ModalityNetwork):
    """A frame in, a frame out. Model units are intensities in 0..1, channels first: (3, S, S)."""

    def __init__(self, spec: WindowSpec, latent_size: int, hidden_size: int = 128) -> None:
        super().__init__(spec, latent_size, hidden_size)
        size = square_side(spec, (3,))
        self.window_shape = self.observation_shape = (size, size, 3)
        self.target_shape = (3, size, size)
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        self.observation_unit = "intensity"
        self.noise_scale = 0.1
        self.effective_size = 200.0
        self.encoder = ImageTrunk(3, size, hidden_size)
        self.decoder = ImageDecoder(latent_size, 3, size)

    def features(self, window: Tensor) -> Tensor:
        """(B, S, S, 3) 0..255 -> (B, 3, S, S): each channel about its own mean, all in units of their spread.

        That takes the colour of light and ground and the exposure out, which otherwise are most of what differs
        between two pictures of the same thing.
        """
        image = self.target(window)
        centred = image - image.mean((2, 3), keepdim=True)
        return centred / (centred.square().mean((1, 2, 3), keepdim=True).sqrt() + 0.05)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, S, S, 3) 0..255 -> (B, hidden_size)."""
        return self.encoder(self.features(window))

    def target(self, window: Tensor) -> Tensor:
        """(B, S, S, 3) 0..255 -> (B, 3, S, S) 0..1."""
        return window.permute(0, 3, 1, 2) / 255.0

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 3, S, S) ; not clamped to 0..1."""
        return self.decoder(latent)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, 3, S, S) 0..1 -> (B, S, S, 3) 0..255."""
        return decoded.clamp(0.0, 1.0).permute(0, 2, 3, 1) * 255.0

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Shift, scale, turn, then light and colour, a missing box, and sensor noise."""
        image = apply_geometry(window.permute(0, 3, 1, 2), random_geometry(window, generator), "bilinear")
        gain = torch.exp(uniform(generator, window, -0.3, 0.3, 1) + uniform(generator, window, -0.1, 0.1, 3))
        gamma = torch.exp(uniform(generator, window, -0.2, 0.2, 1, 1, 1))
        image = 255.0 * (image / 255.0).clamp(0.0, 1.0).pow(gamma) * gain[..., None, None]
        image = image * (1.0 - random_boxes(window, generator, image.shape[-1], largest=0.35, chance=0.3))
        noise = normal_strips(generator, window, image[0].numel()).view_as(image)
        image = image + noise * uniform(generator, window, 0.0, 6.0, 1, 1, 1)
        return image.clamp(0.0, 255.0).permute(0, 2, 3, 1)


def square_side(spec: WindowSpec, trailing: tuple[int, ...]) -> int:
    """The side S of frames of shape (S, S, *trailing).

    Raises:
        ValueError: the frames are not square, not a multiple of 16, or the window is not one frame.
    """
    shape = tuple(spec.sample_shape)
    square = len(shape) == 2 + len(trailing) and shape[0] == shape[1] and shape[2:] == trailing
    if not square or shape[0] < 16 or shape[0] % 16 or spec.window != 1:
        wanted = ", ".join(("S", "S", *map(str, trailing)))
        raise ValueError(
            f"modality {spec.name!r} ({spec.kind}): expected a window of 1 frame of shape ({wanted}) with S a multiple "
            f"of 16, got window {spec.window} and sample_shape {shape}"
        )
    return shape[0]
