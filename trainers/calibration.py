"""Calibration on validation data, which training never saw: reliabilities, temperatures, intervals of imputations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from engines.bundle import pattern_key, presence_patterns
from trainers.evaluation.coverage import interval_half_width, measured_weight
from trainers.fusion.masks import all_patterns
from trainers.systems.base import Batches, System

LIMITS = (0.05, 20.0)
"""Smallest and largest temperature."""

DOUBT = 0.01
"""Share of each validation label that is spread over all classes, as Platt (1999) does for small samples.

There are many validation windows, but they come from a few dozen recordings. Without this doubt, a pattern that gets
all of them right would become certain of everything.
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


def fit_reliability(
    system: System,
    evidence: Mapping[str, Tensor],
    labels: Tensor,
    *,
    rows: int = 200,
    steps: int = 40,
    pull: float = 0.01,
) -> dict[str, float]:
    """Fit the weight of each modality in fusion, so that one that overfitted does not outvote the others.

    Minimises the mean negative log likelihood over all missing patterns of some validation rows, in the logarithm
    of the M reliabilities and of a temperature per pattern, with a quadratic pull of the former towards 1. Sets
    ``system.reliability``; everything else stays as trained.

    Args:
        system: trained; its evidence of absent modalities is ignored.
        evidence: modality -> (N, E) of validation windows.
        labels: (N,) int64.
        rows: how many rows to use, spread evenly over all.
        steps: of Adam.
        pull: weight of the pull towards 1.

    Returns:
        modality -> reliability.
    """
    chosen = torch.linspace(0, len(labels) - 1, min(rows, len(labels))).long()
    patterns = all_patterns(len(system.names))
    masks = patterns.repeat_interleave(len(chosen), dim=0)
    repeated = {n: e[chosen].repeat(len(patterns), 1) for n, e in evidence.items()}
    targets = labels[chosen].repeat(len(patterns))
    frozen = [p for p in system.parameters() if p.requires_grad]
    system.requires_grad_(False)
    reliability = torch.zeros(len(system.names), requires_grad=True)
    temperature = torch.zeros(len(patterns), requires_grad=True)
    optimizer = torch.optim.Adam([reliability, temperature], lr=0.1)
    for _ in range(steps):
        system.reliability = torch.exp(reliability)
        logits = system.fuse(repeated, masks).logits
        logits = logits / torch.exp(temperature).repeat_interleave(len(chosen)).unsqueeze(1)
        loss = functional.cross_entropy(logits, targets, label_smoothing=DOUBT)
        loss = loss + pull * reliability.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    system.reliability = torch.exp(reliability.detach())
    for parameter in frozen:
        parameter.requires_grad_(True)
    return {n: round(float(r), 4) for n, r in zip(system.names, system.reliability, strict=True)}


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
        logits = system.infer(evidence, mask).logits
        key = pattern_key(system.names, pattern)
        temperatures[key] = round(fit_temperature(logits, labels), 4)
        accuracies[key] = float((logits.argmax(1) == labels).float().mean())
    return temperatures, accuracies


@torch.no_grad()
def fit_imputation_scale(
    system: System, evidence: Mapping[str, Tensor], batches: Batches, *, rows: int = 200
) -> dict[str, dict[str, float]]:
    """Fit the interval around imputations, for every missing pattern and each modality that it lacks.

    Args:
        system: trained and with its reliabilities fitted.
        evidence: modality -> (N, E) of validation windows.
        batches: those windows.
        rows: how many of them to use, spread evenly over all.

    Returns:
        Pattern key, the empty one included -> absent modality -> half width of the interval around its imputation that
        holds 90 % of what was measured, in its observation unit; see :mod:`trainers.evaluation.coverage`.
    """
    count = len(next(iter(evidence.values())))
    chosen = torch.linspace(0, count - 1, min(rows, count)).long()
    given = {n: e[chosen] for n, e in evidence.items()}
    measured, weight = {}, {}
    for name in system.names:
        windows = torch.cat([batch.windows[name] for batch in batches()])[chosen]
        weight[name] = measured_weight(system.network(name).spec.kind, windows.numpy())
        measured[name] = _in_parts(system.observe, name, windows)
    scales: dict[str, dict[str, float]] = {}
    for pattern in presence_patterns(len(system.names), empty=True):
        absent = [n for n, present in zip(system.names, pattern, strict=True) if not present]
        if not absent:
            continue
        latents = system.infer(
            given, torch.tensor(pattern, dtype=torch.float32).expand(len(chosen), -1)
        ).latents
        scales[pattern_key(system.names, pattern)] = {
            n: _rounded(interval_half_width(measured[n], _in_parts(system.decode, n, latents[n]), weight[n]))
            for n in absent
        }
    return scales


def _in_parts(
    function: Callable[[str, Tensor], Tensor], modality: str, rows: Tensor
) -> npt.NDArray[np.float32]:
    return np.concatenate([function(modality, part).numpy() for part in rows.split(64)])


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
