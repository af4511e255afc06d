"""Moments: the one interface to recorded and synthetic signals, for playing live and for training alike.

A *moment* is a few seconds during which one class holds, with a signal at native rate for every modality of the rig.
A sensor process plays moments message by message; a trainer cuts windows from the same moments. A model therefore
learns from exactly what the runtime plays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from runtime.rig import Rig

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Moments:
    """The moments of one split.

    Attributes:
        labels: (N,) int64, index into ``MomentSource.classes``.
        recordings: modality -> (N,) int64, which recording (or which seed) plays in each moment; saved with results.
    """

    labels: npt.NDArray[np.int64]
    recordings: dict[str, npt.NDArray[np.int64]]

    def __len__(self) -> int:
        """Number of moments."""
        return len(self.labels)


class MomentSource(Protocol):
    """A source of moments. Reading is deterministic: the same arguments give the same bytes, in any process."""

    name: Literal["recorded", "synthetic"]
    rig: Rig
    classes: tuple[str, ...]
    duration_s: float
    """Length of every moment; ``read`` is defined for start + count up to duration_s * rate_hz."""
    settle_s: dict[str, float]
    """Modality -> seconds at the start of a moment that a training window should leave out (cue, reaction)."""

    def moments(self, split: Split) -> Moments:
        """The moments of a split, in a fixed seeded order, classes balanced."""
        ...

    def read(self, split: Split, moment: int, modality: str, start: int, count: int) -> npt.NDArray[Any]:
        """Samples ``start .. start + count`` of one modality in one moment.

        Returns:
            (count, *sample_shape) in the rig's dtype and unit; time first.

        Raises:
            IndexError: moment or sample range outside the split, with the valid range in the message.
            KeyError: unknown modality.
        """
        ...
