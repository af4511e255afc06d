"""Imputed observations: their error against measured ones, and against baselines that ignore the other sensors.

Errors are measured in each modality's *comparison space*: the observation as it is for images and MFCC, and
``ln(amplitude / 1 uV)`` by channel and frequency for EEG, because the phase of a brain wave relative to the window
cannot be foretold from other sensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import ModalitySpec
from engines.session import Session
from trainers.evaluation.patterns import Evidence, batches, fuse_all
from trainers.modalities.signal import SMALLEST_BLOCK, signal_steps

Array = npt.NDArray[np.float32]

LOWEST_HZ = 4.0
HIGHEST_HZ = 48.0
FLOOR_UV = 0.05
"""Added to amplitudes (in power) before the logarithm: below an amplifier's own noise, and it keeps them finite."""

SPACES = {
    "rgb": "intensity 0..255, every pixel",
    "depth": "mm, only pixels that the sensor measured (raw value > 0)",
    "audio": "MFCC of the energy-centred window, 40 coefficients x frames",
    "signal": "level and log spread of every channel in steps of a tenth of a second",
    "eeg": f"ln(amplitude / 1 uV) by channel, {LOWEST_HZ:g} to {HIGHEST_HZ:g} Hz; phase is not compared",
}
"""Kind -> what its errors are measured on, in words."""


def log_amplitude_spectrum(waveform: npt.NDArray[np.floating], rate_hz: float) -> Array:
    r"""Log amplitudes of a waveform at its own Fourier frequencies from 4 to 48 Hz.

    .. math:: \ln \sqrt{|X_f|^2 + \epsilon^2}, \quad X_f = \frac{2}{T} \sum_t x_t e^{-2 \pi i f t / T}

    so that a sinusoid of A uV at a bin's frequency gives ln A there.

    Args:
        waveform: (B, T, C) uV.
        rate_hz: samples per second.

    Returns:
        (B, C, F) float32.
    """
    samples = waveform.shape[1]
    seconds = samples / rate_hz
    first, last = math.ceil(LOWEST_HZ * seconds), math.floor(HIGHEST_HZ * seconds)
    centred = waveform - waveform.mean(axis=1, keepdims=True)
    spectrum = 2.0 / samples * np.fft.rfft(centred, axis=1)[:, first : last + 1]
    logarithm = 0.5 * np.log(np.abs(spectrum) ** 2 + FLOOR_UV**2)
    spectra: Array = logarithm.transpose(0, 2, 1).astype(np.float32)
    return spectra


def to_comparison_space(spec: ModalitySpec, observations: Array) -> Array:
    """Observations (B, *observation_shape) as they are compared; see :data:`SPACES`."""
    if spec.kind == "eeg":
        return log_amplitude_spectrum(observations, spec.rate_hz)
    if spec.kind == "signal":
        return levels_and_sizes(observations, spec.rate_hz)
    return observations


def levels_and_sizes(waveform: npt.NDArray[np.floating], rate_hz: float) -> Array:
    """A series in steps of about a tenth of a second: the mean of each, and the log of the spread within it.

    What oscillates faster than a step cannot be foretold sample by sample; how strongly it does can.

    Args:
        waveform: (B, T, C) in any unit.
        rate_hz: samples per second.

    Returns:
        (B, 2, C, K) float32; (B, 1, C, K) where a step holds too few samples to have a spread.
    """
    samples = waveform.shape[1]
    steps = signal_steps(samples, rate_hz)
    parts = np.array_split(waveform.astype(np.float64), steps, axis=1)
    means = np.stack([part.mean(axis=1) for part in parts], axis=2)
    if samples / steps < SMALLEST_BLOCK:
        return means[:, np.newaxis].astype(np.float32)
    spreads = np.stack([part.std(axis=1) for part in parts], axis=2)
    floor = 0.01 * spreads.mean(axis=2, keepdims=True) + 1e-9
    sizes: Array = np.stack([means, np.log(np.hypot(spreads, floor))], axis=1).astype(np.float32)
    return sizes


