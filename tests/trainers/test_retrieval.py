from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from process_under_test import afterimage, run_to_end
from tiny_bundle import NAMES

from engines.errors import InputError
from engines.opening import open_session
from runtime.signals.synthetic import SyntheticSource
from trainers.data.windows import evaluation_windows
from trainers.evaluation.patterns import encode_all
from trainers.evaluation.retrieval import (
    Described,
    average_precision,
    chance_average_precision,
    describe,
    distances,
    precision_recall_curve,
    rank,
    retrieve_moments,
    score_retrieval,
)


def described(latents: list[list[float]], classes: list[int]) -> Described:
    return Described(np.array(latents, np.float32), np.array(classes), np.ones(len(classes), np.float32))


def test_distances_by_hand() -> None:
    found = distances(np.array([[0, 0], [3, 0]], np.float32), np.array([[3, 4], [3, 0]], np.float32))
    assert found == pytest.approx(np.array([[5, 3], [4, 0]]))


def test_the_class_comes_first_then_the_distance() -> None:
    queries = described([[0.0], [10.0]], [1, 0])
    gallery = described([[1.0], [5.0], [2.0], [9.0], [2.0]], [0, 1, 1, 0, 1])
    # Of class 1: rows 2 and 4 at 2 (the tie in order), 1 at 5; then of class 0: 0 at 1, 3 at 9.
    assert rank(queries, gallery)[0].tolist() == [2, 4, 1, 0, 3]
    assert rank(queries, gallery)[1].tolist() == [3, 0, 1, 2, 4]
    assert rank(queries, gallery, class_first=False)[0].tolist() == [0, 2, 4, 1, 3]


def test_average_precision_by_hand() -> None:
    relevant = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], bool)
    expected = [(1 + 2 / 3) / 2, (1 / 3 + 2 / 4) / 2, 1.0]
    assert average_precision(relevant) == pytest.approx(expected)
    curve = precision_recall_curve(relevant)
    assert [p["neighbours"] for p in curve] == [1, 2, 4]
    assert [p["precision"] for p in curve] == pytest.approx([2 / 3, 0.5, 2 / 3])
    assert [p["recall"] for p in curve] == pytest.approx([0.75 / 3, 1.0 / 3, 1.0])
    with pytest.raises(ValueError, match="1 queries that have nothing"):
        average_precision(np.array([[0, 0], [1, 0]], bool))


def test_average_precision_agrees_with_a_reference() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="the reference is scikit-learn's")
    rng = np.random.default_rng(0)
    relevant = rng.random((5, 40)) < 0.3
    scores = -np.arange(40.0)
    expected = [metrics.average_precision_score(row, scores) for row in relevant]
    assert average_precision(relevant) == pytest.approx(expected)


def test_chance_is_the_mean_over_all_orders() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    expected = np.mean(
        [
            average_precision(labels[list(order)][None] == label).mean()
            for order in itertools.permutations(range(5))
            for label in labels
        ]
    )
    assert chance_average_precision(labels) == pytest.approx(expected)


def test_a_bundle_is_asked_in_the_space_of_the_target(tiny_bundle: Path) -> None:
    source = SyntheticSource(seed=0)
    with open_session(tiny_bundle) as session:
        lengths = {m.name: m.window for m in session.manifest.modalities}
        (chunk,) = evaluation_windows(source, "test", lengths, limit=6)
        evidence = encode_all(session, chunk.windows)
        mask = np.tile(np.array([int(n == "rgb") for n in NAMES], np.float32), (6, 1))
        fused = session.fuse(evidence, mask)
        found = describe(session, evidence, "rgb")["audio"]
        assert found.latents == pytest.approx(fused.latents["audio"], abs=1e-6)
        assert np.array_equal(found.classes, fused.probabilities.argmax(1))
        # Neither side sees the sensor that it stands for.
        changed = {**evidence, "audio": evidence["audio"] + 1}
        assert np.array_equal(describe(session, changed, "rgb")["audio"].latents, found.latents)
        scores = score_retrieval(session, evidence, chunk.labels)
    assert len(scores["mean_average_precision"]) == len(scores["by_distance_alone"]) == 12
    assert all(0 < share <= 1 for share in scores["mean_average_precision"].values())


def test_a_query_gives_recordings_once_and_refuses_what_is_not_there(tiny_bundle: Path) -> None:
    source = SyntheticSource(seed=0, counts={"train": 8, "validation": 8, "test": 12})
    with open_session(tiny_bundle) as session:
        result = retrieve_moments(session, source, "rgb", "eeg", moment=2, top=4)
        with pytest.raises(InputError, match="'rgb', 'depth'"):
            retrieve_moments(session, source, "rgb", "sonar")
        with pytest.raises(InputError, match="two different"):
            retrieve_moments(session, source, "rgb", "rgb")
        with pytest.raises(InputError, match=r"0 \.\. 11"):
            retrieve_moments(session, source, "rgb", "eeg", moment=12)
    json.dumps(result, allow_nan=False)
    assert result["moments"] == 12
    assert len({f["recording"] for f in result["found"]}) == len(result["found"]) == 4
    same = [f["decided"] == result["query"]["decided"] for f in result["found"]]
    assert same == sorted(same, reverse=True)
    assert result["precision_recall"][-1]["recall"] == 1.0


def test_on_the_command_line(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = afterimage("retrieve", tiny_bundle, "--from", "rgb", "--to", "depth", "--synthetic")
    done = run_to_end([*command, "--top", "3", "--json", str(out)])
    assert "mean average precision" in done.stdout
    assert len(json.loads(out.read_text())["found"]) == 3
