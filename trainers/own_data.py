"""Training and judging a model on a user's own data: from a data set to a bundle, and its scores beside baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from engines.bundle import pattern_key, presence_patterns
from engines.opening import open_session
from engines.session import Session
from runtime.sessions.dataset import Dataset, default_lengths
from runtime.sessions.features import LinearClassifier, plain_features
from runtime.sessions.splits import DatasetError
from runtime.signals.moments import Split
from trainers.data.session_windows import SessionSource
from trainers.data.windows import Windows, evaluation_windows
from trainers.evaluation.calibration_error import expected_calibration_error
from trainers.evaluation.coverage import measured_weight
from trainers.evaluation.imputation import class_means, estimate_all, normalized_error, observe_all
from trainers.evaluation.patterns import Evidence, encode_all, fuse_all
from trainers.recipes import recipe
from trainers.training import train

_ALL_PATTERNS = 4
"""With more sensors, only the patterns of all, of each alone and of all but one are measured."""


@dataclass
class Scores:
    """What a bundle does on one split of a data set.

    Attributes:
        accuracy: pattern -> share of the windows that were right.
        plain_features: pattern -> the same of a linear classifier on plain features, learned from the training split.
        chance: of guessing the most frequent class of the training split.
        ece: expected calibration error by pattern.
        imputation: modality -> ``nmse`` of imputing it from all others, and ``class_mean_nmse`` of the mean of the
            true class.
        windows: how many were measured.
    """

    accuracy: dict[str, float] = field(default_factory=dict)
    plain_features: dict[str, float] = field(default_factory=dict)
    chance: float = 0.0
    ece: dict[str, float] = field(default_factory=dict)
    imputation: dict[str, dict[str, float]] = field(default_factory=dict)
    windows: int = 0

    @property
    def warnings(self) -> list[str]:
        """What should not be overlooked: patterns that are no better than guessing, with likely causes."""
        by_luck = 2 * (self.chance * (1 - self.chance) / max(1, self.windows)) ** 0.5
        return [
            f"{pattern}: {share:.3f} is not above chance ({self.chance:.3f}); labels may be shifted against the "
            "signal, the window too short, or this sensor says nothing of these classes"
            for pattern, share in self.accuracy.items()
            if share <= self.chance + by_luck
        ]


def train_on_sessions(
    system: str,
    dataset: Dataset,
    out: Path,
    *,
    lengths: Mapping[str, int] | None = None,
    minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a shipped system on a data set of one's own; nothing of the test split is looked at.

    Args:
        system: name of a shipped model.
        dataset: the sessions.
        out: folder of the run.
        lengths: modality -> window in samples; see :func:`~runtime.sessions.dataset.default_lengths`.
        minutes: time budget.
        seed: of weights, order and window ends.
        resume: go on from the last checkpoint.
        console: where progress goes.

    Returns:
        The bundle's folder.

    Raises:
        DatasetError: a class that a split lacks, or a split without a moment that all sensors have.
        ConfigurationError, TrainingError, ExportError: see :func:`trainers.training.train`.
    """
    source = SessionSource(dataset)
    chosen = dict(default_lengths(dataset)) if lengths is None else dict(lengths)
    examples = len(source.examples("train", chosen))
    if not _complete(source, "validation", chosen):
        raise DatasetError(
            "no moment of the validation split has all sensors, so nothing can be calibrated; record some "
            "with all of them"
        )
    config = recipe(system, dataset.rig, chosen, examples).model_copy(update={"seed": seed})
    return train(config, source, out, minutes=minutes, resume=resume, console=console)


def _complete(source: SessionSource, split: Split, lengths: Mapping[str, int]) -> int:
    examples = source.examples(split, lengths)
    rows = np.arange(len(examples), dtype=np.int64)
    if not len(rows):
        return 0
    _, ends = examples.ends_s(rows)
    return int(examples.presence(rows, ends).all(axis=1).sum())


