"""Depth frames: (S, S) millimetres, 0 where there is no reading."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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
from trainers.modalities.rgb import square_side

FARTHEST_MM = 4000.0
"""Readings are clipped at this distance, beyond which structured-light sensors do not measure."""
NEAREST_MM = 200.0
PIXEL_MM = 4.0
"""Nominal width of a pixel, for turning slopes into normals: crops are not calibrated."""
FILLED_WEIGHT = 0.2
"""Weight of a filled pixel in the likelihood: enough to anchor the decoder there."""


def fill_holes(depth: Tensor, valid: Tensor, size: int) -> Tensor:
    """Give every pixel without a reading the mean of the nearest readings, coarse to fine.

    Readings are averaged over 2x2 blocks for as long as the side is even (pull); then every level takes its own mean
    where it has one and its parent's where it has none (push), beginning with the mean of the whole frame.
    Static shapes only, so it exports as it is.

    Args:
        depth: (B, 1, size, size), anything finite where not valid.
        valid: (B, 1, size, size) 1 where there is a reading, 0 elsewhere.
        size: side of the frame; a number, so that tracing sees a constant.

    Returns:
        (B, 1, size, size): ``depth`` where valid, filled elsewhere; 0 everywhere in a frame without readings.
    """
    means, weights = [depth * valid], [valid]
    while size % 2 == 0 and size > 1:
        share = F.avg_pool2d(weights[-1], 2)
        means.append(F.avg_pool2d(means[-1] * weights[-1], 2) / share.clamp_min(1e-6))
        weights.append((share > 0).to(depth.dtype))
        size //= 2
    total = (means[-1] * weights[-1]).sum((2, 3), keepdim=True)
    filled = total / weights[-1].sum((2, 3), keepdim=True).clamp_min(1e-6)
    for level in reversed(range(len(means))):
        filled = weights[level] * means[level] + (1.0 - weights[level]) * filled
        if level:
            filled = F.interpolate(filled, scale_factor=2.0, mode="nearest")
    return filled


class DepthNetwork(ModalityNetwork):
    """A depth frame in, a hole-filled depth frame out.

    Model units are ``ln(mm / 1000)``, shape (1, S, S): relative errors count alike at all ranges, as the sensor's own
    noise does, and the hand's relief is not drowned by the step to the background as it is in mm. The encoder
    sees inverse depth relative to the nearest surface, absolute inverse depth, surface normals and validity.
    """

    def __init__(self, spec: WindowSpec, latent_size: int, hidden_size: int = 128) -> None:
        super().__init__(spec, latent_size, hidden_size)
        size = square_side(spec, ())
        self.window_shape = self.observation_shape = (size, size)
        self.target_shape = (1, size, size)
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        self.observation_unit = "mm"
        self.noise_scale = 0.15
        self.effective_size = 200.0
        self.encoder = ImageTrunk(6, size, hidden_size)
        self.decoder = ImageDecoder(latent_size, 1, size)

    def _filled(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Hole-filled metres and validity, both (B, 1, S, S)."""
        metres = window.unsqueeze(1).clamp(0.0, FARTHEST_MM) / 1000.0
        valid = (metres >= NEAREST_MM / 1000.0).to(metres.dtype)
        filled = fill_holes(metres, valid, self.window_shape[0])
        # A frame without any reading is far away everywhere, not at zero distance.
        empty = 1.0 - valid.amax((1, 2, 3), keepdim=True)
        return filled + empty * FARTHEST_MM / 1000.0, valid

    def features(self, window: Tensor) -> Tensor:
        """(B, S, S) mm -> (B, 6, S, S): relative and absolute inverse depth, normal x, y, z, validity."""
        filled, valid = self._filled(window)
        # The nearest surface, from 4x4 means so that a single stray reading does not move it.
        nearest = F.avg_pool2d(filled, 4).amin((2, 3), keepdim=True)
        padded = F.pad(filled, (1, 1, 1, 1), mode="replicate") * (1000.0 / PIXEL_MM / 2.0)
        slope_x = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
        slope_y = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
        normal_z = torch.rsqrt(1.0 + slope_x.square() + slope_y.square())
        relative = nearest / filled
        channels = [
            2.0 * relative - 1.0,
            1.0 / filled - 1.0,
            -slope_x * normal_z,
            -slope_y * normal_z,
            normal_z,
            valid,
        ]
        return torch.cat(channels, 1)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, S, S) mm -> (B, hidden_size)."""
        return self.encoder(self.features(window))

    def target(self, window: Tensor) -> Tensor:
        """(B, S, S) mm -> (B, 1, S, S): ln of hole-filled metres."""
        return torch.log(self._filled(window)[0])

    def target_weight(self, window: Tensor) -> Tensor:
        """1 where there was a reading, FILLED_WEIGHT where the hole was filled: (B, 1, S, S)."""
        return FILLED_WEIGHT + (1.0 - FILLED_WEIGHT) * self._filled(window)[1]

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, 1, S, S): ln of metres."""
        return self.decoder(latent)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, 1, S, S) ln metres -> (B, S, S) mm, within the sensor's range."""
        return (1000.0 * torch.exp(decoded)).clamp(NEAREST_MM, FARTHEST_MM).squeeze(1)

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Shift, scale, turn, then distance, noise that grows with distance, and holes."""
        image = apply_geometry(window.unsqueeze(1), random_geometry(window, generator), "nearest")
        valid = (image > 0).to(image.dtype)
        offset = uniform(generator, window, -60.0, 60.0, 1, 1, 1)
        noise = normal_strips(generator, window, image[0].numel()).view_as(image)
        image = image + offset + noise * 3.0 * (image / 1000.0).square()
        holes = random_boxes(window, generator, image.shape[-1], largest=0.3, chance=0.3)
        specks = torch.rand(image.shape, generator=generator, device=generator.device).to(image.device)
        kept = (specks > uniform(generator, window, -0.05, 0.05, 1, 1, 1)).to(image.dtype)
        return (image.clamp(1.0, 65535.0) * valid * (1.0 - holes) * kept).squeeze(1)
