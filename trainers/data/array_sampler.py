"""Training batches from rows in memory, drawn from groups in fixed shares, with exact resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainers.data.sampler import Batch

Rows = npt.NDArray[np.int64]
Group = tuple[Rows, int]
"""Rows and how many of them a batch takes."""


class BatchSource(Protocol):
    """Anything that makes a batch of numbered rows; a ``trainers.papers`` PairedSet is one."""

    def __len__(self) -> int:
        """Number of rows."""

    def batch(self, index: Rows) -> Batch:
        """Some rows as a batch."""


class ArraySampler:
    """Draws batches without end, with a fixed number of rows of every group; each group has its own epochs.

    So a hundred labelled pairs among sixty thousand unpaired rows can be half of every batch. Every epoch of a group
    visits each of its rows once, in an order that depends on (seed, group, epoch) alone.

    Args:
        source: of the rows.
        groups: rows and their number per batch; one group of all rows with that number per batch if given a number.
        seed: of the orders.

    Raises:
        ValueError: a group that is empty, a count below 1, or rows outside the source.
    """

    def __init__(self, source: BatchSource, groups: int | Sequence[Group], seed: int) -> None:
        if isinstance(groups, int):
            groups = ((np.arange(len(source), dtype=np.int64), groups),)
        for number, (rows, count) in enumerate(groups):
            if not len(rows) or count < 1 or rows.min() < 0 or rows.max() >= len(source):
                raise ValueError(
                    f"group {number}: expected rows within 0 .. {len(source) - 1} and a count of at least 1, got "
                    f"{len(rows)} rows and count {count}"
                )
        self._source, self._groups, self._seed = source, tuple(groups), seed
        self._batches = 0
        self._orders: dict[tuple[int, int], Rows] = {}

    def next(self) -> Batch:
        """The next batch: the groups' rows one after the other."""
        chosen = [self._draw(number, count) for number, (_, count) in enumerate(self._groups)]
        self._batches += 1
        return self._source.batch(np.concatenate(chosen))

    def _draw(self, group: int, count: int) -> Rows:
        places = np.arange(self._batches * count, (self._batches + 1) * count)
        epochs, within = np.divmod(places, len(self._groups[group][0]))
        return np.array(
            [self._order(group, int(e))[w] for e, w in zip(epochs, within, strict=True)], np.int64
        )

    def _order(self, group: int, epoch: int) -> Rows:
        if (group, epoch) not in self._orders:
            # Only this epoch is needed and, while a batch spans two, the one before.
            self._orders = {k: v for k, v in self._orders.items() if k[0] != group or k[1] == epoch - 1}
            rng = np.random.default_rng([0x41525259, self._seed, group, epoch])
            self._orders[group, epoch] = rng.permutation(self._groups[group][0])
        return self._orders[group, epoch]

    def state_dict(self) -> dict[str, Any]:
        """The state on which the next batch depends besides the constructor's arguments, as JSON types."""
        return {
            "seed": self._seed,
            "batches": self._batches,
            "groups": [[len(r), n] for r, n in self._groups],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken.

        Raises:
            ValueError: the state is of another seed or other groups.
        """
        mine = self.state_dict()
        for key in ("seed", "groups"):
            if state.get(key) != mine[key]:
                raise ValueError(f"sampler state has {key} {state.get(key)}, this sampler {mine[key]}")
        self._batches = int(state["batches"])
