"""Calibration: one temperature per missing pattern, fitted on validation data that training never saw."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from engines.bundle import pattern_key, presence_patterns
from trainers.systems.base import Batches, System

LIMITS = (0.05, 20.0)
"""Temperatures stay within these."""

DOUBT = 0.01
"""Share of the validation labels taken to be spread over all classes, as Platt (1999) does with small samples.

Validation windows are many, the recordings in them a few dozen. Without doubt, a pattern that gets all of them right
would be made certain of everything.
"""


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Mean of −log softmax(logits / T)[label], in nats, with ``DOUBT`` on the labels; logits (N, C), labels (N,)."""
    return float(functional.cross_entropy(logits / temperature, labels, label_smoothing=DOUBT))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature in ``LIMITS`` that minimises the negative log likelihood.

    The NLL is convex in 1 / T, so a golden-section search over log T finds the minimum.

    Args:
        logits: (N, C) uncalibrated.
        labels: (N,) int64.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(LIMITS[0]), math.log(LIMITS[1])
    while high - low > 1e-3:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, labels, math.exp(a)) < negative_log_likelihood(
            logits, labels, math.exp(b)
        ):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


@torch.no_grad()
def validation_evidence(system: System, batches: Batches) -> tuple[dict[str, Tensor], Tensor]:
    """Evidence of every validation window and its labels: modality -> (N, E), and (N,)."""
    evidence: dict[str, list[Tensor]] = {n: [] for n in system.names}
    labels = []
    for batch in batches():
        for name in system.names:
            evidence[name].append(system.encode(name, batch.windows[name]))
        labels.append(batch.labels)
    return {n: torch.cat(e) for n, e in evidence.items()}, torch.cat(labels)


@torch.no_grad()
def calibrate(
    system: System, evidence: Mapping[str, Tensor], labels: Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit a temperature for every missing pattern, the empty one included.

    Returns:
        pattern key -> temperature, and pattern key -> validation accuracy.
    """
    temperatures, accuracies = {}, {}
    for pattern in presence_patterns(len(system.names), empty=True):
        mask = torch.tensor(pattern, dtype=torch.float32).expand(len(labels), -1)
        logits = system.fuse(evidence, mask).logits
        key = pattern_key(system.names, pattern)
        temperatures[key] = round(fit_temperature(logits, labels), 4)
        accuracies[key] = float((logits.argmax(1) == labels).float().mean())
    return temperatures, accuracies
