"""Decisions in every missing pattern, under three policies for the place of an absent sensor.

``impute``: the presence mask tells the model what is absent. ``hold`` and ``zero`` are what a system without a mask
does: it goes on with the sensor's last window, or with a blank one, as if that were live data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import pattern_key, presence_patterns
from engines.errors import InputError
from engines.session import Fused, Session
from runtime.signals.moments import MomentSource, Split
from trainers.data.windows import Windows, evaluation_windows
from trainers.evaluation.calibration_error import accuracy, expected_calibration_error

Array = npt.NDArray[np.float32]
Evidence = dict[str, Array]
"""Modality -> (N, evidence_size)."""

BATCH = 64


def batches(count: int, session: Session) -> Iterator[slice]:
    """Consecutive slices of ``count`` rows, none larger than the engine takes."""
    size = min(BATCH, session.maximum_batch or BATCH)
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))


def check_source(session: Session, source: MomentSource) -> None:
    """Raise an InputError if a source has other classes than the bundle; the message names both."""
    if tuple(source.classes) != session.manifest.classes:
        raise InputError(
            f"bundle {session.manifest.name!r} decides between {list(session.manifest.classes)}, the {source.name} "
            f"source has {list(source.classes)}; open the source that the bundle was trained on"
        )


def collect_windows(
    session: Session, source: MomentSource, split: Split, views: int, limit: int | None, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Windows]:
    """Moment numbers (N,), labels (N,) and raw windows of a split, as an evaluation measures them."""
    lengths = {m.name: m.window for m in session.manifest.modalities}
    chunks = list(evaluation_windows(source, split, lengths, views=views, limit=limit, seed=seed))
    windows = {name: np.concatenate([c.windows[name] for c in chunks]) for name in lengths}
    return np.concatenate([c.moments for c in chunks]), np.concatenate([c.labels for c in chunks]), windows


def encode_all(session: Session, windows: Mapping[str, npt.NDArray[Any]]) -> Evidence:
    """Evidence of (N, *window_shape) raw windows of every modality."""
    return {
        name: np.concatenate([session.encode(name, given[rows]) for rows in batches(len(given), session)])
        for name, given in windows.items()
    }


def zero_evidence(session: Session, count: int) -> Evidence:
    """Evidence of an all-zero raw window, repeated ``count`` times."""
    return {
        spec.name: np.repeat(
            session.encode(spec.name, np.zeros((1, *spec.window_shape), spec.dtype)), count, axis=0
        )
        for spec in session.manifest.modalities
    }


def previous_rows(moments: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """For every row, the row of the moment played before its own when moments play in a seeded random order.

    The order is a cycle, so the first moment follows the last. With balanced classes the previous moment is of
    another class about (C - 1) / C of the time.

    Args:
        moments: (N,) moment of each row: 0 .. K-1, then once more for every further view.
        seed: of the order.

    Returns:
        (N,) row numbers; each points into its own view.
    """
    count = len(np.unique(moments))
    if not np.array_equal(moments, np.arange(len(moments)) % count):
        raise ValueError("rows should hold all moments in order, one view after the other")
    order = np.random.default_rng([0x484F4C44, seed]).permutation(count)
    before = np.empty(count, np.int64)
    before[order] = np.roll(order, 1)
    return np.arange(len(moments)) - moments + before[moments]


def substitute(live: Evidence, stand_in: Evidence, pattern: Mapping[str, int]) -> Evidence:
    """Evidence with ``stand_in`` in place of every modality that the pattern says is absent."""
    return {name: live[name] if pattern[name] else stand_in[name] for name in live}


def fuse_all(session: Session, evidence: Evidence, presence: tuple[int, ...]) -> Fused:
    """N rows of evidence fused under one presence mask."""
    count = len(next(iter(evidence.values())))
    parts = []
    for rows in batches(count, session):
        mask = np.tile(np.array(presence, np.float32), (rows.stop - rows.start, 1))
        parts.append(session.fuse({n: e[rows] for n, e in evidence.items()}, mask))
    return Fused(
        logits=np.concatenate([p.logits for p in parts]),
        probabilities=np.concatenate([p.probabilities for p in parts]),
        posterior=np.concatenate([p.posterior for p in parts]),
        latents={n: np.concatenate([p.latents[n] for p in parts]) for n in session.manifest.modality_names},
    )


def probabilities(session: Session, evidence: Evidence, presence: tuple[int, ...]) -> Array:
    """(N, C) calibrated probabilities of N rows of evidence under one presence mask."""
    return fuse_all(session, evidence, presence).probabilities


@dataclass(frozen=True)
class PatternScores:
    """Accuracy and calibration error by pattern key.

    Attributes:
        accuracy: policy (``impute``, ``hold``, ``zero``) -> pattern key -> accuracy.
        calibration_error: pattern key -> expected calibration error under ``impute``.
        worst_calibration_error: largest of the patterns with two or more sensors (of all, in a rig of one).
    """

    accuracy: dict[str, dict[str, float]]
    calibration_error: dict[str, float]
    worst_calibration_error: float


def score_patterns(
    session: Session,
    live: Evidence,
    held: Evidence,
    blank: Evidence,
    labels: npt.NDArray[np.int64],
) -> PatternScores:
    """Score every missing pattern under every policy; with all sensors present the three are one.

    Args:
        session: with M modalities.
        live: evidence of each row's own windows.
        held: evidence of the windows of the moment before.
        blank: evidence of all-zero windows.
        labels: (N,) true classes.
    """
    names = session.manifest.modality_names
    complete = (1,) * len(names)
    scores: dict[str, dict[str, float]] = {"impute": {}, "hold": {}, "zero": {}}
    errors: dict[str, float] = {}
    counted: list[float] = []
    for presence in presence_patterns(len(names)):
        key = pattern_key(names, presence)
        imputed = probabilities(session, live, presence)
        scores["impute"][key] = accuracy(imputed, labels)
        errors[key] = expected_calibration_error(imputed, labels)
        if sum(presence) >= min(2, len(names)):
            counted.append(errors[key])
        present = dict(zip(names, presence, strict=True))
        for policy, stand_in in (("hold", held), ("zero", blank)):
            if presence == complete:
                scores[policy][key] = scores["impute"][key]
                continue
            filled = substitute(live, stand_in, present)
            scores[policy][key] = accuracy(probabilities(session, filled, complete), labels)
    return PatternScores(scores, errors, max(counted))
