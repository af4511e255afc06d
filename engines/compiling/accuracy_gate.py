"""The accuracy gate: does an engine decide as PyTorch does, in every missing pattern, on validation windows?

Parity compares tensors, which may differ by rounding; a target's promise is about decisions. The decision set of a
bundle holds a few hundred validation windows of every modality, and PyTorch's logits for each missing pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from engines.backends.interface import Array
from engines.bundle import DECISIONS_NAME, BundleError, Manifest
from engines.compiling.bundle_arrays import BundleArrays
from engines.compiling.parity import THRESHOLD, differing_decisions, fuse_in_batches, in_batches
from engines.session import Session


class DecisionSet(BundleArrays):
    """``decisions.npz`` of a bundle or an engine.

    Attributes:
        presence: (2^M, M) float32, every missing pattern once.
        patterns: the name of each row of ``presence``.
        window: modality -> (N, *window_shape), raw.
        logits: PyTorch's (N, C) for each row of ``presence``.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Read and check the file.

        Raises:
            BundleError: it is missing or broken, or lacks an array; the message says to export the bundle again.
        """
        super().__init__(path, manifest)
        self.presence, self.patterns = self.read_presence()
        self.window = self.windows()
        self.logits: list[Array] = [
            self.array(f"logits_{p}", (len(manifest.classes),)) for p in range(len(self.patterns))
        ]
        for pattern, logits in zip(self.patterns, self.logits, strict=True):
            if len(logits) != self.rows or not np.isfinite(logits).all():
                raise BundleError(
                    f"{path}: logits of pattern {pattern}: expected {self.rows} finite rows, got {len(logits)}"
                )

    @property
    def rows(self) -> int:
        """Windows of each modality."""
        return len(self.window[self.names[0]])


@dataclass(frozen=True)
class DecisionChange:
    """How many decisions of a session differ from PyTorch's.

    Attributes:
        rows: windows that were decided in every pattern.
        differing: missing pattern -> rows whose decision differs by more than a tie.
    """

    rows: int
    differing: Mapping[str, int]

    @property
    def worst(self) -> str:
        """The pattern with the most differing decisions."""
        return max(self.differing, key=lambda pattern: self.differing[pattern])

    @property
    def worst_share(self) -> float:
        """Share of the worst pattern's decisions that differ."""
        return self.differing[self.worst] / self.rows

    def above(self, allowed: float) -> str:
        """The patterns with a larger share than allowed, with their counts, worst first; empty if there are none."""
        worst = sorted(self.differing.items(), key=lambda of: -of[1])
        return ", ".join(f"{p} {n} of {self.rows}" for p, n in worst if n / self.rows > allowed)


def has_decisions(manifest: Manifest) -> bool:
    """Whether a bundle has a decision set; older bundles have none."""
    return DECISIONS_NAME in manifest.files


def decision_change(session: Session, decisions: DecisionSet) -> DecisionChange:
    """Decide every raw window in every missing pattern, and compare the decisions with PyTorch's.

    Where PyTorch's logits are tied (within 0.1 % of the largest), either decision counts as equal.

    Raises:
        EngineError: the backend failed, or its evidence is not finite.
    """
    limit = session.maximum_batch or 64
    evidence = {
        name: in_batches(partial(session.encode, name), window, limit)
        for name, window in decisions.window.items()
    }
    differing = {}
    for pattern, mask, expected in zip(decisions.patterns, decisions.presence, decisions.logits, strict=True):
        logits, _, _ = fuse_in_batches(session, evidence, np.tile(mask, (decisions.rows, 1)), limit)
        differing[pattern] = differing_decisions(logits, expected, THRESHOLD)
    return DecisionChange(decisions.rows, differing)
