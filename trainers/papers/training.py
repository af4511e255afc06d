"""Training one arm of a protocol with the ordinary training loop, taken up exactly where it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from trainers.configuration import ModelConfig
from trainers.data.sampler import Batch
from trainers.loop import Sampler, Trainer
from trainers.papers.protocol import Report
from trainers.systems.base import System


def train_arm(
    system: System,
    sampler: Sampler,
    validation: Sequence[Batch],
    config: ModelConfig,
    folder: Path,
    report: Report | None = None,
) -> System:
    """Train a system through all its phases; with a checkpoint in ``folder`` from there on, bit-equal.

    Args:
        system: with fresh, seeded weights; trained in place.
        sampler: of training batches.
        validation: fixed batches, for what phases decide when they end.
        config: phases, optimiser and seed.
        folder: where checkpoints go.
        report: progress.

    Returns:
        The system, in evaluation mode.

    Raises:
        TrainingError: a loss that is not finite, or a checkpoint of other settings.
    """
    torch.set_num_threads(config.torch_threads)
    trainer = Trainer(system, sampler, lambda: validation, config, folder)
    if trainer.checkpoint_folder.exists():
        trainer.resume()

    def on_step(phase: str, step: int, steps: int, loss: float) -> None:
        if report is not None:
            report(phase, step, steps)

    trainer.run(report=on_step)
    return system.to("cpu").eval()
