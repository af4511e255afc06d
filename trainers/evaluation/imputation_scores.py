"""The quality of imputations: in full when imputed from all other sensors, in short from every other subset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import ModalitySpec, pattern_key, presence_patterns
from engines.session import Session
from trainers.evaluation.calibration_error import accuracy
from trainers.evaluation.coverage import LEVEL, coverage, measured_weight
from trainers.evaluation.imputation import (
    SPACES,
    Array,
    class_means,
    decode_all,
    estimate_all,
    mean_squared_ratio,
    normalized_error,
    observe_all,
    to_comparison_space,
)
from trainers.evaluation.judge import TrainedJudge, train_judge
from trainers.evaluation.patterns import Evidence, batches, fuse_all

LabelledWindows = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Reference:
    """What a modality's imputations are compared with; all of it is learned on the training split.

    Attributes:
        judge: names the class that an observation shows.
        means: (C, ...) mean observation of every class, in comparison space.
        mean: (...) mean of all.
    """

    judge: TrainedJudge
    means: Array
    mean: Array


def learn_reference(
    session: Session, spec: ModalitySpec, training: LabelledWindows, *, seed: int, steps: int, minutes: float
) -> Reference:
    """Train a modality's judge and take its means.

    Args:
        session: brings raw windows into the space of observations.
        spec: the modality.
        training: raw windows (N, *window_shape) and labels (N,) of the training split.
        seed: of the judge.
        steps: gradient steps of the judge.
        minutes: time limit of its training.
    """
    windows, labels = training
    classes = len(session.manifest.classes)
    truth = observe_all(session, spec, windows)
    means, mean = class_means(truth, labels, classes, measured_weight(spec.kind, windows))
    judge = train_judge(spec.kind, truth, labels, classes, seed=seed, steps=steps, minutes=minutes)
    return Reference(judge, means, mean)


def score_imputation(
    session: Session, spec: ModalitySpec, reference: Reference, live: Evidence, measured: LabelledWindows
) -> dict[str, Any]:
    """Impute one modality from all others, and compare with what its sensor measured at the time.

    Args:
        session: an open bundle or engine.
        spec: the modality.
        reference: of that modality.
        live: evidence of every modality, (N, evidence_size).
        measured: the modality's own (N, *window_shape) raw windows, and labels.

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
    truth, weight = observe_all(session, spec, windows), measured_weight(spec.kind, windows)
    others = tuple(int(name != spec.name) for name in names)
    imputed = estimate_all(session, spec, live, others)
    rebuilt = estimate_all(session, spec, live, (1,) * len(names))
    judge = reference.judge
    return {
        "semantic_accuracy": accuracy(judge.probabilities(imputed), labels),
        "judge_accuracy": accuracy(judge.probabilities(truth), labels),
        "reconstruction_accuracy": accuracy(judge.probabilities(rebuilt), labels),
        "judge_steps": judge.steps,
        "from": pattern_key(names, others),
        "nmse": normalized_error(truth, imputed, weight),
        "mse_ratio": mean_squared_ratio(truth, imputed, weight),
        "reconstruction_nmse": normalized_error(truth, rebuilt, weight),
        "baseline_mean_nmse": normalized_error(truth, reference.means[labels], weight),
        "baseline_global_mean_nmse": normalized_error(truth, reference.mean[None], weight),
        "space": SPACES[spec.kind],
    }


@dataclass(frozen=True)
class ImputedPatterns:
    """Imputations from every proper subset of the sensors: pattern key -> absent modality -> value.

    Attributes:
        cross_coherence: share that the judge takes for the true class.
        nmse: the papers' root ratio, in comparison space.
        coverage: share of measured elements within the bundle's interval; empty where the bundle has none.
        half_width: of that interval, in the modality's observation unit.
    """

    cross_coherence: dict[str, dict[str, float]]
    nmse: dict[str, dict[str, float]]
    coverage: dict[str, dict[str, float]]
    half_width: dict[str, dict[str, float]]


def score_imputed_patterns(
    session: Session,
    references: Mapping[str, Reference],
    live: Evidence,
    windows: Mapping[str, npt.NDArray[Any]],
    labels: npt.NDArray[np.int64],
) -> ImputedPatterns:
    """Impute every modality from every subset of the others.

    Args:
        session: an open bundle or engine.
        references: of every modality.
        live: evidence of every modality, (N, evidence_size).
        windows: raw windows of every modality, (N, *window_shape).
        labels: (N,) true classes.
    """
    names = session.manifest.modality_names
    scores = ImputedPatterns({}, {}, {}, {})
    measured = {
        n: np.concatenate([session.observe(n, windows[n][rows]) for rows in batches(len(labels), session)])
        for n in names
    }
    for presence in presence_patterns(len(names)):
        absent = [n for n, present in zip(names, presence, strict=True) if not present]
        if not absent:
            continue
        key = pattern_key(names, presence)
        latents = fuse_all(session, live, presence).latents
        for table in (scores.cross_coherence, scores.nmse, scores.coverage, scores.half_width):
            table[key] = {}
        for name in absent:
            spec = session.manifest.modality(name)
            weight = measured_weight(spec.kind, windows[name])
            imputed = decode_all(session, name, latents[name])
            compared = to_comparison_space(spec, imputed)
            judged = references[name].judge.probabilities(compared)
            scores.cross_coherence[key][name] = accuracy(judged, labels)
            truth = to_comparison_space(spec, measured[name])
            scores.nmse[key][name] = normalized_error(truth, compared, weight)
            half_width = session.imputation_scale(name, presence)
            if half_width is not None:
                scores.half_width[key][name] = half_width
                scores.coverage[key][name] = coverage(measured[name], imputed, half_width, weight)
    return scores


def summarise_coverage(session: Session, scores: ImputedPatterns) -> dict[str, Any] | None:
    """Coverage for a report: ``level``, ``mean``, ``lowest``, ``by_pattern``, ``half_width`` and ``unit``.

    None where the bundle has no intervals.
    """
    shares = [share for of in scores.coverage.values() for share in of.values()]
    if not shares:
        return None
    return {
        "level": LEVEL,
        "mean": float(np.mean(shares)),
        "lowest": min(shares),
        "by_pattern": scores.coverage,
        "half_width": scores.half_width,
        "unit": {m.name: m.observation_unit for m in session.manifest.modalities},
    }
