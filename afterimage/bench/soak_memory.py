"""Memory of this process over a long run: samples, and the slope of a line through them."""

from __future__ import annotations

import gc
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 0.1
"""Share of a run that is left out: queues, caches and reservoirs fill, once."""


@dataclass(frozen=True)
class MemorySample:
    """Memory at one moment.

    Attributes:
        messages: sent so far.
        resident_kib: resident memory of the process.
        objects: that Python's garbage collector knows of, after a collection.
    """

    messages: int
    resident_kib: int
    objects: int


def sample_memory(messages: int) -> MemorySample:
    """Collect garbage and look."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return MemorySample(messages, pages * resource.getpagesize() // 1024, len(gc.get_objects()))


def slope_per_million(messages: Sequence[int], values: Sequence[float]) -> tuple[float, float] | None:
    """A line through values over messages, by least squares: its slope per million messages, and standard error.

    The error takes the samples' deviations from the line as independent. Memory moves in steps, so they are not quite,
    and the true error is larger. None with fewer than three samples, which make no error.
    """
    if len(messages) < 3:
        return None
    x, y = np.asarray(messages, np.float64) / 1e6, np.asarray(values, np.float64)
    x -= x.mean()
    spread = float(x @ x)
    slope = float(x @ (y - y.mean())) / spread
    residual = y - y.mean() - slope * x
    return slope, float(np.sqrt(residual @ residual / (len(x) - 2) / spread))


def memory_report(samples: Sequence[MemorySample], messages: int) -> dict[str, Any]:
    """Slopes after the warm-up, and the samples.

    Args:
        samples: in order.
        messages: sent in all.

    Returns:
        ``rss_slope_kb_per_million`` (kibibytes of resident memory per million messages) and its standard error
        ``rss_slope_se``, ``objects_slope_per_million`` and ``objects_slope_se``, each None where too few samples are
        left; ``rss_kb`` first and last after the warm-up; ``memory``: every sample.
    """
    warm = [s for s in samples if s.messages >= WARM_UP * messages]
    at = [s.messages for s in warm]
    resident = slope_per_million(at, [s.resident_kib for s in warm])
    objects = slope_per_million(at, [s.objects for s in warm])
    return {
        "rss_slope_kb_per_million": None if resident is None else round(resident[0], 3),
        "rss_slope_se": None if resident is None else round(resident[1], 3),
        "objects_slope_per_million": None if objects is None else round(objects[0], 3),
        "objects_slope_se": None if objects is None else round(objects[1], 3),
        "rss_kb": [warm[0].resident_kib, warm[-1].resident_kib] if warm else [],
        "memory": [asdict(s) for s in samples],
    }
