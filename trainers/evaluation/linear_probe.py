"""Latent accuracy: how well a linear classifier reads the class from latents."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from trainers.evaluation.judge import one_thread

Latents = npt.NDArray[np.floating] | torch.Tensor

PENALTY = 1e-3
ITERATIONS = 100
SMALLEST_DEVIATION = 1e-6
"""Features that vary less than this in training carry no information; they are set to zero instead of magnified."""


def probe_accuracy(
    train_latents: Latents,
    train_labels: npt.NDArray[np.integer],
    test_latents: Latents,
    test_labels: npt.NDArray[np.integer],
    *,
    penalty: float = PENALTY,
    iterations: int = ITERATIONS,
) -> float:
    r"""Test accuracy of multinomial logistic regression on standardised latents (MMALI section 4, latent accuracy).

    .. math:: \min_{W, b} \frac{1}{N} \sum_i -\log \mathrm{softmax}(W x_i + b)_{y_i}
              + \frac{\lambda}{2} \lVert W \rVert_F^2

    by L-BFGS from zero. The problem is convex and nothing is random, so the same latents always give the same number.

    Args:
        train_latents: (N, L).
        train_labels: (N,) class numbers.
        test_latents: (K, L).
        test_labels: (K,).
        penalty: :math:`\lambda`.
        iterations: largest number of L-BFGS iterations.

    Raises:
        ValueError: shapes that do not agree, no rows, or latents that are not finite.
    """
    train, test = _as_rows(train_latents), _as_rows(test_latents)
    labels = torch.as_tensor(np.asarray(train_labels, np.int64))
    truth = torch.as_tensor(np.asarray(test_labels, np.int64))
    if train.shape[1] != test.shape[1] or len(labels) != len(train) or len(truth) != len(test):
        raise ValueError(
            f"expected (N, L), (N,), (K, L), (K,), got {tuple(train.shape)}, {tuple(labels.shape)}, "
            f"{tuple(test.shape)}, {tuple(truth.shape)}"
        )
    mean, deviation = train.mean(0), train.std(0, unbiased=False)
    scale = torch.where(deviation > SMALLEST_DEVIATION, 1.0 / deviation.clamp_min(SMALLEST_DEVIATION), 0.0)
    classes = int(torch.cat([labels, truth]).max()) + 1
    with one_thread(), torch.enable_grad():
        weight, bias = _fit((train - mean) * scale, labels, classes, penalty, iterations)
    named = ((test - mean) * scale @ weight + bias).argmax(1)
    return float((named == truth).double().mean())


def _fit(
    features: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float, iterations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.zeros(features.shape[1], classes, dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=features.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, history_size=20, line_search_fn="strong_wolfe"
    )

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight + bias, labels) + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(evaluate)
    return weight.detach(), bias.detach()


def _as_rows(latents: Latents) -> torch.Tensor:
    rows = torch.as_tensor(latents).detach().cpu().double()
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"expected latents (N, L) with N >= 1, got {tuple(rows.shape)}")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("latents are not finite: the encoder they come from is broken")
    return rows
