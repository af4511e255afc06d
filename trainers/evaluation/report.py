"""One evaluation of one bundle through its engine: the offline half of ``report.json``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import ModalitySpec, pattern_key
from engines.session import Session
from runtime.sensors.moments import MomentSource, Split
from trainers.evaluation.calibration_error import accuracy
from trainers.evaluation.imputation import (
    SPACES,
    class_means,
    comparison_weight,
    estimate_all,
    mean_squared_ratio,
    normalized_error,
    observe_all,
)
from trainers.evaluation.judge import STEPS, train_judge
from trainers.evaluation.patterns import (
    Evidence,
    check_source,
    collect_windows,
    encode_all,
    previous_rows,
    score_patterns,
    zero_evidence,
)

VIEWS = 2
MOMENTS = 500
TRAIN_MOMENTS = 1600
JUDGE_MINUTES = 1.0
"""A limit for slow machines: four judges take ten to twenty seconds on one core of a usual one."""


def evaluate_bundle(
    session: Session,
    source: MomentSource,
    *,
    split: Split = "test",
    seed: int = 0,
    views: int = VIEWS,
    limit: int | None = MOMENTS,
    train_moments: int = TRAIN_MOMENTS,
    judge_steps: int = STEPS,
    judge_minutes: float = JUDGE_MINUTES,
) -> dict[str, Any]:
    """Measure a bundle on a split: every missing pattern, three policies, calibration and imputations.

    Args:
        session: an open bundle or engine.
        source: with the bundle's classes and sensors.
        split: what is measured; judges and baselines always learn from the training split.
        seed: of window ends, of the order in which ``hold`` plays moments, and of the judges.
        views: windows of every moment.
        limit: measure only the first so many moments (any prefix is class balanced); None for all.
        train_moments: how many training moments, one window each, judges and baselines learn from.
        judge_steps: gradient steps of a judge.
        judge_minutes: time to train all judges, in equal shares; one that does not finish is used as it is, and its
            steps are said.

    Returns:
        ``accuracy`` policy -> pattern -> share; ``calibration.ece`` with ``all``, ``worst_pattern`` (of those with
        two or more sensors) and ``per_pattern``; ``imputation`` modality -> see :func:`score_imputation`; ``moments``,
        ``views``, ``split``, ``windows`` (seconds by modality) and ``seconds`` by part. Plain numbers and words.

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
    with _timed(seconds, "imputation"):
        imputation = {
            spec.name: score_imputation(
                session,
                spec,
                live,
                (windows[spec.name], labels),
                (train_windows[spec.name], train_labels),
                seed=seed,
                judge_steps=judge_steps,
                judge_minutes=judge_minutes / len(manifest.modalities),
            )
            for spec in manifest.modalities
        }
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
        "windows": {m.name: m.window / m.rate_hz for m in manifest.modalities},
        "seconds": seconds,
    }


LabelledWindows = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


def score_imputation(
    session: Session,
    spec: ModalitySpec,
    live: Evidence,
    measured: LabelledWindows,
    training: LabelledWindows,
    *,
    seed: int,
    judge_steps: int,
    judge_minutes: float,
) -> dict[str, Any]:
    """Impute one modality from all others, and compare with what its sensor measured at the time.

    Args:
        session: an open bundle or engine.
        spec: the modality.
        live: evidence of every modality, (N, evidence_size).
        measured: the modality's own (N, *window_shape) raw windows, and labels.
        training: raw windows and labels of the training split, for judge and baselines.
        seed: of the judge.
        judge_steps: gradient steps of the judge.
        judge_minutes: its time.

    Returns:
        ``semantic_accuracy``: share of imputations that the judge takes for the true class; ``judge_accuracy``: its
        own on the measured windows, which bounds what the former can show; ``reconstruction_accuracy``: its accuracy
        on decodings with all sensors present; ``judge_steps``; ``from``: the pattern imputed from; ``nmse``: the
        papers' root ratio; ``mse_ratio``: its square; ``reconstruction_nmse``: of decodings with all present;
        ``baseline_mean_nmse``: of the training mean of the *true* class, which no imputation is told;
        ``baseline_global_mean_nmse``: of the training mean of all; ``space``: what errors are measured on, in words.
    """
    names = session.manifest.modality_names
    windows, labels = measured
    train_windows, train_labels = training
    classes = len(session.manifest.classes)
    truth, weight = observe_all(session, spec, windows), comparison_weight(spec, windows)
    train_truth = observe_all(session, spec, train_windows)
    means, mean = class_means(train_truth, train_labels, classes, comparison_weight(spec, train_windows))
    others = tuple(int(name != spec.name) for name in names)
    imputed = estimate_all(session, spec, live, others)
    rebuilt = estimate_all(session, spec, live, (1,) * len(names))
    judge = train_judge(
        spec.kind, train_truth, train_labels, classes, seed=seed, steps=judge_steps, minutes=judge_minutes
    )
    return {
        "semantic_accuracy": accuracy(judge.probabilities(imputed), labels),
        "judge_accuracy": accuracy(judge.probabilities(truth), labels),
        "reconstruction_accuracy": accuracy(judge.probabilities(rebuilt), labels),
        "judge_steps": judge.steps,
        "from": pattern_key(names, others),
        "nmse": normalized_error(truth, imputed, weight),
        "mse_ratio": mean_squared_ratio(truth, imputed, weight),
        "reconstruction_nmse": normalized_error(truth, rebuilt, weight),
        "baseline_mean_nmse": normalized_error(truth, means[labels], weight),
        "baseline_global_mean_nmse": normalized_error(truth, mean[None], weight),
        "space": SPACES[spec.kind],
    }


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[part] = round(time.monotonic() - begin, 2)
