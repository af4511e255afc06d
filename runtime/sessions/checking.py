"""Checking a data set before anything is trained on it: what is there, what is missing, and whether its splits leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S
from runtime.sessions.dataset import Dataset, Span
from runtime.sessions.features import LinearClassifier, balanced_accuracy, plain_features
from runtime.sessions.session import Session
from runtime.sessions.splits import DatasetError
from runtime.sessions.stream import Stream
from runtime.signals.moments import SPLITS

RATE_TOLERANCE = 0.02
"""A true rate that is further from the promised one is told."""
FEW_LABELS = 10
"""A class with fewer labels in all is told."""
IMBALANCE = 3.0
"""A class with so many times fewer seconds than the largest is told."""
_CONTROL_ROWS = 1500
_CONTROL_SEEDS = 5


@dataclass
class SensorFinding:
    """One sensor in one session.

    Attributes:
        minutes: of samples.
        gaps: holes between samples.
        missing_s: seconds of the session without it.
        rate_hz: measured.
        promised_hz: by the rig.
        lost: messages that were published and are not there.
    """

    minutes: float
    gaps: int
    missing_s: float
    rate_hz: float
    promised_hz: float
    lost: int


@dataclass
class CheckReport:
    """What was found; ``problems`` should be mended before training, ``notes`` known.

    Attributes:
        sessions: session -> sensor -> finding.
        labels: session -> class -> number of labels and seconds.
        splits: split -> class -> number of spans; empty where a split cannot be made.
        controls: accuracy of plain features, of the same with shuffled labels (mean), and chance; empty where there is
            no test.
        problems: one line each.
        notes: one line each.
    """

    sessions: dict[str, dict[str, SensorFinding]] = field(default_factory=dict)
    labels: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    controls: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain maps."""
        return asdict(self)


def check_dataset(dataset: Dataset, lengths: Mapping[str, int], *, seed: int = 0) -> CheckReport:
    """Look at every session, label and split.

    Args:
        dataset: to be checked.
        lengths: modality -> window in samples that a model would take.
        seed: of the rows and shuffles of the controls.
    """
    report = CheckReport()
    for session in dataset.sessions:
        _check_session(dataset, session, report)
    _check_classes(dataset, report)
    try:
        for split in SPLITS:
            spans = dataset.spans(split, lengths)
            report.splits[split] = {
                name: sum(s.label == i for s in spans) for i, name in enumerate(dataset.classes)
            }
    except DatasetError as e:
        report.problems.append(str(e))
        report.splits.clear()
    else:
        _check_leakage(dataset, lengths, report)
        _run_controls(dataset, lengths, report, seed)
    return report


def _check_session(dataset: Dataset, session: Session, report: CheckReport) -> None:
    begin_ns, end_ns = session.span_ns
    seconds = (end_ns - begin_ns) / NS_PER_S
    findings = report.sessions.setdefault(session.name, {})
    for sensor in dataset.rig.sensors:
        stream = session.streams.get(sensor.modality)
        if stream is None or not stream.segments:
            report.notes.append(
                f"session {session.name!r} has no {sensor.modality!r}: it will count as missing"
            )
            continue
        found = findings[sensor.modality] = SensorFinding(
            minutes=round(stream.covered_s / 60, 3),
            gaps=len(stream.segments) - 1,
            missing_s=round(seconds - stream.covered_s, 3),
            rate_hz=round(_true_rate(stream), 4),
            promised_hz=sensor.rate_hz,
            lost=session.lost.get(sensor.modality, 0),
        )
        if abs(found.rate_hz / found.promised_hz - 1) > RATE_TOLERANCE:
            report.problems.append(
                f"session {session.name!r}: {sensor.modality!r} came at {found.rate_hz:g} Hz, the rig promises "
                f"{found.promised_hz:g} Hz; mend rate_hz in the rig, or resample it"
            )
        if found.missing_s > 0.1 * seconds:
            report.notes.append(
                f"session {session.name!r}: {sensor.modality!r} is missing in {found.missing_s:.1f} of {seconds:.1f} s"
            )
    counts: dict[str, tuple[int, float]] = {}
    ended = [x for x in session.labels if x.end_ns is not None]
    for x in ended:
        number, length = counts.get(x.name, (0, 0.0))
        counts[x.name] = number + 1, round(length + ((x.end_ns or 0) - x.onset_ns) / NS_PER_S, 3)
        if (x.end_ns or 0) <= begin_ns or x.onset_ns >= end_ns:
            report.problems.append(
                f"session {session.name!r}: label {x.name!r} at {(x.onset_ns - begin_ns) / NS_PER_S:.2f} s lies "
                f"outside the recording of {seconds:.2f} s"
            )
    if open_ := [x.name for x in session.labels if x.end_ns is None]:
        report.problems.append(f"session {session.name!r}: labels {open_} never end; they do not count")
    if not session.labels:
        report.notes.append(f"session {session.name!r} has no labels: it trains without them")
    for a, b in pairwise(sorted(ended, key=lambda x: x.onset_ns)):
        if a.name != b.name and b.onset_ns < (a.end_ns or 0):
            report.problems.append(
                f"session {session.name!r}: labels {a.name!r} and {b.name!r} overlap at "
                f"{(b.onset_ns - begin_ns) / NS_PER_S:.2f} s; a window has one class"
            )
    report.labels[session.name] = counts


