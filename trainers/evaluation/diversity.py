"""How different generated samples of one class are from each other, relative to real ones.

A generator that gives one perfect prototype per class is recognised better than real data are; accuracy alone cannot
tell it from a good one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Observations = npt.NDArray[np.floating[Any]]


def spread_within_classes(samples: Observations, labels: npt.NDArray[np.integer[Any]]) -> float:
    r"""Root mean square distance between two samples of the same class, each class with equal weight.

    .. math:: \sqrt{\frac{1}{C} \sum_c \frac{1}{n_c (n_c - 1)} \sum_{i \ne j \in c} \lVert x_i - x_j \rVert^2}

    which is :math:`\sqrt{2 \operatorname{tr} \Sigma}`, :math:`\Sigma` the mean of the classes' covariances.

    Args:
        samples: (N, ...).
        labels: (N,); classes with a single sample are left out.

    Raises:
        ValueError: no class has two samples.
    """
    flat = np.asarray(samples, np.float64).reshape(len(samples), -1)
    rows = [flat[labels == c] for c in np.unique(labels)]
    found = [2.0 * r.var(axis=0, ddof=1).sum() for r in rows if len(r) > 1]
    if not found:
        raise ValueError(f"spread needs two samples of some class, got {len(samples)} samples in all")
    return float(np.sqrt(np.mean(found)))


def relative_diversity(
    generated: Observations,
    generated_labels: npt.NDArray[np.integer[Any]],
    real: Observations,
    real_labels: npt.NDArray[np.integer[Any]],
) -> float:
    """Spread within classes of generated samples over that of real ones: 0 for prototypes, 1 for as diverse.

    Args:
        generated: (N, ...), in the same space as ``real``.
        generated_labels: (N,) classes that they were generated for.
        real: (K, ...).
        real_labels: (K,).

    Raises:
        ValueError: no class has two samples; or the real ones are all alike.
    """
    measured = spread_within_classes(real, real_labels)
    if measured == 0.0:
        raise ValueError("real samples of a class are all alike: nothing to relate to")
    return spread_within_classes(generated, generated_labels) / measured
