"""Training batches with exact resume: every draw is a function of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from runtime.signals.moments import Split
from trainers.data.missingness import MissingnessPlan
from trainers.data.windows import Examples, Source, Windows, examples_of

_STATE_KEYS = ("seed", "epoch", "position", "moments", "batch_size")


@dataclass(frozen=True)
class Batch:
    """One batch of examples.

    Attributes:
        windows: modality -> (B, *window_shape) float32, raw units; zeros where the modality is absent.
        labels: (B,) int64, -1 where the label is absent.
        presence: (B, M) float32 of 0 and 1, columns in the order of ``windows``.
        targets: modality -> what its decoder should give and how far each element was measured, where that was
            worked out beforehand; empty otherwise.
    """

    windows: dict[str, torch.Tensor]
    labels: torch.Tensor
    presence: torch.Tensor
    targets: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


class BatchSampler:
    """Draws batches from a split, epoch by epoch, without end.

    Each epoch visits every moment once in a new order and draws where the windows end, uniformly over the settled part
    of the moment. The last incomplete batch of an epoch is left out.

    Args:
        source: where samples come from.
        lengths: modality -> window length in samples; its order is that of the presence mask.
        split: which moments.
        batch_size: examples in a batch.
        seed: of order and window ends.
        plan: which labels and modalities are missing; none by default.
        views: windows per moment, drawn once and then kept in memory. None draws new windows every time, which suits
            recordings, where reading is a copy; rendering a synthetic moment takes milliseconds. Default: None for
            recorded, 1 for synthetic sources.

    Raises:
        ValueError: fewer moments than one batch, or a plan or window that does not fit the source.
    """

    def __init__(
        self,
        source: Source,
        lengths: Mapping[str, int],
        split: Split,
        batch_size: int,
        seed: int,
        plan: MissingnessPlan | None = None,
        *,
        views: Literal["default"] | int | None = "default",
    ) -> None:
        self._windows = examples_of(source, split, lengths)
        count = len(self._windows)
        if not 1 <= batch_size <= count:
            raise ValueError(
                f"batch_size {batch_size}: the {split} split has {count} moments, valid are 1 .. {count}"
            )
        self._batch_size = batch_size
        self._seed = seed
        labelled, self.presence = (plan or MissingnessPlan()).masks(count, self._windows.modality_names)
        self.labels = np.where(labelled, self._windows.labels, -1)
        if views == "default":
            views = 1 if source.name == "synthetic" else None
        self._kept = None if views is None else KeptWindows(self._windows, views, seed)
        self._epoch, self._position = 0, 0
        self._draw_epoch()

    def __len__(self) -> int:
        """Number of moments."""
        return len(self._windows)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the moments."""
        return len(self) // self._batch_size

    def _draw_epoch(self) -> None:
        rng = np.random.default_rng([0x42415443, self._seed, self._epoch])
        self._order = rng.permutation(len(self))
        self._fractions = rng.random(len(self))

    def next(self) -> Batch:
        """The next batch; begins a new epoch when the current one is used up."""
        if self._position >= self.batches_per_epoch:
            self._epoch, self._position = self._epoch + 1, 0
            self._draw_epoch()
        here = slice(self._position * self._batch_size, (self._position + 1) * self._batch_size)
        self._position += 1
        return self._batch(self._order[here], self._fractions[here])

    def _batch(self, moments: npt.NDArray[np.int64], fractions: npt.NDArray[np.float64]) -> Batch:
        presence = self.presence[moments]
        if self._kept is not None:
            raw = self._kept.take(moments, fractions)
        else:
            earliest, latest = self._windows.ends_s(moments)
            ends = earliest + (latest - earliest) * fractions
            raw = self._windows.cut(moments, ends)
            presence = presence * self._windows.presence(moments, ends)
        windows = {}
        for column, (modality, values) in enumerate(raw.items()):
            # A copy: float32 EEG would otherwise be the source's own memory.
            window = torch.from_numpy(values.astype(np.float32))
            window[torch.from_numpy(presence[:, column] == 0)] = 0.0
            windows[modality] = window
        return Batch(windows, torch.from_numpy(self.labels[moments]), torch.from_numpy(presence))

    def state_dict(self) -> dict[str, int]:
        """The state on which the next batch depends besides the constructor's arguments, as JSON types."""
        values = (self._seed, self._epoch, self._position, len(self), self._batch_size)
        return dict(zip(_STATE_KEYS, values, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken.

        Raises:
            ValueError: the state is of another set, seed or batch size.
        """
        if set(state) != set(_STATE_KEYS):
            raise ValueError(f"sampler state should have {list(_STATE_KEYS)}, got {sorted(state)}")
        mine = self.state_dict()
        for key in ("seed", "moments", "batch_size"):
            if state[key] != mine[key]:
                raise ValueError(f"sampler state has {key} {state[key]}, this sampler {mine[key]}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        self._draw_epoch()


class KeptWindows:
    """A store of windows that are costly to make: each (moment, view) is made on first use and kept in the raw dtype.

    Args:
        windows: where they come from.
        views: windows per moment.
        seed: of where they end; view v ends in the v-th of ``views`` equal stretches of the allowed time.
    """

    def __init__(self, windows: Examples, views: int, seed: int) -> None:
        if views < 1:
            raise ValueError(f"views {views}: at least 1 is needed")
        self._windows = windows
        self._views = views
        drawn = np.random.default_rng([0x4B455054, seed]).random((len(windows), views))
        earliest, latest = (ends[:, None] for ends in windows.ends_s(np.arange(len(windows), dtype=np.int64)))
        self._ends = earliest + (latest - earliest) * (np.arange(views) + drawn) / views
        self._made = np.zeros(len(windows) * views, bool)
        self._store: Windows = {}

    def take(self, moments: npt.NDArray[np.int64], fractions: npt.NDArray[np.float64]) -> Windows:
        """Windows of some moments; ``fractions`` (B,) in [0, 1) choose the view."""
        views = (fractions * self._views).astype(np.int64)
        slots = moments * self._views + views
        wanted = np.unique(slots[~self._made[slots]])
        if len(wanted):
            moment, view = np.divmod(wanted, self._views)
            for modality, values in self._windows.cut(moment, self._ends[moment, view]).items():
                if modality not in self._store:
                    self._store[modality] = np.empty((len(self._made), *values.shape[1:]), values.dtype)
                self._store[modality][wanted] = values
            self._made[wanted] = True
        return {modality: store[slots] for modality, store in self._store.items()}
