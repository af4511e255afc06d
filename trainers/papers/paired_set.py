"""A paper's training set: rows of several modalities in memory, with or without labels and partners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainers.data.sampler import Batch

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairedSet:
    """N rows of M modalities.

    Attributes:
        arrays: modality -> (N, *window_shape) raw values; its order is that of the presence mask. Rows where the
            modality is absent hold anything finite.
        labels: (N,) int64, -1 where the label is absent.
        presence: (N, M) float32 of 0 and 1.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64]
    presence: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse arrays, labels and masks of different lengths."""
        lengths = {name: len(a) for name, a in self.arrays.items()} | {"labels": len(self.labels)}
        if set(lengths.values()) != {len(self.presence)} or self.presence.shape[1] != len(self.arrays):
            raise ValueError(
                f"expected {len(self.presence)} rows of everything and one column of presence per modality, got "
                f"{lengths} and presence {self.presence.shape}"
            )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modalities in the order of the presence mask."""
        return tuple(self.arrays)

    @classmethod
    def complete(
        cls, arrays: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[np.integer[Any]]
    ) -> PairedSet:
        """A set in which every row has every modality and its label."""
        presence = np.ones((len(labels), len(arrays)), np.float32)
        return cls(dict(arrays), labels.astype(np.int64), presence)

    def rows(self, index: Rows) -> PairedSet:
        """Some of the rows, in the order of ``index``."""
        arrays = {name: array[index] for name, array in self.arrays.items()}
        return PairedSet(arrays, self.labels[index], self.presence[index])

    def without_labels(self, index: Rows) -> PairedSet:
        """The same set with the labels of some rows absent."""
        labels = self.labels.copy()
        labels[index] = -1
        return replace(self, labels=labels)

    def without(self, modality: str, index: Rows) -> PairedSet:
        """The same set with one modality absent from some rows.

        Raises:
            ValueError: no such modality.
        """
        presence = self.presence.copy()
        presence[index, self.modality_names.index(modality)] = 0.0
        return replace(self, presence=presence)

    def batch(self, index: Rows) -> Batch:
        """Some rows as a training batch; absent windows are zeros, as the runtime has it."""
        presence = torch.from_numpy(self.presence[index])
        windows = {}
        for column, (name, array) in enumerate(self.arrays.items()):
            window = torch.from_numpy(array[index].astype(np.float32))
            window[presence[:, column] == 0] = 0.0
            windows[name] = window
        return Batch(windows, torch.from_numpy(self.labels[index]), presence)

    def batches(self, size: int = 250) -> list[Batch]:
        """All rows in order, as batches of at most ``size``."""
        every = np.arange(len(self), dtype=np.int64)
        return [self.batch(every[begin : begin + size]) for begin in range(0, len(self), size)]
