"""Memory of this process over a long run: samples, and the slope of a line through them.

Resident memory also grows where an allocator's free memory is in pieces, and where reserved memory is used for the
first time. What is in use of the C library's heap (:attr:`MemorySample.heap_kib`) does not grow by that: a leak shows
in both.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 0.1
"""Share of a run that is left out, because queues, caches and reservoirs fill once."""


@dataclass(frozen=True)
class MemorySample:
    """Memory at one moment.

    Attributes:
        messages: sent so far.
        resident_kib: resident memory of the process.
        heap_kib: handed out by the C library and in use; None where it does not say (not glibc 2.33 or later).
        blocks: of memory that Python's own allocator has in use, after a collection.
        objects: that Python's garbage collector knows of, after a collection.
    """

    messages: int
    resident_kib: int
    heap_kib: int | None
    blocks: int
    objects: int


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h; sums over all arenas."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _heap_kib() -> int | None:
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo.restype = _MallocInfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd) // 1024


def grow_interned_strings(count: int = 100_000) -> None:
    """Let Python's table of interned strings grow to the size that it reaches at some time in a long run.

    msgpack interns the keys of every header that it reads. Each new key (of a header with wrong bytes in it) takes a
    place in the table; when none is left, after some ten thousands of them, the table is built again with twice as many
    places (2 MB more with some 40,000 strings of imported code). The keys themselves are gone by then, so the table
    does not grow again: it is one step, not growth.
    """
    for number in range(count):
        sys.intern(f"never seen before {number}")


def sample_memory(messages: int) -> MemorySample:
    """Collect garbage and look."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return MemorySample(
        messages=messages,
        resident_kib=pages * resource.getpagesize() // 1024,
        heap_kib=_heap_kib(),
        blocks=sys.getallocatedblocks(),
        objects=len(gc.get_objects()),
    )


def slope_per_million(messages: Sequence[int], values: Sequence[float]) -> tuple[float, float] | None:
    """A line through values over messages, by least squares: its slope per million messages, and standard error.

    The error assumes that the samples' deviations from the line are independent. Memory grows in steps, so they are
    not quite, and the true error is larger. None with fewer than three samples, from which no error follows.
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
        ``rss_slope_se``; the same of what is in use of the C library's heap, of Python's blocks and of its objects
        (``heap_slope_kb_per_million``, ``blocks_slope_per_million``, ``objects_slope_per_million``); each None where
        too few samples are left. ``rss_kb`` first and last after the warm-up; ``memory``: every sample.
    """
    warm = [s for s in samples if s.messages >= WARM_UP * messages]
    at = [s.messages for s in warm]
    series = {
        "rss_slope_kb_per_million": [s.resident_kib for s in warm],
        "heap_slope_kb_per_million": [s.heap_kib for s in warm if s.heap_kib is not None],
        "blocks_slope_per_million": [s.blocks for s in warm],
        "objects_slope_per_million": [s.objects for s in warm],
    }
    report: dict[str, Any] = {}
    for name, values in series.items():
        line = slope_per_million(at, values) if len(values) == len(at) else None
        error = name.split("_slope")[0] + "_slope_se"
        report[name], report[error] = (None, None) if line is None else (round(line[0], 3), round(line[1], 3))
    report["rss_kb"] = [warm[0].resident_kib, warm[-1].resident_kib] if warm else []
    return report | {"memory": [asdict(s) for s in samples]}
