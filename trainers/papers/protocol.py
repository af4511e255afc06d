"""The interface of a protocol: the arms of a paper's table, their training and measurement, the paper's numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.errors import AfterimageError

Budget = Literal["smoke", "small", "full"]

Metrics = dict[str, float]
"""Results of one arm with one seed: metric -> value; accuracies and coherences in percent."""

Report = Callable[[str, int, int], None]
"""Called while an arm trains: current activity, steps done, steps planned."""


class ProtocolError(AfterimageError):
    """A protocol that cannot run as asked; names what was expected and what came."""


@dataclass(frozen=True)
class Cell:
    """One arm with one seed, trained and measured.

    Attributes:
        arm: a name of :meth:`Protocol.arms`.
        seed: of everything random in it.
        metrics: what was measured.
        seconds: training and measuring, on the machine it ran on.
    """

    arm: str
    seed: int
    metrics: Metrics
    seconds: float


class Protocol(ABC):
    """One seed table. Arms are independent: each is trained and measured by itself, in any order or process.

    Attributes:
        name: on the command line.
        title: of the table.
        reference: paper and table or figure.
        published: arm (or a row that we do not run) -> metric -> the paper's number, as printed; empty where the
            text has none.
        notes: what differs from the paper's setting, one sentence each; printed under the table.
    """

    name: str
    title: str
    reference: str
    published: Mapping[str, Mapping[str, float | str]]
    notes: Sequence[str] = ()

    @abstractmethod
    def arms(self, budget: Budget) -> tuple[str, ...]:
        """Rows of the table at a budget."""

    @abstractmethod
    def run(self, arm: str, seed: int, budget: Budget, data: Path, folder: Path, report: Report) -> Metrics:
        """Train and measure one arm with one seed.

        Args:
            arm: one of :meth:`arms`.
            seed: of everything random, draws of labels and pairs included.
            budget: ``smoke`` (seconds), ``small`` (minutes on one core), ``full`` (the paper's setting).
            data: folder of the recorded packs.
            folder: of this cell, for checkpoints and samples; what an earlier, interrupted run left there is taken up.
            report: progress.

        Raises:
            PackError: a pack is missing or broken.
            TrainingError: training failed.
        """

    def figures(self, cells: Sequence[Cell], folder: Path) -> list[Path]:
        """Draw the paper's figures; ``folder`` holds ``cells/<arm>/<seed>`` and takes the PNGs."""
        return []
