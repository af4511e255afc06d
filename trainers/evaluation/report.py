"""One evaluation of one bundle through its engine: the offline half of ``report.json``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import pattern_key
from engines.session import Session
from runtime.signals.moments import MomentSource, Split
from trainers.evaluation.coherence import joint_coherence
from trainers.evaluation.imputation import decode_all, to_comparison_space
from trainers.evaluation.imputation_scores import (
    Reference,
    learn_reference,
    score_imputation,
    score_imputed_patterns,
    summarise_coverage,
)
from trainers.evaluation.judge import STEPS
from trainers.evaluation.latent_scores import score_latents
from trainers.evaluation.patterns import (
    check_source,
    collect_windows,
    encode_all,
    previous_rows,
    score_patterns,
    zero_evidence,
)
from trainers.evaluation.retrieval import score_retrieval

VIEWS = 2
MOMENTS = 500
TRAIN_MOMENTS = 1600
PATTERN_MOMENTS = 200
"""Number of moments, from the first on, of which one window is imputed from every subset of the other sensors."""
PRIOR_DRAWS = 500
JUDGE_MINUTES = 4.0
"""A limit for slow or busy machines: usually, four judges take ten to twenty seconds on one core."""

PriorDraws = Callable[[int], Mapping[str, npt.NDArray[np.float32]]]
"""Draws a number of latents per modality from a system's prior; a bundle alone has no prior to draw from."""


def evaluate_bundle(
    session: Session,
    source: MomentSource,
    *,
    split: Split = "test",
    seed: int = 0,
    views: int = VIEWS,
    limit: int | None = MOMENTS,
    train_moments: int = TRAIN_MOMENTS,
    pattern_moments: int = PATTERN_MOMENTS,
    judge_steps: int = STEPS,
    judge_minutes: float = JUDGE_MINUTES,
    draw_prior: PriorDraws | None = None,
) -> dict[str, Any]:
    """Measure a bundle on a split: decisions, calibration, imputations, latents and retrieval.

    Args:
        session: an open bundle or engine.
        source: with the bundle's classes and sensors.
        split: what is measured; judges, probes and baselines always learn from the training split.
        seed: of window ends, of the order in which ``hold`` plays moments, and of the judges.
        views: windows of every moment.
        limit: number of moments measured, from the first on (any prefix is class balanced); None for all.
        train_moments: how many training moments, one window each, judges, probes and baselines learn from.
        pattern_moments: how many moments are imputed from every subset of the sensors.
        judge_steps: gradient steps of a judge.
        judge_minutes: time to train all judges, in equal shares; one that does not finish is used as it is, and the
            report holds its number of steps.
        draw_prior: for joint coherence, which a bundle alone cannot give.

    Returns:
        Plain numbers and words: ``accuracy`` policy -> pattern -> share; ``calibration.ece`` with ``all``,
        ``worst_pattern`` (of those with two or more sensors) and ``per_pattern``; ``imputation`` modality -> see
        :func:`score_imputation`, and its ``nmse_by_pattern``; ``coherence``: ``cross`` pattern -> absent modality ->
        share, ``synergy`` and the judges' own ``ceiling`` by modality, ``joint`` or None; ``coverage`` (see
        :func:`summarise_coverage`, or None); ``latent_accuracy`` and ``active_units`` (see :func:`score_latents`);
        ``retrieval`` (see :func:`score_retrieval`); ``moments``, ``views``, ``split``, ``windows`` (seconds by
        modality) and ``seconds`` by part.

    Raises:
        InputError: the source has other classes than the bundle.
        KeyError: the source lacks a sensor of the bundle.
    """
    manifest = session.manifest
    check_source(session, source)
    seconds: dict[str, float] = {}
    with _timed(seconds, "windows"):
        moments, labels, windows = collect_windows(session, source, split, views, limit, seed)
        _, train_labels, train_windows = collect_windows(session, source, "train", 1, train_moments, seed)
    with _timed(seconds, "encode"):
        live = encode_all(session, windows)
        before = previous_rows(moments, seed)
        held = {name: evidence[before] for name, evidence in live.items()}
        blank = zero_evidence(session, len(labels))
    with _timed(seconds, "patterns"):
        scores = score_patterns(session, live, held, blank, labels)
    with _timed(seconds, "judges"):
        minutes = judge_minutes / len(manifest.modalities)
        references = {
            spec.name: learn_reference(
                session, spec, (train_windows[spec.name], train_labels),
                seed=seed, steps=judge_steps, minutes=minutes,
            )
            for spec in manifest.modalities
        }  # fmt: skip
    with _timed(seconds, "imputation"):
        imputation = {
            spec.name: score_imputation(
                session, spec, references[spec.name], live, (windows[spec.name], labels)
            )
            for spec in manifest.modalities
        }
    first = slice(0, min(pattern_moments, len(np.unique(moments))))
    with _timed(seconds, "imputation_by_pattern"):
        by_pattern = score_imputed_patterns(
            session,
            references,
            {n: e[first] for n, e in live.items()},
            {n: w[first] for n, w in windows.items()},
            labels[first],
        )
        for name, of in imputation.items():
            of["nmse_by_pattern"] = {k: found[name] for k, found in by_pattern.nmse.items() if name in found}
        joint = None if draw_prior is None else _joint_coherence(session, references, draw_prior)
    with _timed(seconds, "latents"):
        latents = score_latents(session, (encode_all(session, train_windows), train_labels), (live, labels))
    with _timed(seconds, "retrieval"):
        every = slice(0, len(np.unique(moments)))
        retrieval = score_retrieval(session, {n: e[every] for n, e in live.items()}, labels[every])
    complete = pattern_key(manifest.modality_names, (1,) * len(manifest.modalities))
    return {
        "split": split,
        "moments": len(np.unique(moments)),
        "views": views,
        "accuracy": scores.accuracy,
        "calibration": {
            "ece": {
                "all": scores.calibration_error[complete],
                "worst_pattern": scores.worst_calibration_error,
                "per_pattern": scores.calibration_error,
            }
        },
        "imputation": imputation,
        "coherence": {
            "cross": by_pattern.cross_coherence,
            "synergy": {n: of["reconstruction_accuracy"] for n, of in imputation.items()},
            "joint": joint,
            "ceiling": {n: of["judge_accuracy"] for n, of in imputation.items()},
        },
        "coverage": summarise_coverage(session, by_pattern),
        **latents,
        "retrieval": retrieval,
        "windows": {m.name: m.window / m.rate_hz for m in manifest.modalities},
        "seconds": seconds,
    }


def _joint_coherence(
    session: Session, references: Mapping[str, Reference], draw_prior: PriorDraws
) -> float | None:
    if len(references) < 2:
        return None
    latents = draw_prior(PRIOR_DRAWS)
    named = {}
    for spec in session.manifest.modalities:
        decoded = to_comparison_space(spec, decode_all(session, spec.name, latents[spec.name]))
        judged = references[spec.name].judge.probabilities(decoded)
        named[spec.name] = judged.argmax(axis=1).astype(np.int64)
    return joint_coherence(named)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - begin, 2)
