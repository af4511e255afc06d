"""Parts of the networks for rgb and depth: a convolutional trunk, a decoder, and random geometry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageTrunk(nn.Module):
    """Overlapping 6x6 patches every 4 pixels, three convolutions of which two halve, then one linear layer.

    (B, C, S, S) -> (B, hidden_size); S must be a multiple of 16.
    """

    def __init__(self, channels: int, size: int, hidden_size: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_stage(nn.Conv2d(channels, 32, 6, stride=4, padding=1, bias=False)),
            *_stage(nn.Conv2d(32, 48, 3, stride=1, padding=1, bias=False)),
            *_stage(nn.Conv2d(48, 64, 3, stride=2, padding=1, bias=False)),
            *_stage(nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)),
        )
        self.summary = nn.Sequential(nn.Linear(64 * (size // 16) ** 2, hidden_size), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        """Encode (B, C, S, S) to (B, hidden_size)."""
        return self.summary(self.convolutions(image).flatten(1))


class ImageDecoder(nn.Module):
    """Two linear layers to an 8-fold smaller image, one transposed convolution, then 4x4 patches.

    (B, latent_size) -> (B, C, S, S), unbounded; S must be a multiple of 16. The last convolution runs at a quarter of
    the resolution and gives 16 values per channel and place, laid out as a patch: several times cheaper than
    convolutions at full size, and on small sets as good. No squashing at the end: with mostly black images a
    sigmoid saturates within the first steps and never learns again.
    """

    def __init__(self, latent_size: int, channels: int, size: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Linear(latent_size, 128),
            nn.ReLU(),
            nn.Linear(128, 48 * (size // 8) ** 2),
            nn.ReLU(),
            nn.Unflatten(1, (48, size // 8, size // 8)),
            nn.Conv2d(48, 32, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16 * channels, 4, stride=2, padding=1),
            nn.PixelShuffle(4),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Decode (B, latent_size) to (B, C, S, S)."""
        return self.convolutions(latent)


def _stage(convolution: nn.Conv2d) -> tuple[nn.Module, nn.Module, nn.Module]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()


def uniform(generator: torch.Generator, like: Tensor, low: float, high: float, *trailing: int) -> Tensor:
    """Draw (B, *trailing) uniform numbers in [low, high) on the device of ``like``, B being its batch size."""
    drawn = torch.rand((like.shape[0], *trailing), generator=generator, device=generator.device)
    return (low + (high - low) * drawn).to(like.device)


def normal_strips(generator: torch.Generator, like: Tensor, count: int) -> Tensor:
    """Standard normal noise (B, count): each row is a stretch of one strip, from a random place.

    Drawing as many numbers as there are samples in a batch of sound would cost more than the rest of a distortion;
    rows overlap, at offsets that no network can make use of.
    """
    strip = torch.randn(2 * count, generator=generator, device=generator.device)
    starts = torch.randint(count, (like.shape[0],), generator=generator, device=generator.device)
    return strip.unfold(0, count, 1)[starts].to(like.device)


def random_geometry(
    window: Tensor,
    generator: torch.Generator,
    *,
    shift: float = 0.12,
    scale: float = 0.12,
    turn: float = 0.15,
) -> Tensor:
    """Draw one affine map per row: (B, 2, 3) for ``torch.nn.functional.affine_grid``.

    Args:
        window: its first axis gives the batch size.
        generator: source of randomness; exactly four draws of (B,) are made.
        shift: largest shift as a share of half the image.
        scale: largest relative change of size.
        turn: largest rotation in radians.
    """
    angle = uniform(generator, window, -turn, turn)
    factor = torch.exp(uniform(generator, window, -scale, scale))
    across = uniform(generator, window, -shift, shift)
    down = uniform(generator, window, -shift, shift)
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    return torch.stack([cosine, -sine, across, sine, cosine, down], 1).unflatten(1, (2, 3))


def apply_geometry(image: Tensor, geometry: Tensor, mode: str) -> Tensor:
    """Move (B, C, S, S) images by (B, 2, 3) affine maps.

    Places outside the image repeat its edge; if they were black, decoders would learn a dark frame around everything.
    """
    grid = F.affine_grid(geometry, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


def random_boxes(
    window: Tensor, generator: torch.Generator, size: int, *, largest: float, chance: float
) -> Tensor:
    """Draw one box per row as a (B, 1, S, S) mask: 1 inside, 0 outside; rows without a box are all 0.

    Args:
        window: its first axis gives the batch size.
        generator: source of randomness.
        size: S.
        largest: largest side as a share of S.
        chance: probability that a row gets a box.
    """
    sides = uniform(generator, window, 0.1 * largest, largest, 2) * size
    corner = uniform(generator, window, 0.0, 1.0, 2) * (size - sides)
    drawn = uniform(generator, window, 0.0, 1.0) < chance
    place = torch.arange(size, device=window.device)
    inside = (place >= corner[..., None]) & (place < (corner + sides)[..., None])
    return (
        (inside[:, 0, :, None] & inside[:, 1, None, :] & drawn[:, None, None]).unsqueeze(1).to(window.dtype)
    )
