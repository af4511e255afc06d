"""Timing several things in one run, turn by turn, so that what else the machine does hits all of them alike."""

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

WARM_UP_CALLS = 3
BLOCK_SECONDS = 0.01
LONGEST_BLOCK = 20


@dataclass
class Samples:
    """Latencies of one case, block by block."""

    blocks: list[list[float]] = field(default_factory=list)

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
            the first is nearest to what a quiet one gives), ``rows_per_s`` at the median, ``noise`` (half the
            interquartile range of the blocks' medians over the median) and ``calls``.
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


def paired_ratio(above: Samples, below: Samples) -> float:
    """How many times as long one case takes as another: the median over rounds, each compared within itself.

    Less at the mercy of a busy machine than the ratio of two medians, since what disturbs a round disturbs both.
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
) -> dict[Case, Samples]:
    """Time cases in rounds: in each, every case has one block of calls, in an order drawn anew.

    The first calls of a case (compilation, allocation) and the first call of each block (caches filled by another
    case) are not counted. Python's garbage collector is held meanwhile.

    Args:
        cases: what to call.
        seconds: stop after the round in which this is spent.
        rounds: at least and at most so many.
        block: counted calls per block; None: about 10 ms of them.
        seed: of the order.
        advance: told the share done, 0..1, after each round.
    """
    order = list(cases)
    sizes = {c: _block_size(call) if block is None else block for c, call in cases.items()}
    samples: dict[Case, Samples] = {c: Samples() for c in order}
    rng = random.Random(seed)
    fewest, most = rounds
    begin = time.perf_counter()
    with held_garbage():
        for done in range(1, most + 1):
            rng.shuffle(order)
            for case in order:
                samples[case].blocks.append(_block(cases[case], sizes[case]))
            spent = time.perf_counter() - begin
            advance(min(1.0, max(done / most, min(spent / seconds, done / fewest))))
            if spent > seconds and done >= fewest:
                break
    return samples


def _block_size(call: Call) -> int:
    """Warm a case up, and say how many of its calls fill a block."""
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
