"""The judge: a small classifier, trained on measured observations, that names the class of imputed ones.

A judge shares nothing with the model that it judges: it has its own network and seed and is trained only on measured
observations of the training split. It sees no imputation before it has to judge one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Array = npt.NDArray[np.float32]

BATCH = 64
STEPS = 300
SEED = 0x4A554447
"""Mixed into every judge's seed, so that it never draws the same numbers as a trainer with the same seed."""


def inverse_cosine_transform(size: int) -> Tensor:
    """(size, size) matrix that turns orthonormal DCT-II coefficients back into what they describe."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (index[:, None] + 0.5) * index) * math.sqrt(2.0 / size)
    matrix[:, 0] /= math.sqrt(2.0)
    return matrix.float()


def _standardise(values: Tensor) -> Tensor:
    """Mean 0 and spread 1 within every row, so that level and contrast say nothing."""
    axes = tuple(range(1, values.ndim))
    centred = values - values.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-4)


def prepare(kind: str, observations: Array) -> Tensor:
    """Observations in comparison space, as a judge's network takes them.

    Args:
        kind: rgb, depth, audio or eeg.
        observations: (B, S, S, 3) intensities, (B, S, S) mm, (B, 40, frames) MFCC, or (B, C, F) log amplitudes.

    Returns:
        (B, 3, S/2, S/2); (B, 1, S/2, S/2) of log depth; (B, 1, 40, frames/2) log mel spectrum; (B, 2, F) mean and
        maximum over channels of each bin's excess over its neighbourhood. Resolution is halved, because a judge only
        needs coarse differences and its training should take seconds.
    """
    values = torch.from_numpy(np.ascontiguousarray(observations, np.float32))
    if kind == "rgb":
        return _standardise(F.avg_pool2d(values.permute(0, 3, 1, 2).contiguous() / 64.0, 2))
    if kind == "depth":
        return _standardise(F.avg_pool2d(torch.log(values.clamp_min(1.0)).unsqueeze(1) * 8.0, 2))
    if kind == "audio":
        mel = torch.matmul(inverse_cosine_transform(values.shape[1]), values).unsqueeze(1) / 10.0
        return _standardise(F.avg_pool2d(mel, (1, 2)))
    neighbourhood = F.avg_pool1d(values, 13, stride=1, padding=6, count_include_pad=False)
    excess = values - neighbourhood
    return torch.stack([excess.mean(1), excess.amax(1) - 1.0], 1)


class Judge(nn.Module):
    """Strided convolutions over an image or a spectrogram, or two linear layers over a spectrum, and a classifier."""

    def __init__(self, kind: str, input_shape: tuple[int, ...], classes: int) -> None:
        """Build the network.

        Args:
            kind: rgb, depth, audio or eeg.
            input_shape: of one row of what :func:`prepare` gives.
            classes: number of classes.
        """
        super().__init__()
        self.kind = kind
        if kind == "eeg":
            size = math.prod(input_shape)
            self.network = nn.Sequential(
                nn.Flatten(),
                nn.Dropout(0.3),
                nn.Linear(size, 64),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(64, classes),
            )
            return
        stages: list[nn.Module] = []
        before = input_shape[0]
        for width in (16, 32, 64):
            stages += [
                nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            before = width
        rows, columns = (-(-side // 8) for side in input_shape[1:])
        head = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(before * rows * columns, classes)]
        self.network = nn.Sequential(*stages, *head)

    def forward(self, prepared: Tensor) -> Tensor:
        """(B, ...) prepared observations -> (B, classes) logits."""
        logits: Tensor = self.network(prepared)
        return logits


def augment(kind: str, prepared: Tensor, generator: torch.Generator) -> Tensor:
    """Light changes that do not change what is shown: place, size, sharpness, noise; places and bands for sound."""

    def uniform(low: float, high: float, *trailing: int) -> Tensor:
        return low + (high - low) * torch.rand((len(prepared), *trailing), generator=generator)

    noise = torch.randn(prepared.shape, generator=generator)
    if kind == "eeg":
        return prepared * uniform(0.5, 1.3, 1, 1) + 0.15 * noise
    if kind == "audio":
        grid = affine_grid(prepared, 0.0, uniform(-0.15, 0.15), uniform(0.85, 1.15), 1.0)
        moved = F.grid_sample(prepared, grid, padding_mode="border", align_corners=False)
        bands = torch.arange(prepared.shape[2]).view(1, 1, -1, 1)
        frames = torch.arange(prepared.shape[3]).view(1, 1, 1, -1)
        for axis, width in ((bands, 6), (frames, 6)):
            begin = uniform(-width, axis.numel(), 1, 1, 1)
            moved = moved * ((axis < begin) | (axis >= begin + width))
        tilt = uniform(-0.4, 0.4, 1, 1, 1) * torch.linspace(-1, 1, prepared.shape[2]).view(1, 1, -1, 1)
        return _softened(moved + tilt, uniform(0, 1, 1, 1, 1)) + 0.15 * noise
    scale = uniform(0.9, 1.1)
    grid = affine_grid(prepared, uniform(-0.15, 0.15), uniform(-0.1, 0.1), scale, scale, uniform(-0.1, 0.1))
    moved = F.grid_sample(prepared, grid, padding_mode="border", align_corners=False)
    return _softened(moved, uniform(0, 1, 1, 1, 1)) * uniform(0.8, 1.25, 1, 1, 1) + 0.05 * noise


def affine_grid(
    image: Tensor,
    turn: Tensor | float,
    across: Tensor,
    wide: Tensor,
    high: Tensor | float,
    down: Tensor | float = 0.0,
) -> Tensor:
    """Where every pixel of (B, C, H, W) comes from: turned (radians), stretched and moved (halves of a side)."""
    like = torch.zeros_like(across)
    turn, high, down = like + turn, like + high, like + down
    rows = [wide * turn.cos(), -turn.sin(), across, turn.sin(), high * turn.cos(), down]
    return F.affine_grid(torch.stack(rows, 1).unflatten(1, (2, 3)), list(image.shape), align_corners=False)


def _softened(image: Tensor, chance: Tensor) -> Tensor:
    """Blur the rows whose chance is below 0.4, as a lens out of focus would."""
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(chance < 0.4, soft, image)


@dataclass(frozen=True)
class TrainedJudge:
    """A judge and how long it was trained.

    Attributes:
        kind: rgb, depth, audio or eeg.
        network: in evaluation mode.
        steps: gradient steps made; fewer than asked for if its time ran out.
    """

    kind: str
    network: Judge
    steps: int

    def probabilities(self, observations: Array) -> Array:
        """(N, ...) observations in comparison space -> (N, classes) probabilities."""
        with torch.inference_mode():
            parts = [
                torch.softmax(self.network(prepare(self.kind, observations[i : i + 256])), dim=1)
                for i in range(0, len(observations), 256)
            ]
        result: Array = torch.cat(parts).numpy()
        return result


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: these networks are too small for more, and threads that wait for a core cost more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_judge(
    kind: str,
    observations: Array,
    labels: npt.NDArray[np.int64],
    classes: int,
    *,
    seed: int = 0,
    steps: int = STEPS,
    minutes: float = 0.25,
) -> TrainedJudge:
    """Train a judge on measured observations.

    Args:
        kind: rgb, depth, audio or eeg.
        observations: (N, ...) in comparison space, of the training split.
        labels: (N,).
        classes: number of classes.
        seed: of its weights, batches and augmentation.
        steps: gradient steps of 64 rows.
        minutes: it stops after this time, with what it has learned by then.

    Raises:
        ValueError: no rows, or another number of labels.
    """
    if len(observations) == 0 or len(labels) != len(observations):
        raise ValueError(
            f"a judge of {kind} needs rows with labels, got {len(observations)} and {len(labels)}"
        )
    deadline = time.monotonic() + 60.0 * minutes
    data, truth = prepare(kind, observations), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed ^ SEED)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed ^ SEED)
        network = Judge(kind, tuple(data.shape[1:]), classes).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 3e-3, total_steps=max(steps, 2), pct_start=0.2
        )
        done = 0
        while done < steps and time.monotonic() < deadline:
            rows = torch.randint(len(data), (min(BATCH, max(2, len(data))),), generator=generator)
            logits = network(augment(kind, data[rows], generator))
            loss = F.cross_entropy(logits, truth[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
    return TrainedJudge(kind, network.eval(), done)
