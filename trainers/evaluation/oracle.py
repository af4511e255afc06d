"""The oracle: a classifier of small grey images that names what a generated image shows.

The papers measure coherence with classifiers trained beforehand. Ours is trained only on measured images of the
training split and frozen in evaluation mode, because batch statistics of generated images would change its answers.
Report its own accuracy on measured test images beside every coherence: it is the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from trainers.evaluation.judge import affine_grid, one_thread
from trainers.evaluation.supervised import predict, train_classifier

Images = npt.NDArray[Any] | Tensor
"""(N, H, W) uint8 of 0..255, or (N, H, W) or (N, 1, H, W) floating point of 0..1."""

BATCH = 100
STEPS = 1200
SEED = 0x4F5241
"""Mixed into every oracle's seed, so that it never draws the same numbers as a trainer with the same seed."""


def as_images(images: Images) -> Tensor:
    """Images as (N, 1, H, W) float32 of 0..1.

    Raises:
        ValueError: another shape, integers other than uint8, or floating point that is not of 0..1.
    """
    tensor = (
        images.detach().cpu()
        if isinstance(images, Tensor)
        else torch.from_numpy(np.ascontiguousarray(images))
    )
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    if tensor.ndim != 4 or tensor.shape[1] != 1:
        raise ValueError(f"expected grey images (N, H, W) or (N, 1, H, W), got {tuple(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return tensor.float() / 255.0
    if not tensor.is_floating_point():
        raise ValueError(f"expected uint8 of 0..255 or floating point of 0..1, got {tensor.dtype}")
    if tensor.numel() and not (tensor.min() >= -0.01 and tensor.max() <= 1.01):
        raise ValueError(
            f"expected intensities of 0..1, got {float(tensor.min()):g}..{float(tensor.max()):g}; divide by their scale"
        )
    return tensor.float()


class OracleNetwork(nn.Module):
    """Three strided convolutions with batch norm, and a classifier: (B, 1, H, W) in 0..1 -> (B, classes) logits."""

    def __init__(self, height: int, width: int, classes: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 1
        for channels, kernel in ((32, 5), (64, 3), (128, 3)):
            stages += [
                nn.Conv2d(before, channels, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            before = channels
        size = before * -(-height // 8) * -(-width // 8)
        self.network = nn.Sequential(*stages, nn.Flatten(), nn.Dropout(0.3), nn.Linear(size, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, 1, H, W) in 0..1."""
        logits: Tensor = self.network(4.0 * images - 1.0)
        return logits


@dataclass(frozen=True)
class Oracle:
    """A frozen classifier of images.

    Attributes:
        network: in evaluation mode, without gradients.
        image_shape: (H, W) that it takes.
        classes: number of classes.
    """

    network: OracleNetwork
    image_shape: tuple[int, int]
    classes: int

    def predict(self, images: Images) -> npt.NDArray[np.int64]:
        """Class numbers (N,) of images.

        Raises:
            ValueError: images of another size than it learned from.
        """
        given = as_images(images)
        if tuple(given.shape[2:]) != self.image_shape:
            raise ValueError(f"this oracle reads images of {self.image_shape}, got {tuple(given.shape[2:])}")
        with one_thread():
            named: npt.NDArray[np.int64] = predict(self.network, given).numpy()
        return named

    def accuracy(self, images: Images, labels: npt.NDArray[np.integer]) -> float:
        """Share of images that it gives their label; on measured test images, its ceiling."""
        return float((self.predict(images) == np.asarray(labels)).mean())


def train_oracle(
    images: Images,
    labels: npt.NDArray[np.integer],
    classes: int,
    *,
    seed: int,
    steps: int = STEPS,
    progress: Callable[[int, float], None] | None = None,
) -> Oracle:
    """Train an oracle on measured images, lightly turned, moved and stretched; torch's own generator is left alone.

    Args:
        images: of the training split.
        labels: (N,) in 0 .. classes - 1.
        classes: number of classes.
        seed: of weights, batches and augmentation.
        steps: gradient steps of 100 images.
        progress: called after each step with its number from 1 and its loss.

    Raises:
        ValueError: no images, or another number of labels.
    """
    data, truth = as_images(images), torch.from_numpy(np.asarray(labels, np.int64))
    if len(data) == 0 or len(truth) != len(data):
        raise ValueError(f"an oracle needs images with labels, got {len(data)} and {len(truth)}")
    generator = torch.Generator().manual_seed(seed ^ SEED)
    order = torch.empty(0, dtype=torch.int64)

    def draw() -> tuple[Tensor, Tensor]:
        nonlocal order
        while len(order) < min(BATCH, len(data)):
            order = torch.cat([order, torch.randperm(len(data), generator=generator)])
        rows, order = order[:BATCH], order[BATCH:]
        return _augmented(data[rows], generator), truth[rows]

    height, width = int(data.shape[2]), int(data.shape[3])
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed ^ SEED)
        network = OracleNetwork(height, width, classes)
        train_classifier(network, draw, steps=steps, learning_rate=3e-3, progress=progress)
    return Oracle(network.requires_grad_(False), (height, width), classes)


def load_or_train_oracle(
    folder: Path,
    images: Images,
    labels: npt.NDArray[np.integer],
    classes: int,
    *,
    seed: int,
    steps: int = STEPS,
    progress: Callable[[int, float], None] | None = None,
) -> Oracle:
    """The oracle saved in a folder if it is the one asked for, else a new one that is saved there.

    Arms of a table that are measured by one oracle share it this way, whichever process comes first.

    Args:
        folder: of this oracle alone.
        images: of the training split.
        labels: (N,) in 0 .. classes - 1.
        classes: number of classes.
        seed: see :func:`train_oracle`.
        steps: see there.
        progress: see there; not called where a saved one is taken.
    """
    data = as_images(images)
    asked = {"seed": seed, "steps": steps, "classes": classes, "images": list(data.shape)}
    asked |= {"sum": round(float(data.double().sum()), 3), "labels": int(np.asarray(labels, np.int64).sum())}
    network = OracleNetwork(int(data.shape[2]), int(data.shape[3]), classes)
    try:
        tensors, state = load_checkpoint(folder)
    except CheckpointError:
        state = {}
    if state.get("oracle") == asked:
        network.load_state_dict(tensors)
        return Oracle(network.eval().requires_grad_(False), (data.shape[2], data.shape[3]), classes)
    oracle = train_oracle(data, labels, classes, seed=seed, steps=steps, progress=progress)
    save_checkpoint(folder, oracle.network.state_dict(), {"oracle": asked})
    return oracle


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), generator=generator)

    turn, scale = uniform(-0.15, 0.15), uniform(0.9, 1.1)
    grid = affine_grid(images, turn, uniform(-0.1, 0.1), scale, scale, uniform(-0.1, 0.1))
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