def score_bundle(
    session: Session, dataset: Dataset, split: Split = "test", *, views: int = 2, seed: int = 0
) -> Scores:
    """Measure a bundle on a split, over the moments that all sensors have.

    Args:
        session: an open bundle or engine.
        dataset: with the bundle's classes and sensors.
        split: what is measured.
        views: windows of every example.
        seed: of their ends.

    Raises:
        DatasetError: other classes or sensors than the bundle's, or no moment that all sensors have.
    """
    check_fits(session, dataset)
    lengths = {m.name: m.window for m in session.manifest.modalities}
    windows, labels = _windows(dataset, split, lengths, views, seed)
    train_windows, train_labels = _windows(dataset, "train", lengths, 1, seed)
    evidence, names = encode_all(session, windows), tuple(lengths)
    scores = Scores(windows=len(labels))
    counts = np.bincount(train_labels, minlength=len(dataset.classes))
    scores.chance = round(float((labels == counts.argmax()).mean()), 4)
    features = {n: (_features(dataset, n, train_windows), _features(dataset, n, windows)) for n in names}
    for pattern in presence_patterns(len(names)):
        if len(names) > _ALL_PATTERNS and 1 < sum(pattern) < len(names) - 1:
            continue
        key = pattern_key(names, pattern)
        fused = fuse_all(session, evidence, pattern)
        scores.accuracy[key] = round(float((fused.logits.argmax(axis=1) == labels).mean()), 4)
        scores.ece[key] = round(expected_calibration_error(fused.probabilities, labels), 4)
        here = [n for n, p in zip(names, pattern, strict=True) if p]
        model = LinearClassifier.fit(
            np.hstack([features[n][0] for n in here]), train_labels, len(dataset.classes)
        )
        found = model.predict(np.hstack([features[n][1] for n in here]))
        scores.plain_features[key] = round(float((found == labels).mean()), 4)
    if len(names) > 1:
        for number, name in enumerate(names):
            measured, learned = (windows[name], labels), (train_windows[name], train_labels)
            scores.imputation[name] = _imputation(session, number, evidence, measured, learned)
    return scores


def check_fits(session: Session, dataset: Dataset) -> None:
    """Refuse data that a bundle was not made for.

    Raises:
        DatasetError: other classes, a sensor that the data lack, or one of another shape or rate; both are named.
    """
    manifest = session.manifest
    if manifest.classes != dataset.classes:
        raise DatasetError(
            f"bundle {manifest.name!r} decides between {list(manifest.classes)}, the data have "
            f"{list(dataset.classes)}; give the data that it was trained on, or choose its classes"
        )
    for spec in manifest.modalities:
        if spec.name not in dataset.rig.modality_names:
            raise DatasetError(
                f"bundle {manifest.name!r} reads {spec.name!r}, the data have {list(dataset.rig.modality_names)}"
            )
        sensor = dataset.rig.sensor(spec.name)
        for what in ("kind", "sample_shape", "dtype", "unit", "rate_hz"):
            if getattr(spec, what) != getattr(sensor, what):
                raise DatasetError(
                    f"sensor {spec.name!r}: {what}: bundle {manifest.name!r} takes {getattr(spec, what)!r}, "
                    f"the data have {getattr(sensor, what)!r}"
                )


def _windows(
    dataset: Dataset, split: Split, lengths: Mapping[str, int], views: int, seed: int
) -> tuple[Windows, npt.NDArray[np.int64]]:
    """Windows and labels of the moments that all sensors have."""
    source = SessionSource(dataset, unlabelled=False)
    chunks = list(evaluation_windows(source, split, lengths, views=views, seed=seed))
    whole = [chunk.presence.all(axis=1) for chunk in chunks]
    labels = np.concatenate([c.labels[w] for c, w in zip(chunks, whole, strict=True)])
    if not len(labels):
        raise DatasetError(f"no moment of the {split} split has all of {list(lengths)}")
    windows = {
        n: np.concatenate([c.windows[n][w] for c, w in zip(chunks, whole, strict=True)]) for n in lengths
    }
    return windows, labels


def _features(dataset: Dataset, name: str, windows: Windows) -> npt.NDArray[np.float64]:
    kind = dataset.rig.sensor(name).kind
    return np.stack([plain_features(kind, window) for window in windows[name]])


def _imputation(
    session: Session,
    number: int,
    evidence: Evidence,
    measured: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
    training: tuple[npt.NDArray[Any], npt.NDArray[np.int64]],
) -> dict[str, float]:
    """The papers' NMSE of one modality imputed from all others, and of the true class's training mean."""
    spec = session.manifest.modalities[number]
    presence = tuple(int(i != number) for i in range(len(session.manifest.modalities)))
    (windows, labels), (train_windows, train_labels) = measured, training
    truth, learned = (observe_all(session, spec, w) for w in (windows, train_windows))
    imputed = estimate_all(session, spec, evidence, presence)
    weight = measured_weight(spec.kind, windows)
    if spec.kind == "signal":
        # Channels of a signal may have different units: each counts in its own spread.
        axes = (0, *range(3, learned.ndim))
        mean, spread = learned.mean(axis=axes, keepdims=True), learned.std(axis=axes, keepdims=True) + 1e-6
        truth, learned, imputed = ((x - mean) / spread for x in (truth, learned, imputed))
    train_weight = measured_weight(spec.kind, train_windows)
    means, _ = class_means(learned, train_labels, len(session.manifest.classes), train_weight)
    return {
        "nmse": round(normalized_error(truth, imputed, weight), 4),
        "class_mean_nmse": round(normalized_error(truth, means[labels], weight), 4),
    }


def open_and_score(bundle: Path, dataset: Dataset, split: Split) -> Scores:
    """:func:`score_bundle` of a folder."""
    with open_session(bundle) as session:
        return score_bundle(session, dataset, split)
