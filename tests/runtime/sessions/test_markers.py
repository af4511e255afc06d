"""Markers: dialects, pairs, durations, and that nothing vanishes unsaid."""

from __future__ import annotations

import pytest

from runtime.sessions.markers import (
    Marker,
    MarkerError,
    Meaning,
    labels_of_markers,
    load_marker_map,
    read_events_table,
)

S = 1_000_000_000


def made(markers, meanings, span=(0, 1000 * S)):
    parsed = None if meanings is None else {k: Meaning.parse(v) for k, v in meanings.items()}
    labels, report = labels_of_markers(markers, parsed, rig="arm", author="lsl", span_ns=span)
    return [(x.name, x.onset_ns / S, x.end_ns / S) for x in labels], report


def marks(*pairs: tuple[float, str]) -> list[Marker]:
    return [Marker(round(at * S), text) for at, text in pairs]


def test_pairs_toggles_and_durations_become_labels():
    found, report = made(
        marks((1, "1s"), (3, "1e"), (4, "0"), (5, "0"), (6, "7"), (8, "99"), (9, "0"), (10, "0")),
        {
            "1s": "squeeze begins",
            "1e": "squeeze ends",
            "0": "snap toggles",
            "7": "big tap for 0.5 s",
            "99": "ignored",
        },
    )
    assert found == [("squeeze", 1, 3), ("snap", 4, 5), ("big tap", 6, 6.5), ("snap", 9, 10)]
    assert report.problems() == []
    assert report.ignored == {"99": 1}


def test_every_marker_that_becomes_no_label_is_counted():
    _, report = made(
        marks(
            (1, "1s"), (2, "1s"), (3, "1e"), (4, "1e"), (5, "x"), (6, "x"), (7, "y"), (8, "tap"), (99, "1s")
        ),
        {"1s": "a begins", "1e": "a ends", "tap": "tap"},
    )
    assert report.labels == {"a": 1}
    assert report.problems() == [
        "3 markers not in the map: 'x' x 2, 'y' x 1",
        "2 markers begun and never ended: 'a' x 2",
        "1 markers ended and never begun: 'a' x 1",
        "1 markers without a duration (write `CLASS for N s`): 'tap' x 1",
    ]


def test_labels_outside_the_recording_are_counted_and_left_out():
    found, report = made(marks((1, "a"), (20, "a")), {"a": "go for 2 s"}, span=(10 * S, 30 * S))
    assert found == [("go", 20, 22)]
    assert report.problems() == ["1 markers outside the recording: 'go' x 1"]


def test_events_with_durations_need_no_map():
    found, _ = made([Marker(S, "left", 2 * S), Marker(5 * S, "right", S)], None)
    assert found == [("left", 1, 3), ("right", 5, 6)]


def test_a_map_that_fits_nothing_says_what_there_is():
    with pytest.raises(MarkerError, match=r"\['1s'\].*\['0s'\].*none fits"):
        made(marks((1, "0s")), {"1s": "a begins"})


def test_a_map_is_read_with_numbers_as_keys(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("version: 1\nmarkers:\n  1: squeeze begins\n  2: squeeze ends\n")
    assert load_marker_map(path) == {"1": Meaning("squeeze", "begins"), "2": Meaning("squeeze", "ends")}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("version: 1\nmarkers: {a: go for 0 s}", "0 to 3600"),
        ("version: 1\nmarkers: {a: ''}", "expected a class"),
        ("version: 1\nmarkers: {a: [1]}", "markers.a"),
        ("version: 1\nmarker: {a: go}", "marker"),
        ("[", "not YAML"),
    ],
)
def test_a_map_that_cannot_be_read_names_file_and_marker(tmp_path, text, named):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(MarkerError) as error:
        load_marker_map(path)
    assert named in str(error.value)
    assert "map.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.csv", "onset,duration,label\n1.5,2,go\n4,n/a,stop\n"),
        ("e.tsv", "onset\tduration\ttrial_type\tresponse\n1.5\t2\tgo\tx\n4\tn/a\tstop\ty\n"),
    ],
)
def test_tables_of_events_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_events_table(tmp_path / name, S) == [
        Marker(2_500_000_000, "go", 2 * S),
        Marker(5 * S, "stop"),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("onset,label\n1,a\n", "duration"),
        ("onset,duration,label\nsoon,1,a\n", "line 2: onset: expected seconds, got 'soon'"),
        ("onset,duration,label\n1,1,a\n1,-1,a\n", "line 3: duration"),
        ("onset,duration,label\nnan,1,a\n", "line 2: onset"),
        (",", "onset"),
    ],
)
def test_a_table_that_is_wrong_names_line_and_column(tmp_path, text, named):
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(MarkerError) as error:
        read_events_table(tmp_path / "e.csv", 0)
    assert named in str(error.value)
