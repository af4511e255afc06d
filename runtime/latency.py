"""Latencies: a bounded memory of durations that gives honest percentiles however long a process runs."""

from __future__ import annotations

import random

import numpy as np


class LatencyReservoir:
    """A uniform random sample of all durations seen (Vitter's algorithm R), their count, mean and maximum.

    The sample does not forget the beginning and does not grow: a node that runs for months keeps the same
    memory.
    """

    def __init__(self, capacity: int = 8192, *, seed: int = 0) -> None:
        """Make an empty reservoir.

        Args:
            capacity: durations kept; percentiles are exact up to this many.
            seed: of which ones are kept beyond.
        """
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self._kept = np.zeros(capacity, dtype=np.float64)
        self._random = random.Random(seed)
        self.count = 0
        self.total_ms = 0.0
        self.maximum_ms = 0.0

    def add(self, duration_ms: float) -> None:
        """Take in one duration, in milliseconds."""
        if self.count < len(self._kept):
            self._kept[self.count] = duration_ms
        elif (place := self._random.randrange(self.count + 1)) < len(self._kept):
            self._kept[place] = duration_ms
        self.maximum_ms = max(self.maximum_ms, duration_ms) if self.count else duration_ms
        self.count += 1
        self.total_ms += duration_ms

    def kept(self) -> list[float]:
        """The durations that are kept, in milliseconds; all of them and in order while there are few."""
        kept: list[float] = self._kept[: min(self.count, len(self._kept))].tolist()
        return kept

    def percentile(self, percent: float) -> float | None:
        """A percentile in milliseconds; None while empty."""
        kept = self._kept[: min(self.count, len(self._kept))]
        return float(np.percentile(kept, percent)) if self.count else None

    def summary(self) -> dict[str, float | int | None]:
        """Count, mean, p50, p95, p99 and max in milliseconds, ready for JSON; None while empty."""
        return {
            "count": self.count,
            "mean": self.total_ms / self.count if self.count else None,
            "p50": self.percentile(50),
            "p95": self.percentile(95),
            "p99": self.percentile(99),
            "max": self.maximum_ms if self.count else None,
        }