def mean_squared_ratio(measured: Array, estimated: Array, weight: Array | None = None) -> float:
    r"""Squared error over squared size, :math:`\|X - \hat X\|_F^2 / \|X\|_F^2`, over all rows at once.

    Args:
        measured: (N, ...) :math:`X`.
        estimated: the same shape, or one that broadcasts to it.
        weight: (N, ...) of 0 and 1; elements of weight 0 count in neither norm.

    Raises:
        ValueError: nothing measured: the ratio is not defined.
    """
    reference = measured.astype(np.float64)
    squared_error = (reference - estimated) ** 2
    squared_size = reference**2
    if weight is not None:
        squared_error, squared_size = squared_error * weight, squared_size * weight
    size = float(squared_size.sum())
    if size == 0:
        raise ValueError(
            f"nothing measured in {measured.shape}: the error relative to its size is not defined"
        )
    return float(squared_error.sum()) / size


def normalized_error(measured: Array, estimated: Array, weight: Array | None = None) -> float:
    r"""The papers' NMSE, which is a root ratio: :math:`\|X - \hat X\|_F / \|X\|_F`; see :func:`mean_squared_ratio`."""
    return math.sqrt(mean_squared_ratio(measured, estimated, weight))


def class_means(
    values: Array, labels: npt.NDArray[np.int64], classes: int, weight: Array | None = None
) -> tuple[Array, Array]:
    """Mean of each class and of everything, over measured elements only.

    Args:
        values: (N, ...).
        labels: (N,) in 0 .. classes - 1.
        classes: C.
        weight: (N, ...) of 0 and 1, or None for all 1.

    Returns:
        (C, ...) and (...) float32. An element never measured in a class takes the mean over all classes, and one never
        measured at all the mean over all elements.
    """
    ones = np.ones_like(values) if weight is None else weight
    one_hot = (labels[:, None] == np.arange(classes)).astype(np.float64)
    flat_shape = (len(values), -1)
    sums = one_hot.T @ (values * ones).reshape(flat_shape)
    counts = one_hot.T @ ones.reshape(flat_shape)
    anywhere = sums.sum() / max(counts.sum(), 1.0)
    total, measured = sums.sum(axis=0), counts.sum(axis=0)
    everything = np.where(measured > 0, total / np.maximum(measured, 1.0), anywhere)
    of_class = np.where(counts > 0, sums / np.maximum(counts, 1.0), everything)
    shape = values.shape[1:]
    return of_class.reshape(classes, *shape).astype(np.float32), everything.reshape(shape).astype(np.float32)


def _map_rows(session: Session, count: int, function: Callable[[slice], Array]) -> Array:
    return np.concatenate([function(rows) for rows in batches(count, session)])


def observe_all(session: Session, spec: ModalitySpec, windows: npt.NDArray[Any]) -> Array:
    """Raw windows (N, *window_shape) in comparison space."""
    return _map_rows(
        session,
        len(windows),
        lambda rows: to_comparison_space(spec, session.observe(spec.name, windows[rows])),
    )


def decode_all(session: Session, modality: str, latents: Array) -> Array:
    """Latents (N, latent_size) decoded to observations (N, *observation_shape) in physical units."""
    return _map_rows(session, len(latents), lambda rows: session.decode(modality, latents[rows]))


def estimate_all(
    session: Session, spec: ModalitySpec, evidence: Evidence, presence: tuple[int, ...]
) -> Array:
    """One modality decoded from evidence under a presence mask, in comparison space.

    Args:
        session: runs fuse and decode.
        spec: the modality to estimate.
        evidence: modality -> (N, evidence_size).
        presence: one mask for all rows; leave out the modality itself and what comes is its imputation.
    """
    latents = fuse_all(session, evidence, presence).latents[spec.name]
    return to_comparison_space(spec, decode_all(session, spec.name, latents))
