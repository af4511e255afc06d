"""The optimisers of one training phase: one for its modules and, if it has adversaries, one for those."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from trainers.checkpoint import flatten_optimizer, restore_optimizer
from trainers.configuration import OptimizerConfig, PhaseConfig
from trainers.systems.base import Phase


class PhaseOptimizer:
    """One optimiser for a phase's modules and, if it has adversaries, one for those.

    While one side steps, the other is frozen, so that no gradients are computed in vain.
    """

    def __init__(self, phase: Phase, settings: PhaseConfig, optimizer: OptimizerConfig) -> None:
        self._settings, self._optimizer = settings, optimizer
        self._parameters = {"modules": list(phase.parameters())}
        if phase.adversaries:
            self._parameters["adversaries"] = list(phase.adversary_parameters())
        self._sides = {side: _make_optimizer(p, optimizer) for side, p in self._parameters.items()}

    def set_progress(self, progress: float) -> None:
        """Set learning rates for a point of the phase, 0..1."""
        factor = learning_rate_factor(progress, self._optimizer)
        rates = {"modules": self._settings.learning_rate}
        rates["adversaries"] = self._settings.adversary_learning_rate or self._settings.learning_rate
        for side, optimizer in self._sides.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[side] * factor

    def begin(self, side: str) -> None:
        """Clear the gradients of a side, ``modules`` or ``adversaries``, and freeze the other one."""
        for name, parameters in self._parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(name == side)
        self._sides[side].zero_grad(set_to_none=True)

    def step(self, side: str, loss: Tensor) -> None:
        """One step of a side on a loss, with clipped gradients; afterwards both sides can learn again."""
        loss.backward()
        if self._optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters[side], self._optimizer.clip_norm)
        self._sides[side].step()
        for parameters in self._parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts under flat names."""
        return {k: v for side, o in self._sides.items() for k, v in flatten_optimizer(o, f"{side}.").items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` returned."""
        for side, optimizer in self._sides.items():
            restore_optimizer(optimizer, tensors, f"{side}.")


def learning_rate_factor(progress: float, settings: OptimizerConfig) -> float:
    """Share of the learning rate at a point of a phase: linear warm-up, then constant or half a cosine to 0."""
    if settings.warmup and progress < settings.warmup:
        return max(progress / settings.warmup, 0.02)
    if settings.schedule == "constant":
        return 1.0
    along = (progress - settings.warmup) / (1 - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


def _make_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerConfig) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    # Biases and norms are not decayed: shrinking them regularises nothing and costs fit.
    decayed, plain = [], []
    for parameter in parameters:
        (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return kind([g for g in groups if g["params"]], betas=settings.betas)
