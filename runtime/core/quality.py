"""Content checks: does a window look like what its sensor normally delivers?

:func:`measure` turns one raw window into a few numbers, :func:`judge` compares them with thresholds, and
:func:`thresholds_from` makes the thresholds from the windows of the training split, with a margin. Trainers put
them into ``Manifest.health_thresholds``; the runtime judges every window before it is encoded, so that no window that
fails is ever evidence. A check is a measure with its direction: ``hole_share_max``, ``rms_min``.

All measures are plain numpy on one window, tens of microseconds each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engines.bundle import ModalityKind

BLACK = 8
"""A pixel is black if every channel is below this."""
SATURATED = 248
"""A pixel is saturated if every channel is at or above this."""
RAIL = 32766
"""An audio sample of at least this magnitude is at a rail of 16-bit PCM."""
FLAT_UV = 1e-3
"""EEG samples closer than this, in microvolts, are equal: far below any converter's step."""

ROWS = 64
"""Taller images are judged by evenly spaced rows, at least this many."""


@dataclass(frozen=True, slots=True)
class _Check:
    """One check, and how its threshold follows from the training windows.

    ``halfway``: halfway between the worst training value and 1 (for shares). ``times``: the worst training value times
    ``factor``; a maximum is never below ``floor``.
    """

    measure: str
    side: Literal["max", "min"]
    rule: Literal["halfway", "times"]
    factor: float = 1.0
    floor: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.measure}_{self.side}"

    def threshold(self, values: npt.NDArray[np.float64]) -> float:
        if self.rule == "halfway":
            return float((values.max() + 1.0) / 2.0)
        if self.side == "min":
            return float(values.min() * self.factor)
        return max(float(values.max() * self.factor), self.floor)

    def fails(self, value: float, threshold: float) -> bool:
        # Written so that NaN, in a measure of a window with NaN, fails.
        return not (value <= threshold if self.side == "max" else value >= threshold)


_CHECKS: dict[ModalityKind, tuple[_Check, ...]] = {
    "rgb": (
        _Check("black_share", "max", "halfway"),
        _Check("saturated_share", "max", "halfway"),
        _Check("mean", "min", "times", 0.5),
        _Check("roughness", "max", "times", 2.0),
    ),
    "depth": (
        _Check("hole_share", "max", "halfway"),
        _Check("roughness", "max", "times", 2.0),
    ),
    "audio": (
        # 34 dB below the quietest training window: a dead microphone is below that, a pause between two words is not.
        _Check("rms", "min", "times", 0.02),
        # A loud recording clips a little; one that is twenty times too loud clips ten times more of the window.
        _Check("clipped_share", "max", "times", 1.5, floor=0.002),
    ),
    "eeg": (
        # Sixteen equal samples in a window of 768: 60 ms of a stuck converter.
        _Check("flat_share", "max", "times", 2.0, floor=0.02),
        _Check("offset", "max", "times", 3.0, floor=100.0),
        _Check("deviation", "max", "times", 4.0, floor=100.0),
        _Check("quietest", "min", "times", 0.25),
    ),
    "signal": (
        _Check("constant_share", "max", "halfway"),
        _Check("largest", "max", "times", 2.0),
        _Check("deviation", "max", "times", 4.0),
        _Check("mean_deviation", "min", "times", 0.02),
    ),
}


def measure(kind: ModalityKind, window: npt.NDArray[Any]) -> dict[str, float]:
    """Content measures of one raw window.

    Args:
        kind: rgb (H, W, 3) uint8, depth (H, W) uint16 millimetres with 0 for no reading, audio (samples,) int16, or
            eeg (samples, channels) float32 microvolts, or signal (samples, channels) of any dtype and unit.
        window: one window, no batch axis.

    Returns:
        By name. rgb: ``black_share`` and ``saturated_share`` of the pixels, ``mean`` intensity, ``roughness`` (mean
        absolute difference of horizontal neighbours). depth: ``hole_share`` of the pixels, ``roughness`` in
        millimetres between horizontal neighbours that both have a reading. audio: ``rms`` in counts,
        ``clipped_share`` (samples at a rail whose predecessor is at a rail too). eeg: ``flat_share`` (of the
        flattest channel: samples that equal the three before), ``offset`` (largest absolute channel mean),
        ``deviation`` (largest channel standard deviation), ``quietest`` (smallest one), in microvolts. signal:
        ``constant_share`` of the channels, ``largest`` magnitude, ``deviation`` (largest channel standard deviation),
        ``mean_deviation`` over channels, in the sensor's unit.
    """
    # Finite samples may overflow; a measure that is infinite or NaN fails its check.
    with np.errstate(over="ignore", invalid="ignore"):
        return _MEASURES[kind](window)


