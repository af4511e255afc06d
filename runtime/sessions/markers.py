"""Markers as labels: a map says what the marks in a file mean; nothing is dropped without being counted.

A map is a YAML file::

    version: 1
    markers:
      "1s": squeeze begins
      "1e": squeeze ends
      "7": tap for 0.5 s        # an onset with a duration
      "0": snap toggles         # the first begins it, the next ends it
      "99": ignored

A marker whose event has a duration of its own (MNE annotations, BIDS events) needs only the name of its class:
``"left": left``. Where no map is given, events with a duration are taken by their own names.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from configs.errors import AfterimageError
from configs.reading import StrictModel, read_yaml, validated
from runtime.core.clock import nanoseconds
from runtime.wire.labels import Label

Action = Literal["begins", "ends", "toggles", "lasts", "ignored"]


class MarkerError(AfterimageError):
    """Markers or a map of them that cannot be used; names the file, the marker, what was expected and what to do."""


@dataclass(frozen=True, slots=True)
class Marker:
    """One mark in a recording.

    Attributes:
        at_ns: when.
        text: what it says; numbers as they print.
        duration_ns: how long it holds, where the file says so.
    """

    at_ns: int
    text: str
    duration_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a marker says.

    Attributes:
        name: of the class; empty where it is ignored.
        action: what happens to it.
        duration_ns: of ``lasts``; None takes the marker's own.
    """

    name: str
    action: Action
    duration_ns: int | None = None

    @classmethod
    def parse(cls, phrase: str) -> Meaning:
        """Read ``CLASS begins``, ``CLASS ends``, ``CLASS toggles``, ``CLASS for N s``, ``CLASS`` or ``ignored``.

        Raises:
            ValueError: none of these.
        """
        words = phrase.strip()
        if words == "ignored":
            return cls("", "ignored")
        if match := re.fullmatch(r"(\S.*?)\s+for\s+([0-9.]+)\s*s", words):
            seconds = float(match[2])
            if not 0 < seconds < 3600:
                raise ValueError(f"expected a duration of 0 to 3600 s, got {seconds}")
            return cls(match[1], "lasts", nanoseconds(seconds))
        for action in ("begins", "ends", "toggles"):
            if words.endswith(f" {action}"):
                return cls(words.removesuffix(action).strip(), action)
        if not words:
            raise ValueError("expected a class, got nothing")
        return cls(words, "lasts")


class _MarkerFile(StrictModel):
    version: Literal[1]
    markers: dict[str, str] = Field(min_length=1)


MarkerMap = Mapping[str, Meaning]


def load_marker_map(path: Path) -> dict[str, Meaning]:
    """Read a map.

    Raises:
        MarkerError: no such file, not YAML, an unknown key, or a phrase that says nothing; keys that are numbers in
            YAML count as their texts.
    """
    raw = read_yaml(path, f"{path}: no such file", MarkerError)
    if isinstance(raw, dict) and isinstance(raw.get("markers"), dict):
        raw = raw | {"markers": {str(k): v for k, v in raw["markers"].items()}}
    file = validated(raw, _MarkerFile, path, MarkerError)
    found = {}
    for text, phrase in file.markers.items():
        try:
            found[text] = Meaning.parse(phrase)
        except ValueError as e:
            raise MarkerError(
                f"{path}: marker {text!r}: {phrase!r}: {e}; write `CLASS begins`, `CLASS ends`, `CLASS toggles`, "
                "`CLASS for 1.5 s`, `CLASS` or `ignored`"
            ) from e
    return found


@dataclass
class MarkerReport:
    """What became of the markers.

    Attributes:
        labels: how many were made, by class.
        unmapped: markers that the map does not name, by text.
        ignored: markers that the map says to ignore, by text.
        unfinished: begun and never ended, by class.
        unbegun: ended and never begun, by class.
        without_duration: named by a class alone, and the file says no duration, by text.
        outside: labels that no sample of any sensor is under, by class.
    """

    labels: Counter[str] = field(default_factory=Counter)
    unmapped: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    unfinished: Counter[str] = field(default_factory=Counter)
    unbegun: Counter[str] = field(default_factory=Counter)
    without_duration: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)

    def problems(self) -> list[str]:
        """One line for each kind of marker that became no label, with counts."""
        told = {
            "not in the map": self.unmapped,
            "begun and never ended": self.unfinished,
            "ended and never begun": self.unbegun,
            "without a duration (write `CLASS for N s`)": self.without_duration,
            "outside the recording": self.outside,
        }
        return [
            f"{sum(counts.values())} markers {what}: {', '.join(f'{k!r} x {n}' for k, n in counts.most_common())}"
            for what, counts in told.items()
            if counts
        ]


