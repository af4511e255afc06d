"""Parity finds what differs: every graph, every pattern, decisions included."""

from __future__ import annotations

import io

import numpy as np
import pytest

from engines.bundle import BundleError
from engines.compiling.parity import check_parity, differing_decisions, relative_error
from engines.opening import open_session


def rewrite_golden(bundle, replace_graph, change):
    with np.load(bundle / "golden.npz") as arrays:
        golden = dict(arrays)
    change(golden)
    buffer = io.BytesIO()
    np.savez(buffer, **golden)
    replace_graph(bundle, "golden.npz", buffer.getvalue())


def test_every_graph_and_pattern_is_compared(tiny_bundle):
    with open_session(tiny_bundle) as session:
        report = check_parity(session, tiny_bundle)
    assert report.passed
    assert report.worst < 1e-4
    graphs = {c.graph for c in report.comparisons}
    assert len(graphs) == 14  # 13 graphs and end to end
    for graph in ("fuse", "decode_rgb", "end to end"):
        assert len({c.pattern for c in report.comparisons if c.graph == graph}) == 16


@pytest.mark.parametrize(
    ("array", "graph"),
    [
        ("evidence_depth", "encode_depth"),
        ("observed_audio", "observe_audio"),
        ("logits_3", "fuse"),
        ("posterior_5", "fuse"),
        ("latent_eeg_7", "fuse"),
        ("decoded_rgb_9", "decode_rgb"),
    ],
)
def test_a_wrong_value_is_found_in_its_graph(bundle, replace_graph, array, graph):
    def change(golden):
        golden[array] = golden[array] * np.float32(1.01)

    rewrite_golden(bundle, replace_graph, change)
    with open_session(bundle) as session:
        report = check_parity(session, bundle)
    assert not report.passed
    failed = {c.graph for c in report.failures}
    assert graph in failed
    assert "encode_rgb" not in failed


def test_a_graph_with_other_weights_fails(bundle, replace_graph, tmp_path):
    from tiny_bundle import build_tiny_bundle

    build_tiny_bundle(tmp_path / "other", seed=1)
    replace_graph(bundle, "encode_audio.onnx", (tmp_path / "other" / "encode_audio.onnx").read_bytes())
    with open_session(bundle) as session:
        report = check_parity(session, bundle)
    assert {c.graph for c in report.failures} == {"encode_audio", "end to end"}


def test_nan_in_the_golden_file_is_no_agreement():
    nan = np.array([[np.nan, 1]], np.float32)
    assert relative_error(nan, nan) == float("inf")
    assert relative_error(np.ones((1, 2), np.float32), np.full((1, 2), 2, np.float32)) == 0.5
    assert relative_error(np.full((1, 2), 1e-3, np.float32), np.zeros((1, 2), np.float32)) == pytest.approx(
        1e-3
    )


def test_a_tie_may_fall_either_way_but_a_decision_may_not():
    golden = np.array([[1.0, 1.0 - 1e-6, 0.0], [1.0, 0.5, 0.0]], np.float32)
    assert differing_decisions(np.array([[1, 1.1, 0], [1, 0.5, 0]], np.float32), golden, 1e-3) == 0
    assert differing_decisions(np.array([[1, 1.1, 0], [0.4, 0.5, 0]], np.float32), golden, 1e-3) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("latent_rgb_2"), "lacks array 'latent_rgb_2'"),
        (lambda g: g.update(window_rgb=np.zeros((4, 8, 8, 3), np.uint8)), "window_rgb: expected shape"),
        (lambda g: g.update(presence=g["presence"][:5]), "5 patterns, expected 16"),
    ],
)
def test_incomplete_golden_file_is_named(bundle, replace_graph, change, message):
    rewrite_golden(bundle, replace_graph, change)
    with open_session(bundle) as session, pytest.raises(BundleError, match=message):
        check_parity(session, bundle)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_golden_file_that_is_no_archive_is_named(bundle, replace_graph, content):
    replace_graph(bundle, "golden.npz", content)
    with open_session(bundle) as session, pytest.raises(BundleError, match=r"golden\.npz: cannot be read"):
        check_parity(session, bundle)