def _true_rate(stream: Stream) -> float:
    samples = sum(s.count for s in stream.segments)
    return samples / stream.covered_s if stream.covered_s else 0.0


def _check_classes(dataset: Dataset, report: CheckReport) -> None:
    number = {name: sum(c.get(name, (0, 0.0))[0] for c in report.labels.values()) for name in dataset.classes}
    seconds = {
        name: sum(c.get(name, (0, 0.0))[1] for c in report.labels.values()) for name in dataset.classes
    }
    for name, count in number.items():
        if count < FEW_LABELS:
            report.notes.append(
                f"class {name!r} has {count} labels; {FEW_LABELS} or more make a model worth trusting"
            )
        if seconds[name] * IMBALANCE < max(seconds.values()):
            report.notes.append(
                f"class {name!r} has {seconds[name]:.1f} s where the largest has {max(seconds.values()):.1f} s; "
                "training weighs it up"
            )


def _check_leakage(dataset: Dataset, lengths: Mapping[str, int], report: CheckReport) -> None:
    """Windows of two splits that share samples."""
    longest_ns = max(round(n / dataset.rig.sensor(m).rate_hz * NS_PER_S) for m, n in lengths.items())
    reach: list[tuple[int, int, int, str]] = []
    for split in SPLITS:
        reach += [
            (s.session, s.begin_ns - longest_ns, s.end_ns, split) for s in dataset.spans(split, lengths)
        ]
    shared = sum(
        a[0] == b[0] and a[3] != b[3] and b[1] < a[2] - NS_PER_S // 1000 for a, b in pairwise(sorted(reach))
    )
    if shared:
        report.problems.append(
            f"{shared} windows of one split share samples with another; split by session, or leave a longer gap"
        )


def _run_controls(dataset: Dataset, lengths: Mapping[str, int], report: CheckReport, seed: int) -> None:
    """Plain features with true and with shuffled labels, trained on train and validation, tried on the test."""
    train = [*dataset.spans("train", lengths), *dataset.spans("validation", lengths)]
    test = dataset.spans("test", lengths)
    rng = np.random.default_rng([0x434F4E54, seed])
    rows, labels = _features(dataset, lengths, _some(train, rng))
    tried, truth = _features(dataset, lengths, _some(test, rng))
    classes = len(dataset.classes)
    if not len(rows) or not len(tried):
        report.notes.append("no moment has all sensors, so plain features could not be tried")
        return
    found = LinearClassifier.fit(rows, labels, classes).predict(tried)
    shuffled = [
        balanced_accuracy(
            truth, LinearClassifier.fit(rows, rng.permutation(labels), classes).predict(tried), classes
        )
        for _ in range(_CONTROL_SEEDS)
    ]
    chance = 1.0 / classes
    report.controls = {
        "plain_features": round(balanced_accuracy(truth, found, classes), 4),
        "shuffled_labels": round(float(np.mean(shuffled)), 4),
        "chance": round(chance, 4),
    }
    by_luck = float(np.sqrt(chance * (1 - chance) / len(truth)))
    if np.mean(shuffled) > chance + 4 * max(by_luck, float(np.std(shuffled)) / np.sqrt(_CONTROL_SEEDS)):
        report.problems.append(
            f"with shuffled labels plain features still get {np.mean(shuffled):.3f} where chance is {chance:.3f}: the "
            "test can be told from the training by something else than the class"
        )
    if report.controls["plain_features"] < chance + 2 * by_luck:
        report.notes.append(
            f"plain features get {report.controls['plain_features']:.3f} where chance is {chance:.3f}: labels may be "
            "shifted, or what tells the classes apart is subtle"
        )


def _some(spans: list[Span], rng: np.random.Generator) -> list[Span]:
    if len(spans) <= _CONTROL_ROWS:
        return spans
    return [spans[i] for i in sorted(rng.choice(len(spans), _CONTROL_ROWS, replace=False))]


def _features(
    dataset: Dataset, lengths: Mapping[str, int], spans: list[Span]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Features of the middle of every span in which all sensors have a window."""
    rows, labels = [], []
    for span in spans:
        at = (span.begin_ns + span.end_ns) // 2
        streams = dataset.sessions[span.session].streams
        windows = {m: streams[m].window(at, n) if m in streams else None for m, n in lengths.items()}
        parts = [plain_features(dataset.rig.sensor(m).kind, w) for m, w in windows.items() if w is not None]
        if len(parts) == len(windows):
            rows.append(np.concatenate(parts))
            labels.append(span.label)
    return np.array(rows), np.array(labels, np.int64)
