"""Timing several calls in one run, turn by turn, so that whatever else the machine does affects all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Case = TypeVar("Case", bound=Hashable)
Call = Callable[[], object]
Say = Callable[[str, float], None]
"""Told what a measurement does, and which share of all of it is done, 0..1."""

WARM_UP_CALLS = 3
BLOCK_SECONDS = 0.01
LONGEST_BLOCK = 20


@dataclass
class Timings:
    """How long the calls of one case took, block by block, in seconds; no block is empty."""

    blocks: list[list[float]] = field(default_factory=list)

    def add(self, block: list[float]) -> None:
        """Keep a block; an empty one is left out."""
        if block:
            self.blocks.append(block)

    @property
    def all(self) -> list[float]:
        """Every latency, in seconds."""
        return [s for block in self.blocks for s in block]

    def summary(self, rows: int = 1) -> dict[str, float]:
        """Figures of the case.

        Args:
            rows: decided or encoded by each call, for the throughput.

        Returns:
            ``p50_us`` (median over blocks of their medians), ``p10_us`` and ``p99_us`` (of all calls; on a busy machine
            the p10 is nearest to what a quiet one gives), ``rows_per_s`` at the median, ``noise`` (half the
            interquartile range of the blocks' medians, over the median) and ``calls``.
        """
        medians = [float(np.median(block)) for block in self.blocks]
        p50 = float(np.median(medians))
        low, high = np.percentile(medians, (25, 75))
        return {
            "p50_us": round(1e6 * p50, 2),
            "p10_us": round(1e6 * float(np.percentile(self.all, 10)), 2),
            "p99_us": round(1e6 * float(np.percentile(self.all, 99)), 2),
            "rows_per_s": round(rows / p50, 1),
            "noise": round(float(high - low) / 2 / p50, 4),
            "calls": len(self.all),
        }


def paired_ratio(above: Timings, below: Timings) -> float:
    """How many times as long one case takes as another: the median of the ratios within each round.

    A busy machine disturbs it less than the ratio of two medians, because what disturbs a round disturbs both cases.
    """
    rounds = zip(above.blocks, below.blocks, strict=True)
    return round(float(np.median([np.median(a) / np.median(b) for a, b in rounds])), 3)


def interleave(
    cases: Mapping[Case, Call],
    *,
    seconds: float,
    rounds: tuple[int, int],
    block: int | None = None,
    seed: int = 0,
    advance: Callable[[float], None] = lambda share: None,
) -> dict[Case, Timings]:
    """Time cases in rounds: in each round every case has one block of calls, in a random order.

    The first calls of a case (compilation, allocation) and the first call of each block (caches filled by another
    case) are not counted. Python's garbage collector is off meanwhile.

    Args:
        cases: what to call.
        seconds: stop after the round in which this time is over.
        rounds: how many at least, and how many at most.
        block: counted calls per block; None: about 10 ms of them.
        seed: of the order.
        advance: told which share is done, 0..1, after each round.
    """
    order = list(cases)
    sizes = {c: _block_size(call) if block is None else block for c, call in cases.items()}
    timings: dict[Case, Timings] = {c: Timings() for c in order}
    rng = random.Random(seed)
    fewest, most = rounds
    begin = time.perf_counter()
    with held_garbage():
        for done in range(1, most + 1):
            rng.shuffle(order)
            for case in order:
                timings[case].add(_block(cases[case], sizes[case]))
            spent = time.perf_counter() - begin
            advance(min(1.0, max(done / most, min(spent / seconds, done / fewest))))
            if spent > seconds and done >= fewest:
                break
    return timings


def _block_size(call: Call) -> int:
    """Warm a case up, and return how many of its calls fill a block."""
    fastest = min(timed(call) for _ in range(WARM_UP_CALLS))
    return int(min(max(BLOCK_SECONDS // max(fastest, 1e-9), 1), LONGEST_BLOCK))


def _block(call: Call, size: int) -> list[float]:
    call()
    return [timed(call) for _ in range(size)]


def timed(call: Call) -> float:
    """Seconds that one call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@contextmanager
def held_garbage() -> Iterator[None]:
    """Keep Python's garbage collector from running in the middle of a measurement."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
