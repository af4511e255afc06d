"""Retrieval across modalities: query by one sensor, get the recorded moments of another that are most like it.

DSML's ranking (section 4.3): what agrees with the query's class comes first, then what does not, each by Euclidean
distance of latents. Here, for any bundle, through its engine: the query is what fusion makes of the source sensor
alone, its class and the latent imputed *in the target's space*; the gallery holds what fusion makes of each moment's
target sensor alone, its class and the latent inferred. Classes are the model's own on both sides: no label is used to
rank, only to say which of the found moments are relevant (those of the query's true class).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import InputError
from engines.session import Session
from runtime.signals.moments import MomentSource, Split
from trainers.evaluation.patterns import Evidence, check_source, collect_windows, encode_all, fuse_all

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CURVE_RANKS = 15
"""A precision-recall curve is given at 1, 2, 4, ... 2^15 neighbours, as in DSML's figure 5."""


@dataclass(frozen=True)
class Described:
    """Moments as retrieval sees them.

    Attributes:
        latents: (N, L) in the target's space.
        classes: (N,) class the model gives them.
        probabilities: (N,) calibrated probability of that class.
    """

    latents: Array
    classes: Labels
    probabilities: Array


def describe(session: Session, evidence: Evidence, observed: str) -> dict[str, Described]:
    """Moments seen by one sensor alone, in the latent space of every sensor.

    Args:
        session: an open bundle or engine.
        evidence: modality -> (N, evidence_size).
        observed: the sensor taken to be the only one present.
    """
    names = session.manifest.modality_names
    fused = fuse_all(session, evidence, tuple(int(n == observed) for n in names))
    classes, certain = fused.probabilities.argmax(axis=1).astype(np.int64), fused.probabilities.max(axis=1)
    return {target: Described(fused.latents[target], classes, certain) for target in names}


def distances(queries: Array, gallery: Array) -> npt.NDArray[np.float64]:
    """Euclidean distances (Q, N) between (Q, L) and (N, L)."""
    a, b = queries.astype(np.float64), gallery.astype(np.float64)
    squared = (a**2).sum(axis=1)[:, None] - 2.0 * a @ b.T + (b**2).sum(axis=1)
    apart: npt.NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0))
    return apart


def rank(queries: Described, gallery: Described, *, class_first: bool = True) -> Labels:
    """The gallery's rows in order, best first, for every query.

    Args:
        queries: Q of them.
        gallery: N of them, in the same space.
        class_first: DSML's rule; otherwise by distance alone.

    Returns:
        (Q, N) row numbers; ties keep the gallery's order.
    """
    apart = distances(queries.latents, gallery.latents)
    if not class_first:
        return np.argsort(apart, axis=1, kind="stable").astype(np.int64)
    other_class = queries.classes[:, None] != gallery.classes[None]
    order: Labels = np.lexsort((apart, other_class), axis=1).astype(np.int64)
    return order


