"""The recorded packs as the papers' protocols take them: arrays with train, validation and test rows.

Validation rows come out of train, in the grouping that each pack's own documentation asks for, so that near-duplicates
do not sit on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.signals.packs import Pack

Rows = npt.NDArray[np.int64]

VALIDATION_SHARE = 0.15
"""Share of each class's training part (finger spelling) that is used for validation."""
MNIST_VALIDATION = 5000
FASHION_VALIDATION = 300
SPEECH_VALIDATION_TAKES = (5, 6, 7, 8, 9)


@dataclass(frozen=True)
class Recordings:
    """Recordings of one or two sensors with labels, and their train, validation and test rows.

    Attributes:
        arrays: name -> (N, ...) raw values.
        labels: (N,) int64.
        train: rows to learn from.
        validation: rows to choose settings by.
        test: rows to report on, once.
    """

    arrays: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64]
    train: Rows
    validation: Rows
    test: Rows

    @property
    def images(self) -> npt.NDArray[Any]:
        """The only array.

        Raises:
            ValueError: there is more than one.
        """
        if len(self.arrays) != 1:
            raise ValueError(f"expected recordings of one sensor, these have {sorted(self.arrays)}")
        return next(iter(self.arrays.values()))


def _read_once(name: str) -> Callable[[Callable[[Path], Recordings]], Callable[[Path], Recordings]]:
    """Make a reader of a pack keep what it read until the file changes: every cell of a protocol asks for it again.

    Decompressing a pack takes seconds. The arrays are read-only, so that no cell changes what the next one gets.
    """

    def decorate(read: Callable[[Path], Recordings]) -> Callable[[Path], Recordings]:
        @lru_cache(maxsize=1)
        def read_version(path: Path, _changed_ns: int) -> Recordings:
            recordings = read(path)
            for array in (*recordings.arrays.values(), recordings.labels):
                array.setflags(write=False)
            return recordings

        def reader(data: Path) -> Recordings:
            path = data / name
            return read_version(path, path.stat().st_mtime_ns if path.is_file() else 0)

        reader.__doc__ = read.__doc__
        return reader

    return decorate


@_read_once("mnist.npz")
def mnist(path: Path) -> Recordings:
    """Handwritten digits, (70000, 28, 28) uint8; validation is the last 5000 of the official training part.

    Takes the folder of the packs, as the others below do.

    Raises:
        PackError: the pack is missing or broken; also for the others below.
    """
    return _official(path, MNIST_VALIDATION)


@_read_once("fashion_mnist_small.npz")
def fashion_mnist(path: Path) -> Recordings:
    """Garments, (3100, 28, 28) uint8; validation is the last 300 of the training part."""
    return _official(path, FASHION_VALIDATION)


@_read_once("fsdd.npz")
def spoken_digits(path: Path) -> Recordings:
    """Spoken digits, (3000, 8000) int16 at 8 kHz, zero-padded; takes 0-4 are test (official), 5-9 validation."""
    pack = Pack(path, ("wave", "label", "index", "split"))
    labels, take, split = (pack.array(name) for name in ("label", "index", "split"))
    every = np.arange(len(labels), dtype=np.int64)
    held_out = np.isin(take, SPEECH_VALIDATION_TAKES) & (split == 0)
    return Recordings(
        {"wave": pack.array("wave")},
        labels.astype(np.int64),
        every[(split == 0) & ~held_out],
        every[held_out],
        every[split == 1],
    )


@_read_once("asl_rgbd.npz")
def finger_spelling(path: Path) -> Recordings:
    """RGB and depth of 24 hand signs, recorded together.

    ``rgb`` is (N, 64, 64, 3) uint8, ``depth`` (N, 64, 64) uint16 millimetres.

    Frames follow one another in time, so validation is the last 15 % of each letter's training frames: one block.
    """
    pack = Pack(path, ("rgb", "depth_mm", "label", "frame", "split"))
    labels, frame, split = (pack.array(name) for name in ("label", "frame", "split"))
    train, validation = [], []
    for letter in np.unique(labels):
        rows = np.flatnonzero((labels == letter) & (split == 0))
        rows = rows[np.argsort(frame[rows], kind="stable")]
        boundary = len(rows) - round(VALIDATION_SHARE * len(rows))
        train.append(rows[:boundary])
        validation.append(rows[boundary:])
    return Recordings(
        {"rgb": pack.array("rgb"), "depth": pack.array("depth_mm")},
        labels.astype(np.int64),
        np.sort(np.concatenate(train)).astype(np.int64),
        np.sort(np.concatenate(validation)).astype(np.int64),
        np.flatnonzero(split == 1).astype(np.int64),
    )


def _official(path: Path, held_out: int) -> Recordings:
    pack = Pack(path, ("x_train", "y_train", "x_test", "y_test"))
    images = np.concatenate([pack.array("x_train"), pack.array("x_test")])
    first, second = pack.array("y_train"), pack.array("y_test")
    # Never more than a fifth, so that a small pack made for a test still has rows to learn from.
    boundary = len(first) - min(held_out, len(first) // 5)
    rows = np.arange(len(images), dtype=np.int64)
    labels = np.concatenate([first, second]).astype(np.int64)
    return Recordings(
        {"image": images}, labels, rows[:boundary], rows[boundary : len(first)], rows[len(first) :]
    )