def labels_of_markers(
    markers: Iterable[Marker], meanings: MarkerMap | None, *, rig: str, author: str, span_ns: tuple[int, int]
) -> tuple[list[Label], MarkerReport]:
    """Make labels of markers.

    Args:
        markers: in any order.
        meanings: of their texts; None takes every marker with a duration by its own text.
        rig: name of the rig.
        author: of the labels.
        span_ns: from the first to the last sample; labels that lie outside are counted and left out.

    Returns:
        The labels in order of onset, and what became of the markers.

    Raises:
        MarkerError: the map fits no marker at all.
    """
    ordered = sorted(markers, key=lambda m: m.at_ns)
    report, open_, found = MarkerReport(), dict[str, int](), list[tuple[str, int, int]]()
    for marker in ordered:
        meaning = Meaning(marker.text, "lasts") if meanings is None else meanings.get(marker.text)
        if meaning is None:
            report.unmapped[marker.text] += 1
        elif meaning.action == "ignored":
            report.ignored[marker.text] += 1
        elif meaning.action == "lasts":
            duration_ns = meaning.duration_ns or marker.duration_ns
            if not duration_ns:
                report.without_duration[marker.text] += 1
            else:
                found.append((meaning.name, marker.at_ns, marker.at_ns + duration_ns))
        else:
            _follow(marker, meaning, open_, found, report)
    report.unfinished.update(open_.keys())
    if meanings is not None and ordered and len(report.unmapped) == len({m.text for m in ordered}):
        raise MarkerError(
            f"the map names {sorted(meanings)} and the recording has {sorted(report.unmapped)}: none fits; write the "
            "texts of the recording into the map"
        )
    labels: list[Label] = []
    for name, onset_ns, end_ns in sorted(found, key=lambda x: x[1]):
        if end_ns <= span_ns[0] or onset_ns >= span_ns[1]:
            report.outside[name] += 1
            continue
        labels.append(Label(rig, name, onset_ns, end_ns, author, len(labels)))
        report.labels[name] += 1
    return labels, report


def _follow(
    marker: Marker,
    meaning: Meaning,
    open_: dict[str, int],
    found: list[tuple[str, int, int]],
    report: MarkerReport,
) -> None:
    """One marker of a pair: begin, end or toggle its class."""
    name = meaning.name
    begins = meaning.action == "begins" or (meaning.action == "toggles" and name not in open_)
    if begins:
        if name in open_:
            report.unfinished[name] += 1
        open_[name] = marker.at_ns
    elif name in open_:
        found.append((name, open_.pop(name), marker.at_ns))
    else:
        report.unbegun[name] += 1


_COLUMNS = {
    "onset": ("onset",),
    "duration": ("duration",),
    "label": ("label", "trial_type", "description", "value"),
}


def read_events_table(path: Path, start_ns: int) -> list[Marker]:
    """Read events from a CSV or TSV file: ``onset,duration,label`` in seconds, or BIDS ``events.tsv``.

    Args:
        path: ``.tsv`` is split at tabs, all else at commas.
        start_ns: what an onset of 0 means.

    Raises:
        MarkerError: no such file, a column that is not there, or a value that is no number; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            columns = _columns(path, reader.fieldnames or ())
            return [_event(path, number, row, columns, start_ns) for number, row in enumerate(reader, 2)]
    except OSError as e:
        raise MarkerError(f"{path}: cannot be read: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise MarkerError(
            f"{path}: expected a table of onset, duration, label, got something else: {e}"
        ) from e


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    found = {}
    for wanted, spellings in _COLUMNS.items():
        match = next((n for n in spellings if n in names), None)
        if match is None:
            raise MarkerError(f"{path}: expected a column {' or '.join(spellings)}, got {list(names)}")
        found[wanted] = match
    return found


def _event(path: Path, number: int, row: dict[str, str], columns: Mapping[str, str], start_ns: int) -> Marker:
    def seconds(column: str) -> float | None:
        text = (row.get(columns[column]) or "").strip()
        if text in ("", "n/a"):
            return None
        try:
            value = float(text)
        except ValueError as e:
            raise MarkerError(
                f"{path}: line {number}: {columns[column]}: expected seconds, got {text!r}"
            ) from e
        if not abs(value) < 1e9:
            raise MarkerError(f"{path}: line {number}: {columns[column]}: expected seconds, got {text!r}")
        return value

    onset, duration = seconds("onset"), seconds("duration")
    if onset is None:
        raise MarkerError(f"{path}: line {number}: {columns['onset']}: expected seconds, got nothing")
    if duration is not None and duration < 0:
        raise MarkerError(f"{path}: line {number}: {columns['duration']}: expected 0 or more, got {duration}")
    text = (row.get(columns["label"]) or "").strip()
    return Marker(start_ns + nanoseconds(onset), text, nanoseconds(duration) if duration else None)
