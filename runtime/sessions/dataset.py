"""A data set: sessions, their classes, and the spans of them in which windows may end.

A *span* belongs to a label, or has none; which split it is in is decided by :mod:`runtime.sessions.splits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S, nanoseconds
from runtime.rig import Rig
from runtime.sessions.session import Session, read_sessions
from runtime.sessions.splits import DatasetError, LabelledStretch, SplitPlan, assign_blocks, assign_groups
from runtime.sessions.stream import Stream
from runtime.signals.moments import SPLITS, Split
from runtime.wire.labels import Label

LabelPolicy = Literal["end", "majority", "anywhere"]
_LONGEST_UNLABELLED_NS = 10 * NS_PER_S
_SOUND_STEP = 160
"""Windows of sound are multiples of the spectrum's hop."""
_FEWEST_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a session in which windows may end.

    Attributes:
        session: index into the data set's sessions.
        begin_ns: the earliest end of a window.
        end_ns: the latest.
        label: index of its class; -1 where there is none.
    """

    session: int
    begin_ns: int
    end_ns: int
    label: int


@dataclass(frozen=True)
class Dataset:
    """Sessions of one rig and what is to be learned from them.

    Attributes:
        rig: the sensors, in the order of the presence mask.
        classes: names, in the order of the labels' first appearance unless given.
        sessions: all of them.
        plan: which of them train, validate and test.
        policy: which label a window has: the one at its ``end``, the one that covers the ``majority`` of its longest
            modality, or one that is ``anywhere`` in it.
        transition_s: seconds after an onset and before an end that are left out, at most a quarter of a label.
    """

    rig: Rig
    classes: tuple[str, ...]
    sessions: tuple[Session, ...]
    plan: SplitPlan = field(default_factory=SplitPlan)
    policy: LabelPolicy = "end"
    transition_s: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be learned from.

        Raises:
            DatasetError: sessions of different sensors or of one name, fewer than two classes, a split without a class.
        """
        names = Counter(session.name for session in self.sessions)
        if twice := [name for name, count in names.items() if count > 1]:
            raise DatasetError(f"sessions {twice} are there twice; rename one of them")
        for session in self.sessions:
            _check_same_sensors(self.rig, session)
        if len(self.classes) < 2:
            raise DatasetError(
                f"expected labels of two classes or more in {len(self.sessions)} sessions, got {list(self.classes)}; "
                "label what is to be told apart (`afterimage record --classes`, `afterimage import --labels`)"
            )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        rig: Rig | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> Dataset:
        """Read the sessions of a folder.

        Args:
            folder: with MCAP files.
            rig: which sensors of the sessions to use, and their order; the first session's by default.
            classes: which labels to use; all by default, in order of their names.
            options: further fields.

        Raises:
            RecordingError: a session that cannot be read.
            DatasetError: see :class:`Dataset`.
        """
        return cls.of_sessions(read_sessions(Path(folder)), rig=rig, classes=classes, **options)

    @classmethod
    def of_sessions(
        cls,
        sessions: Iterable[Session],
        *,
        rig: Rig | None = None,
        classes: Sequence[str] | None = None,
        **options: Any,
    ) -> Dataset:
        """A data set of sessions that were read or made before; arguments as of :meth:`load`."""
        kept = tuple(sessions)
        if not kept:
            raise DatasetError("expected at least one session, got none")
        found = sorted({label.name for session in kept for label in session.labels})
        if classes is not None and (unknown := sorted(set(classes) - set(found))):
            raise DatasetError(f"classes {unknown}: no session has such a label; there are {found}")
        if "plan" not in options:
            options["plan"] = SplitPlan(by="session" if len(kept) >= 3 else "time")
        return cls(rig or kept[0].rig, tuple(classes or found), kept, **options)

    @classmethod
    def from_arrays(
        cls,
        signals: Mapping[str, npt.NDArray[Any]],
        labels: Sequence[str],
        rig: Rig,
        *,
        split: Sequence[str] | None = None,
        present: Mapping[str, npt.NDArray[np.bool_]] | None = None,
        **options: Any,
    ) -> Dataset:
        """A data set of trials in memory, for people who never record with us.

        Args:
            signals: modality -> (N, T, *sample_shape), one trial a row; (N, *sample_shape) of single images.
            labels: class of every trial; an empty word where there is none.
            rig: what the arrays hold: shapes, dtypes, units, rates.
            split: ``train``, ``validation`` or ``test`` of every trial; by share, in order, if not given.
            present: modality -> (N,) whether the trial has it; all of it by default.
            options: further fields, such as ``policy``.

        Raises:
            DatasetError: arrays of different lengths or other shapes than the rig's.
        """
        return cls.of_sessions(
            _trials(signals, labels, rig, split, present or {}),
            rig=rig,
            plan=SplitPlan(by="split") if split is not None else SplitPlan(by="time", gap_s=0.0),
            **options,
        )

    def spans(self, split: Split, lengths: Mapping[str, int], *, unlabelled: bool = False) -> list[Span]:
        """Where windows may end in one split, in order of session and time.

        Args:
            split: which.
            lengths: modality -> window in samples.
            unlabelled: also stretches of training sessions without a label, ten seconds at most.

        Raises:
            DatasetError: a class has no span in the split: it could not be learned, or not be measured.
        """
        longest_ns = max(nanoseconds(n / self.rig.sensor(m).rate_hz) for m, n in lengths.items())
        found = [
            Span(x.session, *ends, x.label)
            for x in self._labelled
            if self._splits[x] == split and (ends := self._window_ends(x, longest_ns)) is not None
        ]
        if unlabelled:
            found += self._unlabelled_spans(longest_ns, split)
        counts = Counter(span.label for span in found)
        if absent := [name for index, name in enumerate(self.classes) if not counts[index]]:
            raise DatasetError(
                f"split {split!r} has no label of class {absent}; record more sessions with it, name other "
                f"sessions for the splits, or leave the class out ({self._describe_splits()})"
            )
        return sorted(found, key=lambda x: (x.session, x.begin_ns))

    @cached_property
    def _labelled(self) -> list[LabelledStretch]:
        """Every closed label of a class of the data set."""
        index = {name: i for i, name in enumerate(self.classes)}
        return [
            LabelledStretch(number, x.onset_ns, x.end_ns, index[x.name])
            for number, session in enumerate(self.sessions)
            for x in session.labels
            if x.name in index and x.end_ns is not None
        ]

    @cached_property
    def _groups(self) -> dict[str, Split]:
        return assign_groups([self.plan.group(s.name, s.tags) for s in self.sessions], self.plan)

    @cached_property
    def _splits(self) -> dict[LabelledStretch, Split | None]:
        if self.plan.by != "time":
            groups = [self._groups[self.plan.group(s.name, s.tags)] for s in self.sessions]
            return {x: groups[x.session] for x in self._labelled}
        found: dict[LabelledStretch, Split | None] = {}
        for label in range(len(self.classes)):
            found |= assign_blocks([x for x in self._labelled if x.label == label], self.plan)
        return found

    def _window_ends(self, label: LabelledStretch, longest_ns: int) -> tuple[int, int] | None:
        """The earliest and latest end of a window that has a label; None outside the session."""
        onset_ns, end_ns = label.onset_ns, label.end_ns
        transition = min(nanoseconds(self.transition_s), (end_ns - onset_ns) // 4)
        if self.policy == "majority":
            # Half of the longest window lies in the label, or half of the label in the window.
            half = min(longest_ns, end_ns - onset_ns) // 2
            first, last = onset_ns + max(half, transition), end_ns + max(0, longest_ns - half) - transition
        elif self.policy == "anywhere":
            first, last = onset_ns + transition, end_ns + longest_ns - transition
        else:
            # A window that lies within its label, where the label is long enough; else one that ends in it.
            last = end_ns - transition
            first = min(onset_ns + max(transition, longest_ns), last)
        begin, end = self.sessions[label.session].span_ns
        first, last = max(first, begin), min(last, end)
        return (first, last) if first <= last else None

    def _unlabelled_spans(self, longest_ns: int, split: Split) -> list[Span]:
        """Stretches that no label touches; by time, only those before the first label of another split."""
        spans = []
        for number, session in enumerate(self.sessions):
            begin_ns, end_ns = session.span_ns
            if self.plan.by != "time":
                if self._groups[self.plan.group(session.name, session.tags)] != split:
                    continue
            else:
                others = [
                    x.onset_ns for x in self._labelled if x.session == number and self._splits[x] != split
                ]
                end_ns = min([end_ns, *others]) - nanoseconds(self.plan.gap_s)
            at = begin_ns + longest_ns
            edges = sorted((x.onset_ns, end_ns if x.end_ns is None else x.end_ns) for x in session.labels)
            for onset, end in [*edges, (end_ns, end_ns)]:
                spans += [Span(number, a, b, -1) for a, b in _pieces(at, min(onset, end_ns))]
                at = max(at, end + longest_ns)
        return spans

    def _describe_splits(self) -> str:
        if self.plan.by == "time":
            return "split by time within each class"
        by_split = {s: [g for g, x in self._groups.items() if x == s] for s in SPLITS}
        return "; ".join(f"{s}: {', '.join(g) or 'none'}" for s, g in by_split.items())


def _pieces(begin_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """A stretch in equal parts that are not too long; one of no length is one moment, one that ends before is none."""
    if end_ns < begin_ns:
        return []
    count = max(1, -(-(end_ns - begin_ns) // _LONGEST_UNLABELLED_NS))
    edges = [begin_ns + (end_ns - begin_ns) * k // count for k in range(count + 1)]
    return list(pairwise(edges))


def _check_same_sensors(rig: Rig, session: Session) -> None:
    for sensor in rig.sensors:
        if sensor.modality not in session.rig.modality_names:
            continue  # it was not recorded then: absent
        other = session.rig.sensor(sensor.modality)
        for name in ("kind", "sample_shape", "dtype", "unit", "rate_hz"):
            mine, theirs = getattr(sensor, name), getattr(other, name)
            if mine != theirs:
                raise DatasetError(
                    f"session {session.name!r}: sensor {sensor.modality!r}: {name}: expected {mine!r} as in rig "
                    f"{rig.name!r}, got {theirs!r}; record it alike, or give a rig that fits"
                )


def _trials(
    signals: Mapping[str, npt.NDArray[Any]],
    labels: Sequence[str],
    rig: Rig,
    split: Sequence[str] | None,
    present: Mapping[str, npt.NDArray[np.bool_]],
) -> list[Session]:
    if set(signals) != set(rig.modality_names):
        raise DatasetError(
            f"arrays: expected {list(rig.modality_names)} as in rig {rig.name!r}, got {sorted(signals)}"
        )
    count = len(labels)
    for modality, array in signals.items():
        sensor = rig.sensor(modality)
        if len(array) != count or array.shape[1:] not in (
            sensor.sample_shape,
            (array.shape[1], *sensor.sample_shape),
        ):
            raise DatasetError(
                f"arrays: {modality!r}: expected ({count} trials, samples, "
                f"{', '.join(map(str, sensor.sample_shape))}), got {array.shape}"
            )
    sessions = []
    for row in range(count):
        streams = {}
        for modality, array in signals.items():
            sensor = rig.sensor(modality)
            samples = array[row] if array.ndim > 1 + len(sensor.sample_shape) else array[row : row + 1]
            kept = samples if bool(present.get(modality, np.ones(count, bool))[row]) else samples[:0]
            streams[modality] = Stream.of_array(kept.astype(sensor.dtype, copy=False), sensor.rate_hz)
        end_ns = max((s.span_ns[1] for s in streams.values() if s.span_ns), default=0)
        label = (Label(rig.name, labels[row], 0, end_ns, "arrays", row),) if labels[row] else ()
        tags = {"split": str(split[row])} if split is not None else {}
        sessions.append(Session(f"trial-{row:06d}", rig, streams, label, tags))
    return sessions


def default_lengths(dataset: Dataset) -> dict[str, int]:
    """A window for every sensor, in samples, where nobody says another one.

    One picture; a second of sound; of series as much as labels usually hold for, within 0.2 to 2 s (EEG: 0.5 to 3 s).
    """
    held = [
        (x.end_ns - x.onset_ns) / NS_PER_S for s in dataset.sessions for x in s.labels if x.end_ns is not None
    ]
    usual_s = float(np.median(held)) if held else 1.0
    lengths = {}
    for sensor in dataset.rig.sensors:
        if sensor.kind in ("rgb", "depth"):
            lengths[sensor.modality] = 1
        elif sensor.kind == "audio":
            lengths[sensor.modality] = -(-round(sensor.rate_hz) // _SOUND_STEP) * _SOUND_STEP
        else:
            least, most = (0.5, 3.0) if sensor.kind == "eeg" else (0.2, 2.0)
            seconds = min(max(usual_s, least), most)
            lengths[sensor.modality] = max(_FEWEST_SAMPLES, round(seconds * sensor.rate_hz))
    return lengths
