"""Clocks of this machine other than CLOCK_MONOTONIC, and how far they are from it."""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime.wire import Clock


def clock_beside_monotonic(name: str, read_ns: Callable[[], int]) -> Clock:
    """A clock with its offset to CLOCK_MONOTONIC: read between two readings of that one, the closest pair of three.

    Args:
        name: id of the clock.
        read_ns: reads its time, ns.
    """
    best: Clock | None = None
    for _ in range(3):
        before = time.monotonic_ns()
        there = read_ns()
        after = time.monotonic_ns()
        uncertainty = (after - before + 1) // 2
        if best is None or uncertainty < best.uncertainty_ns:
            best = Clock(name, there - (before + after) // 2, uncertainty)
    assert best is not None
    return best


def wall_clock(name: str) -> Clock:
    """The machine's UNIX time, for libraries that stamp with it; measured for every message, because it may be set."""
    return clock_beside_monotonic(name, time.time_ns)
