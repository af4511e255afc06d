"""The session on ONNX Runtime: agreement with torch, and every wrong argument."""

from __future__ import annotations

import numpy as np
import pytest
from process_under_test import python, run_to_end

from engines.bundle import BundleError, pattern_key
from engines.errors import EngineError, InputError
from engines.opening import open_session
from engines.session import softmax


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with open_session(tiny_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def golden(tiny_bundle):
    with np.load(tiny_bundle / "golden.npz") as arrays:
        return dict(arrays)


def evidence_of(golden, session):
    return {n: golden[f"evidence_{n}"] for n in session.manifest.modality_names}


@pytest.mark.parametrize("modality", ["rgb", "depth", "audio", "eeg"])
def test_encode_and_observe_agree_with_torch(session, golden, modality):
    windows = golden[f"window_{modality}"]
    spec = session.manifest.modality(modality)
    assert windows.dtype == spec.dtype
    evidence = session.encode(modality, windows)
    assert evidence.dtype == np.float32
    np.testing.assert_allclose(evidence, golden[f"evidence_{modality}"], rtol=1e-4, atol=1e-4)
    observed = session.observe(modality, windows)
    scale = np.abs(golden[f"observed_{modality}"]).max()
    np.testing.assert_allclose(observed, golden[f"observed_{modality}"], atol=1e-5 * scale)


def test_batch_of_one_is_a_row_of_the_batch(session, golden):
    windows = golden["window_audio"]
    np.testing.assert_allclose(
        session.encode("audio", windows[2:3]), session.encode("audio", windows)[2:3], rtol=1e-4, atol=1e-5
    )


def test_fuse_applies_the_temperature_of_each_row(session, golden):
    evidence, masks = evidence_of(golden, session), golden["presence"]
    rows = {n: np.repeat(e[:1], len(masks), axis=0) for n, e in evidence.items()}
    fused = session.fuse(rows, masks)
    names, temperatures = session.manifest.modality_names, session.manifest.calibration.temperature
    assert len(set(temperatures.values())) == 16
    for row, mask in enumerate(masks):
        np.testing.assert_allclose(fused.logits[row], golden[f"logits_{row}"][0], rtol=1e-4, atol=1e-5)
        expected = softmax(fused.logits[row : row + 1] / temperatures[pattern_key(names, mask)])
        np.testing.assert_allclose(fused.probabilities[row : row + 1], expected, rtol=1e-5)
    np.testing.assert_allclose(fused.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_every_pattern_gives_finite_calibrated_output(session, golden):
    evidence = evidence_of(golden, session)
    for mask in golden["presence"]:
        fused = session.fuse(evidence, np.repeat(mask[None], 4, axis=0))
        for value in (fused.logits, fused.probabilities, fused.posterior, *fused.latents.values()):
            assert np.isfinite(value).all()
            assert value.dtype == np.float32


def test_absent_evidence_may_be_left_out_and_is_ignored(session, golden):
    evidence = evidence_of(golden, session)
    mask = np.array([[1, 0, 1, 0]] * 4, dtype=bool)
    full = session.fuse(evidence, mask)
    sparse = session.fuse({n: evidence[n] for n in ("rgb", "audio")}, mask)
    poisoned = session.fuse({**evidence, "eeg": np.full_like(evidence["eeg"], np.nan)}, mask)
    np.testing.assert_array_equal(full.logits, sparse.logits)
    np.testing.assert_array_equal(full.logits, poisoned.logits)


def test_presence_changes_the_decision_inputs(session, golden):
    evidence = evidence_of(golden, session)
    all_present = session.fuse(evidence, np.ones((4, 4)))
    without_rgb = session.fuse(evidence, np.array([[0, 1, 1, 1]] * 4))
    assert np.abs(all_present.logits - without_rgb.logits).max() > 1e-3


def test_decode_of_an_imputed_latent_agrees_with_torch(session, golden):
    without_rgb = int(np.flatnonzero((golden["presence"] == (0, 1, 1, 1)).all(axis=1))[0])
    fused = session.fuse(evidence_of(golden, session), np.array([[0, 1, 1, 1]] * 4))
    imputed = session.decode("rgb", fused.latents["rgb"])
    assert imputed.shape == (4, 64, 64, 3)
    np.testing.assert_allclose(imputed, golden[f"decoded_rgb_{without_rgb}"], atol=1e-2)


@pytest.mark.parametrize(
    ("modality", "window", "message"),
    [
        ("lidar", np.zeros((1, 64, 64, 3), np.uint8), r"'lidar' is not in this bundle; it has \['rgb'"),
        (
            "rgb",
            np.zeros((64, 64, 3), np.uint8),
            r"'rgb'.*expected shape \(B >= 1, 64, 64, 3\), got \(64, 64, 3\)",
        ),
        ("rgb", np.zeros((1, 32, 64, 3), np.uint8), r"got \(1, 32, 64, 3\)"),
        ("rgb", np.zeros((0, 64, 64, 3), np.uint8), r"got \(0, 64, 64, 3\)"),
        ("rgb", np.zeros((1, 64, 64, 3), np.float32), "expected dtype uint8, got float32"),
        ("depth", np.zeros((1, 64, 64), np.int16), "expected dtype uint16, got int16"),
        ("audio", np.zeros((1, 15999), np.int16), r"'audio'.*\(B >= 1, 16000\), got \(1, 15999\)"),
        ("eeg", np.zeros((1, 8, 768), np.float32), r"'eeg'.*got \(1, 8, 768\)"),
        ("eeg", np.full((1, 768, 8), "x"), "expected dtype float32"),
    ],
)
def test_wrong_window_is_named(session, modality, window, message):
    for call in (session.encode, session.observe):
        with pytest.raises(InputError, match=message):
            call(modality, window)


def test_window_that_makes_no_finite_evidence_is_refused(session, golden):
    windows = golden["window_eeg"].copy()
    windows[1, 5, 2] = np.nan
    with pytest.raises(EngineError, match="encode_eeg: evidence is not finite"):
        session.encode("eeg", windows)
    assert np.isfinite(session.encode("eeg", golden["window_eeg"])).all()


def test_wrong_latent_is_named(session):
    with pytest.raises(InputError, match=r"latent of 'audio': expected shape \(B >= 1, 7\), got \(1, 5\)"):
        session.decode("audio", np.zeros((1, 5), np.float32))


@pytest.mark.parametrize(
    ("change", "presence", "message"),
    [
        ({"rgb": None}, np.ones((2, 4)), "'rgb': the presence mask says present, but no evidence"),
        ({"rgb": np.zeros((2, 5))}, np.ones((2, 4)), r"'rgb': expected shape \(B >= 1, 12\), got \(2, 5\)"),
        ({"eeg": np.zeros((3, 12))}, np.ones((2, 4)), "3 rows, the presence mask has 2"),
        ({"eeg": np.full((2, 12), np.nan)}, np.ones((2, 4)), "'eeg': not finite"),
        ({"lidar": np.zeros((2, 12))}, np.ones((2, 4)), r"unknown modalities \['lidar'\]"),
        ({}, np.ones((2, 3)), r"presence: expected shape \(B >= 1, 4\), got \(2, 3\)"),
        ({}, np.ones(4), r"presence: .*got \(4,\)"),
        ({}, np.full((2, 4), 0.5), "only 0 and 1"),
        ({}, np.full((2, 4), np.nan), "only 0 and 1"),
    ],
)
def test_wrong_fuse_arguments_are_named(session, change, presence, message):
    evidence = {n: np.zeros((2, 12), np.float32) for n in session.manifest.modality_names}
    evidence.update(change)
    evidence = {n: e for n, e in evidence.items() if e is not None}
    with pytest.raises(InputError, match=message):
        session.fuse(evidence, presence)


def test_a_refused_argument_leaves_the_session_usable(session, golden):
    with pytest.raises(InputError):
        session.encode("rgb", np.zeros((1, 2, 2, 3), np.uint8))
    assert session.encode("rgb", golden["window_rgb"]).shape == (4, 12)


def test_softmax_survives_large_logits():
    probabilities = softmax(np.array([[1e4, 0, -1e4]], np.float32))
    np.testing.assert_allclose(probabilities, [[1, 0, 0]])


def test_closed_session_says_so(tiny_bundle):
    opened = open_session(tiny_bundle)
    opened.warm_up()
    opened.close()
    with pytest.raises(EngineError, match="not loaded"):
        opened.encode("eeg", np.zeros((1, 768, 8), np.float32))
    opened.close()


def test_open_verifies_hashes(bundle):
    (bundle / "fuse.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"fuse\.onnx: sha256"):
        open_session(bundle)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\x12\x07pytorch"])
def test_graph_that_is_no_graph_names_the_file(bundle, replace_graph, content):
    replace_graph(bundle, "encode_rgb.onnx", content)
    with pytest.raises(EngineError, match=r"encode_rgb"):
        open_session(bundle)


def test_graph_whose_names_are_not_text_is_refused_without_noise(bundle, replace_graph, capfd):
    content = (bundle / "observe_depth.onnx").read_bytes()
    replace_graph(bundle, "observe_depth.onnx", content.replace(b"window", b"wind\xe8w"))
    with pytest.raises(EngineError, match="observe_depth"):
        open_session(bundle)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_graph_of_another_modality_is_refused(bundle, replace_graph):
    replace_graph(bundle, "encode_rgb.onnx", (bundle / "encode_depth.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"encode_rgb.*'window'.*\(batch, 64, 64, 3\)"):
        open_session(bundle)


def test_graph_with_other_names_is_refused(bundle, replace_graph):
    replace_graph(bundle, "encode_rgb.onnx", (bundle / "decode_rgb.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"encode_rgb.*expected inputs \['window'\], got \['latent'\]"):
        open_session(bundle)


def test_backend_that_needs_compiling_says_how(tiny_bundle):
    with pytest.raises(EngineError, match=r"afterimage compile .* --target tensorrt-rtx"):
        open_session(tiny_bundle, backend="tensorrt-rtx")
    with pytest.raises(InputError, match="'cuda' is not one of"):
        open_session(tiny_bundle, backend="cuda")
    with pytest.raises(InputError, match="threads"):
        open_session(tiny_bundle, threads=0)


def test_importing_the_session_costs_no_backend():
    heavy = ("onnxruntime", "torch", "cv2", "tensorrt_rtx", "cuda")
    code = f"import sys, engines.session, engines.compiling.compile; print([m for m in {heavy} if m in sys.modules])"
    assert run_to_end(python(code)).stdout.strip() == "[]"
