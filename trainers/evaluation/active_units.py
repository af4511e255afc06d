"""How many latent dimensions are used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.01


def active_units(means: npt.NDArray[np.floating], threshold: float = THRESHOLD) -> int:
    r"""Dimensions whose posterior mean moves with the data (Burda et al. 2016, section 5.2).

    .. math:: A_u = \mathrm{Var}_x \left( \mathrm{E}_{q(u | x)}[u] \right) > 0.01

    Args:
        means: (N, L) posterior means of N rows.
        threshold: smallest variance of an active dimension.

    Raises:
        ValueError: fewer than two rows, or another shape.
    """
    if means.ndim != 2 or len(means) < 2:
        raise ValueError(f"expected posterior means (N, L) with N >= 2, got {means.shape}")
    return int((np.asarray(means, np.float64).var(axis=0) > threshold).sum())
