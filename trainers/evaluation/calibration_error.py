"""How far stated confidence is from observed accuracy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 15


def expected_calibration_error(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], bins: int = BINS
) -> float:
    r"""Expected calibration error of the top label (Guo et al. 2017, equation 3).

    .. math:: \mathrm{ECE} = \sum_b \frac{|B_b|}{n} \, |\mathrm{acc}(B_b) - \mathrm{conf}(B_b)|

    with :math:`B_b` the rows whose largest probability lies in :math:`((b - 1) / \text{bins}, b / \text{bins}]`.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) true classes.
        bins: number of bins of equal width.

    Returns:
        In [0, 1]; biased upwards for few rows, because the accuracy in a bin of few rows is itself a rough estimate.

    Raises:
        ValueError: no rows, or shapes that do not agree.
    """
    _expect_rows(probabilities, labels)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    # Upper edges belong to their bin, so that certainty (1.0) falls into the last one.
    chosen = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(chosen, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def accuracy(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> float:
    """Share of rows of (N, C) scores whose largest entry is at the label's index.

    Raises:
        ValueError: no rows, or shapes that do not agree.
    """
    _expect_rows(probabilities, labels)
    return float((probabilities.argmax(axis=1) == labels).mean())


def _expect_rows(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"expected (N, C) scores and (N,) labels with N >= 1, got {probabilities.shape} and {labels.shape}"
        )
