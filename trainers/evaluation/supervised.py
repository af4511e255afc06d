"""Plain supervised classifiers: the reference that every single modality has to match.

The reference is a modality's own trunk with one linear layer, trained with cross entropy on raw windows: no latent, no
fusion, no missing sensors. A multimodal system with only that sensor left has to be at least as good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.modalities.network import ModalityNetwork

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