def judge(kind: ModalityKind, measures: Mapping[str, float], thresholds: Mapping[str, float]) -> str | None:
    """The name of the first check that fails, or None.

    Args:
        kind: of the modality.
        measures: what :func:`measure` gave.
        thresholds: check name -> limit, as in ``Manifest.health_thresholds[modality]``; checks without one are left
            out.
    """
    for check in _CHECKS[kind]:
        threshold = thresholds.get(check.name)
        if threshold is not None and check.fails(measures[check.measure], threshold):
            return check.name
    return None


def thresholds_from(kind: ModalityKind, measures: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Thresholds, with a margin, from the measures of many windows of the training split.

    Args:
        kind: of the modality.
        measures: one :func:`measure` per window; a few hundred windows that cover the split.

    Returns:
        Check name -> limit.

    Raises:
        ValueError: no windows, or a measure that is not finite.
    """
    rows = list(measures)
    if not rows:
        raise ValueError(f"{kind}: thresholds need the measures of at least one training window, got none")
    limits: dict[str, float] = {}
    for check in _CHECKS[kind]:
        values = np.array([row[check.measure] for row in rows], np.float64)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{kind} training window: {check.measure} must be finite, got {values[~np.isfinite(values)][0]}"
            )
        limits[check.name] = check.threshold(values)
    return limits


def _some_rows(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Evenly spaced rows of a large image, all rows of a small one: enough for shares and means, at less cost."""
    return image[:: max(1, len(image) // ROWS)]


def _measure_rgb(window: npt.NDArray[Any]) -> dict[str, float]:
    window = _some_rows(window)
    red, green, blue = window[..., 0], window[..., 1], window[..., 2]
    # All channels are < 8 if their OR is, and all are >= 248 (five high bits set) if their AND is.
    either, both = red | green | blue, red & green & blue
    pixels = either.size
    signed = green.astype(np.int16)
    return {
        "black_share": np.count_nonzero(either < BLACK) / pixels,
        "saturated_share": np.count_nonzero(both >= SATURATED) / pixels,
        "mean": float(window.mean()),
        "roughness": float(np.abs(signed[:, 1:] - signed[:, :-1]).mean()),
    }


def _measure_depth(window: npt.NDArray[Any]) -> dict[str, float]:
    window = _some_rows(window)
    reading = window > 0
    pairs = reading[:, 1:] & reading[:, :-1]
    count = np.count_nonzero(pairs)
    signed = window.astype(np.int32)
    steps = np.abs(signed[:, 1:] - signed[:, :-1])
    return {
        "hole_share": 1.0 - np.count_nonzero(reading) / reading.size,
        "roughness": float((steps * pairs).sum()) / count if count else 0.0,
    }


def _measure_audio(window: npt.NDArray[Any]) -> dict[str, float]:
    samples = window.astype(np.float32)
    railed = np.abs(samples) >= RAIL
    return {
        "rms": float(np.sqrt(np.dot(samples, samples) / samples.size)),
        "clipped_share": np.count_nonzero(railed[1:] & railed[:-1]) / samples.size,
    }


def _measure_eeg(window: npt.NDArray[Any]) -> dict[str, float]:
    equal = np.abs(window[1:] - window[:-1]) < FLAT_UV
    runs = equal[2:] & equal[1:-1] & equal[:-2]
    # numpy's own sums, means and deviations along a first axis take several times as long.
    mean = np.einsum("tc->c", window) / len(window)
    centred = window - mean
    deviation = np.sqrt(np.einsum("tc,tc->c", centred, centred) / len(window))
    return {
        "flat_share": float(runs.sum(axis=0).max()) / len(window) if np.count_nonzero(runs) else 0.0,
        "offset": float(np.abs(mean).max()),
        "deviation": float(deviation.max()),
        "quietest": float(deviation.min()),
    }


def _measure_signal(window: npt.NDArray[Any]) -> dict[str, float]:
    values = window.astype(np.float64)
    deviation = values.std(axis=0)
    return {
        "constant_share": np.count_nonzero(deviation == 0) / deviation.size,
        "largest": float(np.abs(values).max()),
        "deviation": float(deviation.max()),
        "mean_deviation": float(deviation.mean()),
    }


_MEASURES = {
    "rgb": _measure_rgb,
    "depth": _measure_depth,
    "audio": _measure_audio,
    "eeg": _measure_eeg,
    "signal": _measure_signal,
}