def average_precision(relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    r"""Average precision of ranked lists: the area under the whole precision-recall curve.

    .. math:: \mathrm{AP} = \frac{1}{R} \sum_k P(k) \, \mathrm{rel}(k)

    Args:
        relevant: (Q, N), whether what came at each rank is relevant.

    Returns:
        (Q,).

    Raises:
        ValueError: a query without anything relevant: its average precision is not defined.
    """
    totals = _relevant_totals(relevant)
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    averaged: npt.NDArray[np.float64] = (precision * relevant).sum(axis=1) / totals
    return averaged


def precision_recall_curve(relevant: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Mean precision and recall over queries after 1, 2, 4, ... neighbours and after all of them.

    Args:
        relevant: (Q, N), whether what came at each rank is relevant.

    Returns:
        One ``{"neighbours", "precision", "recall"}`` per point.

    Raises:
        ValueError: a query without anything relevant.
    """
    totals, found = _relevant_totals(relevant), np.cumsum(relevant, axis=1)
    size = relevant.shape[1]
    points = sorted({2**k for k in range(CURVE_RANKS + 1) if 2**k < size} | {size})
    return [
        {
            "neighbours": float(n),
            "precision": float((found[:, n - 1] / n).mean()),
            "recall": float((found[:, n - 1] / totals).mean()),
        }
        for n in points
    ]


def _relevant_totals(relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    totals: npt.NDArray[np.int64] = relevant.sum(axis=1, dtype=np.int64)
    if relevant.ndim != 2 or not len(relevant) or not totals.all():
        raise ValueError(
            f"expected (Q, N) with Q >= 1 and something relevant for every query, got {relevant.shape} with "
            f"{int((totals == 0).sum())} queries that have nothing"
        )
    return totals


@dataclass(frozen=True)
class Retrieval:
    """Retrieval of all moments of a split by all moments of it.

    Attributes:
        ranking: (Q, N) gallery rows, best first.
        distance: (Q, N) latent distance, in the gallery's order.
        queries: what ranked them.
        gallery: what was ranked.
        relevant: (Q, N) by rank, same true class.
    """

    ranking: Labels
    distance: npt.NDArray[np.float64]
    queries: Described
    gallery: Described
    relevant: npt.NDArray[np.bool_]

    @property
    def mean_average_precision(self) -> float:
        """Mean of :func:`average_precision` over all queries."""
        return float(average_precision(self.relevant).mean())


def retrieve(
    queries: Mapping[str, Described], gallery: Mapping[str, Described], labels: Labels, target: str
) -> Retrieval:
    """Rank every moment's target sensor for every moment.

    Args:
        queries: of the moments seen by the source sensor, from :func:`describe`.
        gallery: of the same moments seen by the target sensor.
        labels: (N,) true classes, for relevance only.
        target: sensor that is wanted.
    """
    asked, offered = queries[target], gallery[target]
    ranking = rank(asked, offered)
    relevant = labels[ranking] == labels[:, None]
    return Retrieval(ranking, distances(asked.latents, offered.latents), asked, offered, relevant)


def score_retrieval(session: Session, evidence: Evidence, labels: Labels) -> dict[str, Any]:
    """Mean average precision between all ordered pairs of sensors.

    Returns:
        ``mean_average_precision``: ``source->target`` -> by class, then distance; ``by_distance_alone``: the same with
        no class; ``by_chance``: what a random order would give.
    """
    names = session.manifest.modality_names
    seen = {name: describe(session, evidence, name) for name in names}
    by_class, by_distance = {}, {}
    for source in names:
        for target in names:
            if source == target:
                continue
            pair = f"{source}->{target}"
            found = retrieve(seen[source], seen[target], labels, target)
            by_class[pair] = found.mean_average_precision
            alone = rank(found.queries, found.gallery, class_first=False)
            by_distance[pair] = float(average_precision(labels[alone] == labels[:, None]).mean())
    return {
        "mean_average_precision": by_class,
        "by_distance_alone": by_distance,
        "by_chance": chance_average_precision(labels),
    }


def retrieve_moments(
    session: Session,
    recordings: MomentSource,
    source: str,
    target: str,
    *,
    split: Split = "test",
    moment: int = 0,
    top: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Answer one query, and measure all queries of its split.

    Args:
        session: an open bundle or engine.
        recordings: with the bundle's classes and sensors.
        source: sensor to query by.
        target: sensor whose moments are wanted.
        split: whose moments are queries and gallery, one window each.
        moment: the query.
        top: how many moments to give; where several play the same recording, only the best of them.
        seed: of the windows' ends.

    Returns:
        ``query`` and ``found`` (moment, recording, true label, class decided by that sensor alone and its
        probability; found ones with their distance, best first), ``mean_average_precision``, ``by_distance_alone``,
        ``by_chance``, ``precision_recall`` (see :func:`precision_recall_curve`), ``moments``.

    Raises:
        InputError: an unknown or the same sensor twice, or a moment that the split does not have.
        InputError: the source has other classes than the bundle.
    """
    check_source(session, recordings)
    names, classes = session.manifest.modality_names, session.manifest.classes
    if source not in names or target not in names or source == target:
        raise InputError(f"retrieval from {source!r} to {target!r}: give two different ones of {list(names)}")
    count = len(recordings.moments(split))
    if not 0 <= moment < count:
        raise InputError(f"moment {moment}: the {split} split has moments 0 .. {count - 1}")
    _, labels, windows = collect_windows(session, recordings, split, 1, None, seed)
    evidence = encode_all(session, windows)
    seen = {name: describe(session, evidence, name) for name in (source, target)}
    result = retrieve(seen[source], seen[target], labels, target)
    alone = rank(result.queries, result.gallery, class_first=False)

    played = recordings.moments(split).recordings
    _, best = np.unique(played[target][result.ranking[moment]], return_index=True)
    found = result.ranking[moment, np.sort(best)[:top]]

    def said(described: Described, modality: str, row: int) -> dict[str, Any]:
        return {
            "moment": row,
            "recording": int(played[modality][row]),
            "label": classes[labels[row]],
            "decided": classes[described.classes[row]],
            "probability": float(described.probabilities[row]),
        }

    return {
        "from": source,
        "to": target,
        "split": split,
        "moments": count,
        "query": said(result.queries, source, moment),
        "found": [
            said(result.gallery, target, int(row)) | {"distance": float(result.distance[moment, row])}
            for row in found
        ],
        "mean_average_precision": result.mean_average_precision,
        "by_distance_alone": float(average_precision(labels[alone] == labels[:, None]).mean()),
        "by_chance": chance_average_precision(labels),
        "precision_recall": precision_recall_curve(result.relevant),
    }


def chance_average_precision(labels: Labels) -> float:
    r"""Expected average precision of a random order, averaged over queries drawn from the gallery itself.

    With R relevant of N: :math:`\frac{1}{N} \left( H_N + \frac{(R - 1) (N - H_N)}{N - 1} \right)`, where :math:`H_N` is
    the N-th harmonic number.
    """
    size = len(labels)
    if size < 2:
        return 1.0
    harmonic = float((1.0 / np.arange(1, size + 1)).sum())
    relevant = np.bincount(labels)[labels]
    expected = (harmonic + (relevant - 1) * (size - harmonic) / (size - 1)) / size
    return float(expected.mean())
