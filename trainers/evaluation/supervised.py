"""Plain supervised classifiers: the reference for single modalities, and the judge of imputed signals.

Two uses of one training routine:

* the *reference*: a modality's own trunk with one linear layer, trained with cross entropy on raw windows.
What a
  multimodal system gives with one sensor left has to be at least as good.
* the *judge*: a separate, small network that reads *observations* (what ``observe`` and ``decode`` give),
trained on
  measured ones only. It never sees an imputed signal, nor shares a weight with the system, so what it
  recognises in an imputation is there for others to recognise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.eeg import FLOOR_UV, SparseInput, fourier_basis
from trainers.modalities.network import ModalityNetwork, WindowSpec

Draw = Callable[[], tuple[Tensor, Tensor]]
"""Gives the next training batch: inputs (B, ...) and labels (B,) int64; rows labelled -1 are left out."""


class ReferenceClassifier(nn.Module):
    """A modality's trunk and one linear layer: raw windows (B, *window_shape) -> logits (B, classes)."""

    def __init__(self, network: ModalityNetwork, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classify = nn.Linear(network.hidden_size, classes)

    def forward(self, window: Tensor) -> Tensor:
        """Logits (B, classes) of raw windows."""
        return self.classify(self.network.trunk(window))


class ImageJudge(nn.Module):
    """Four 3x3 convolutions over an image of (S, S, C) or (S, S), brightness and contrast taken out.

    Args:
        channels: C; 1 for (S, S).
        classes: number of classes.
        reciprocal: read 1 / value (for depth in mm: near surfaces then span most of the range).
    """

    def __init__(self, channels: int, classes: int, *, reciprocal: bool) -> None:
        super().__init__()
        self.channels = channels
        self.reciprocal = reciprocal
        stages: list[nn.Module] = []
        before = channels
        for after in (16, 24, 32, 48):
            stages += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.layers = nn.Sequential(*stages, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(classes))

    def forward(self, observation: Tensor) -> Tensor:
        """Logits (B, classes) of observations."""
        image = observation.unsqueeze(1) if self.channels == 1 else observation.permute(0, 3, 1, 2)
        if self.reciprocal:
            image = 1000.0 / image.clamp_min(100.0)
        centred = image - image.mean((1, 2, 3), keepdim=True)
        return self.layers(centred / (centred.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-3))


class CepstrumJudge(nn.Module):
    """Convolutions over time on an MFCC (B, 40, frames), level and spread taken out."""

    def __init__(self, coefficients: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(coefficients, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Conv1d(64, 64, 7, stride=3, padding=3, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.LazyLinear(classes),
        )

    def forward(self, observation: Tensor) -> Tensor:
        """Logits (B, classes) of observations."""
        # The first coefficient of the orthonormal DCT is the level of each frame: its mean over time is the
        # gain.
        level = observation[:, :1].mean(2, keepdim=True)
        cepstrum = torch.cat([observation[:, :1] - level, observation[:, 1:]], 1)
        return self.layers(cepstrum / (cepstrum.square().mean((1, 2), keepdim=True).sqrt() + 1e-3))


class SpectrumJudge(nn.Module):
    """A small network over the log amplitude spectrum of microvolts (B, T, C): mean and best channel per bin."""

    def __init__(self, spec: WindowSpec, classes: int) -> None:
        super().__init__()
        analysis, _ = fourier_basis(spec.window, spec.rate_hz)
        self.register_buffer("analysis", analysis, persistent=False)
        bins = len(analysis) // 2
        self.layers = nn.Sequential(
            SparseInput(2 * bins), nn.Linear(2 * bins, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, classes)
        )

    def forward(self, observation: Tensor) -> Tensor:
        """Logits (B, classes) of observations."""
        real, imaginary = torch.matmul(self.analysis, observation).chunk(2, 1)
        amplitude = 0.5 * torch.log(real.square() + imaginary.square() + FLOOR_UV**2)
        # Each channel against its own mean over the band: skin and cap set the overall gain.
        amplitude = amplitude - amplitude.mean(1, keepdim=True)
        return self.layers(torch.cat([amplitude.mean(2), amplitude.amax(2)], 1))


def build_judge(network: ModalityNetwork, classes: int) -> nn.Module:
    """An untrained judge for a modality's observations: (B, *observation_shape) -> logits (B, classes).

    Raises:
        ValueError: a kind without a judge.
    """
    kind, shape = network.spec.kind, network.observation_shape
    judge: nn.Module
    if kind == "rgb":
        judge = ImageJudge(shape[2], classes, reciprocal=False)
    elif kind == "depth":
        judge = ImageJudge(1, classes, reciprocal=True)
    elif kind == "audio":
        judge = CepstrumJudge(shape[0], classes)
    elif kind == "eeg":
        judge = SpectrumJudge(network.spec, classes)
    else:
        raise ValueError(f"modality {network.spec.name!r}: no judge for kind {kind!r}")
    judge.eval()
    with torch.no_grad():  # gives lazy layers their size
        judge(torch.zeros(1, *shape))
    return judge


def train_classifier(
    model: nn.Module,
    draw: Draw,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    label_smoothing: float = 0.05,
    progress: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train a classifier with cross entropy: AdamW, short warm-up, then a cosine to zero.

    Args:
        model: inputs (B, ...) -> logits (B, C); trained in place, left in evaluation mode.
        draw: gives the next batch; augmentation and randomness are its own.
        steps: optimiser steps; the last weights are kept (no choice by validation).
        learning_rate: highest rate.
        weight_decay: of AdamW.
        label_smoothing: of the cross entropy.
        progress: called after each step with the step's number from 1 and its loss.

    Returns:
        ``model``.

    Raises:
        ValueError: steps < 1, or a batch without a single labelled row.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for step in range(1, steps + 1):
        inputs, labels = draw()
        labelled = labels >= 0
        if not bool(labelled.any()):
            raise ValueError(
                f"step {step}: a batch of {len(labels)} rows without a label; draw labelled rows"
            )
        loss = F.cross_entropy(model(inputs[labelled]), labels[labelled], label_smoothing=label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, float(loss.detach()))
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
    """Class numbers (N,) int64 of inputs (N, ...), in evaluation mode, batch by batch."""
    was_training = model.training
    model.eval()
    parts = [model(inputs[i : i + batch_size]).argmax(1) for i in range(0, len(inputs), batch_size)]
    model.train(was_training)
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of rows that a classifier names rightly, over batches of (inputs, labels); label -1 is skipped.

    Raises:
        ValueError: no labelled row at all.
    """
    right = total = 0
    for inputs, labels in batches:
        labelled = labels >= 0
        right += int((predict(model, inputs[labelled]) == labels[labelled]).sum())
        total += int(labelled.sum())
    if total == 0:
        raise ValueError("accuracy of nothing: there was no labelled row")
    return right / total
