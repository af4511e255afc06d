"""API published first; bodies follow in the next commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from engines.bundle import ModalityKind


def measure(kind: ModalityKind, window: npt.NDArray[Any]) -> dict[str, float]:
    """Content measures of one raw window (*window_shape), by name."""
    raise NotImplementedError


def judge(kind: ModalityKind, measures: Mapping[str, float], thresholds: Mapping[str, float]) -> str | None:
    """The first check that fails (its name is the reason), or None. Thresholds are Manifest.health_thresholds[modality]."""
    raise NotImplementedError


def thresholds_from(kind: ModalityKind, measures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Thresholds {check: value} with a margin from the measures of (many, random) train windows."""
    raise NotImplementedError
