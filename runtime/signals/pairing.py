"""Pairing recordings of different sensors into moments, within class and within split; pure and seeded.

Signals that were recorded separately become multimodal moments by sharing a class: real signals, artificial pairing.
Every recording of a split is used about equally often, and every block of C successive moments (C classes) holds each
class once, so that any prefix of a split is balanced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from runtime.signals.moments import Moments


def stable_fraction(text: str) -> float:
    """A number in [0, 1) from the text alone (sha256): groups chosen by it do not depend on the rest of a pack."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def repeated_permutations(
    items: npt.NDArray[np.int64], length: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """``length`` draws; how often any two items are drawn differs by at most one.

    Args:
        items: (K,) what to draw from, K >= 1.
        length: number of draws.
        rng: source of randomness.

    Returns:
        (length,) int64: random permutations of ``items``, one after the other.
    """
    rounds = -(-length // len(items))
    return np.concatenate([rng.permutation(items) for _ in range(rounds)])[:length].astype(np.int64)


def pair_within_class(
    recordings: Mapping[str, Sequence[npt.NDArray[np.int64]]],
    shared: Mapping[str, str],
    pairings: int,
    rng: np.random.Generator,
) -> Moments:
    """Draw the moments of one split.

    Each class gets ``pairings * n`` moments, where n is the largest number of recordings that any modality has of
    any class: so every recording is in at least ``pairings`` moments.

    Args:
        recordings: modality -> per class, (K,) int64 row numbers of that split.
        shared: modality -> the modality whose recording it shares (recorded together), as depth shares RGB's.
        pairings: moments in which the rarest-used recording of the largest class takes part, >= 1.
        rng: source of randomness; modalities draw in the order of the mapping.

    Returns:
        Moments, classes interleaved in random order.
    """
    classes = len(next(iter(recordings.values())))
    per_class = pairings * max(len(rows) for rows_of in recordings.values() for rows in rows_of)
    # One class after the other here; interleaved below.
    drawn = {
        modality: np.stack([repeated_permutations(rows, per_class, rng) for rows in rows_of])
        for modality, rows_of in recordings.items()
    }
    blocks = rng.permuted(np.tile(np.arange(classes, dtype=np.int64), (per_class, 1)), axis=1)
    labels = blocks.reshape(-1)
    turn = np.repeat(np.arange(per_class), classes)
    paired = {modality: table[labels, turn] for modality, table in drawn.items()}
    paired |= {modality: paired[of].copy() for modality, of in shared.items()}
    return Moments(labels=labels, recordings=paired)
