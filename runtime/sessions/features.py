"""Plain features and a linear classifier: what a data set gives without a network, and whether its splits leak.

Numpy only, so that data can be checked on the machine that records them. A linear classifier on levels and spreads is
the baseline that a trained model has to beat; with shuffled labels it has to fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]

_STRETCHES = 8
_TILES = 8
_ORIENTATIONS = 6
_BANDS = 24


def plain_features(kind: str, window: npt.NDArray[Any]) -> Features:
    """A few dozen to a few hundred numbers of one raw window.

    Args:
        kind: of the modality.
        window: (T, C) of a series, (T,) of sound, (H, W) or (H, W, 3) of a picture, (T, H, W, ...) of several.

    Returns:
        (F,): of series, the mean and the log spread of every channel in eight stretches; of sound, log energies of
        bands in eight stretches; of pictures, brightness and edges by direction in 8 x 8 tiles, of the first and the
        last.
    """
    values = window.astype(np.float64)
    if kind in ("rgb", "depth"):
        frames = values if values.ndim == (4 if kind == "rgb" else 3) else values[np.newaxis]
        return np.concatenate([_picture(frame) for frame in (frames[0], frames[-1])[: len(frames)]])
    if kind == "audio":
        return _sound(values)
    series = values if values.ndim == 2 else values[:, np.newaxis]
    stretches = np.array_split(series, min(_STRETCHES, len(series)))
    means = [part.mean(axis=0) for part in stretches]
    spreads = [
        np.log(part.std(axis=0) + np.abs(np.diff(part, axis=0)).sum(axis=0) / len(part) + 1e-3)
        for part in stretches
    ]
    return np.concatenate([*means, *spreads])


def _picture(frame: Features) -> Features:
    grey = frame.mean(axis=-1) if frame.ndim == 3 else frame
    down, across = np.gradient(grey)
    size, angle = np.hypot(down, across), np.arctan2(down, across) % np.pi
    bins = np.minimum((angle / np.pi * _ORIENTATIONS).astype(int), _ORIENTATIONS - 1)
    planes = [np.where(bins == k, size, 0.0) for k in range(_ORIENTATIONS)]
    edges = np.stack([_tiles(plane) for plane in planes])
    edges = np.sqrt(edges / (edges.sum() + 1e-9))
    level = _tiles(grey)
    return np.concatenate([edges.ravel(), ((level - level.mean()) / (level.std() + 1e-6)).ravel() * 0.1])


def _tiles(plane: Features) -> Features:
    rows = np.array_split(plane, min(_TILES, plane.shape[0]), axis=0)
    return np.array([[t.mean() for t in np.array_split(r, min(_TILES, r.shape[1]), axis=1)] for r in rows])


def _sound(samples: Features) -> Features:
    energies = []
    for part in np.array_split(samples, _STRETCHES):
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
        edges = np.unique(np.geomspace(1, len(spectrum), _BANDS + 1).astype(int))
        energies.append([np.log(spectrum[a:b].mean() + 1.0) for a, b in pairwise(edges)])
    return np.array(energies).ravel()


@dataclass(frozen=True)
class LinearClassifier:
    """Ridge regression onto the classes, on standardised features.

    Attributes:
        mean: (F,) of the training features.
        scale: (F,) their spread.
        weight: (F + 1, C), the offset last.
    """

    mean: Features
    scale: Features
    weight: Features

    @classmethod
    def fit(cls, features: Features, labels: npt.NDArray[np.int64], classes: int) -> LinearClassifier:
        """Fit on training rows, every class weighing the same; the penalty is the one with the least error left out.

        Args:
            features: (N, F).
            labels: (N,) of 0 .. classes - 1.
            classes: their number.
        """
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        inputs = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
        targets = np.eye(classes)[labels]
        weights = (1.0 / np.maximum(np.bincount(labels, minlength=classes), 1))[labels]
        root = np.sqrt(weights / weights.mean())[:, np.newaxis]
        left, singular, right = np.linalg.svd(inputs * root, full_matrices=False)
        projected = left.T @ (targets * root)
        best: tuple[float, Features] | None = None
        for penalty in np.geomspace(1e-2, 1e5, 15):
            shrunk = singular**2 / (singular**2 + penalty)
            fitted = left @ (shrunk[:, np.newaxis] * projected)
            # Leave-one-out errors of ridge regression are known in closed form.
            leverage = np.clip((left**2) @ shrunk, 0.0, 1.0 - 1e-6)
            error = float((((targets * root - fitted) / (1.0 - leverage)[:, np.newaxis]) ** 2).mean())
            if best is None or error < best[0]:
                weight = right.T @ ((singular / (singular**2 + penalty))[:, np.newaxis] * projected)
                best = error, weight
        assert best is not None
        return cls(mean, scale, best[1])

    def predict(self, features: Features) -> npt.NDArray[np.int64]:
        """(N, F) -> (N,) classes."""
        inputs = np.hstack([(features - self.mean) / self.scale, np.ones((len(features), 1))])
        found: npt.NDArray[np.int64] = (inputs @ self.weight).argmax(axis=1)
        return found


def balanced_accuracy(labels: npt.NDArray[np.int64], found: npt.NDArray[np.int64], classes: int) -> float:
    """The mean over classes of the share that was found; chance is 1 / classes whatever their sizes."""
    shares = [float((found[labels == c] == c).mean()) for c in range(classes) if (labels == c).any()]
    return float(np.mean(shares)) if shares else 0.0
