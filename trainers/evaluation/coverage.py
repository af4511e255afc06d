"""Intervals around imputations: fitted on validation moments, with their coverage measured on others.

A decoder gives one estimate per element without its spread. The spread is therefore measured, by split
conformal prediction (Vovk et al. 2005): for every missing pattern and absent modality, the half width around the
imputation that holds 90 % of what the sensor measured on validation moments. It is one number in the modality's own
unit, so 90 % holds only on average over a modality's elements and over moments like those of validation: elements that
vary little are covered more often, elements that vary much less often.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.9
"""Share of what was measured that an interval should hold."""


def measured_weight(kind: str, windows: npt.NDArray[Any]) -> npt.NDArray[np.float32] | None:
    """1 where an element of a raw window was measured and 0 where not; None if all were."""
    return (windows > 0).astype(np.float32) if kind == "depth" else None


def interval_half_width(
    measured: npt.NDArray[np.floating],
    imputed: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating] | None = None,
    *,
    level: float = LEVEL,
) -> float:
    r"""Half width of an interval around imputations that holds a share of what was measured.

    The :math:`\lceil (n + 1) \, \text{level} \rceil / n` quantile of absolute errors, with n the moments, since
    elements of one moment are anything but independent.

    Args:
        measured: (N, ...).
        imputed: the same shape.
        weight: (N, ...) of 0 and 1; elements of weight 0 were not measured. None: all were.
        level: the share.

    Raises:
        ValueError: shapes that differ, or nothing measured.
    """
    errors = _errors(measured, imputed, weight)
    moments = len(measured)
    return float(np.quantile(errors, min(1.0, math.ceil((moments + 1) * level) / moments)))


def coverage(
    measured: npt.NDArray[np.floating],
    imputed: npt.NDArray[np.floating],
    half_width: float,
    weight: npt.NDArray[np.floating] | None = None,
) -> float:
    """Share of measured elements within ``half_width`` of the imputed ones; arguments as above.

    Raises:
        ValueError: shapes that differ, or nothing measured.
    """
    return float((_errors(measured, imputed, weight) <= half_width).mean())


def _errors(
    measured: npt.NDArray[np.floating],
    imputed: npt.NDArray[np.floating],
    weight: npt.NDArray[np.floating] | None,
) -> npt.NDArray[np.floating]:
    if measured.shape != imputed.shape or (weight is not None and weight.shape != measured.shape):
        shapes = (measured.shape, imputed.shape, None if weight is None else weight.shape)
        raise ValueError(f"measured, imputed and weight should have one shape, got {shapes}")
    errors = np.abs(measured - imputed)
    chosen = errors.ravel() if weight is None else errors[weight > 0]
    if chosen.size == 0:
        raise ValueError("nothing was measured: an interval around imputations is not defined")
    return chosen
