"""Half precision is chosen by measurement: harmless products join, harmful ones stay out."""

from __future__ import annotations

import numpy as np
import pytest

from engines.bundle import load_manifest
from engines.compile import compile_bundle
from engines.engine import load_engine
from engines.errors import CompileError
from engines.parity import Golden, relative_error
from engines.precision import halve
from engines.targets import load_target

onnx = pytest.importorskip("onnx", reason="half precision rewrites graphs with onnx")
helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array


def chain(*weights: np.ndarray) -> bytes:
    """x @ w1 @ w2 ..., as ONNX."""
    names = ["x", *(f"t{i}" for i in range(len(weights) - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(len(weights))]
    value = [
        helper.make_tensor_value_info(n, 1, ["b", s])
        for n, s in (("x", len(weights[0])), ("y", weights[-1].shape[1]))
    ]
    graph = helper.make_graph(
        nodes, "g", value[:1], value[1:], [to_tensor(w, f"w{i}") for i, w in enumerate(weights)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def run(model, x):
    import onnxruntime as ort

    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_harmless_products_are_halved_and_really_rounded(rng):
    first, second = (rng.normal(size=(8, 8)).astype(np.float32) for _ in range(2))
    x = rng.normal(size=(5, 8)).astype(np.float32)
    expected = x @ first @ second
    halved = halve("g", chain(first, second), {"x": x}, {"y": expected}, tolerance=5e-3)
    assert (halved.halved, halved.products) == (2, 2)
    types = {t.data_type for t in onnx.load_from_string(halved.model).graph.initializer}
    assert types == {onnx.TensorProto.FLOAT16}
    assert 1e-6 < relative_error(run(halved.model, x), expected) < 5e-3


def test_a_product_that_cancels_stays_in_single_precision(rng):
    harmless = np.eye(8, dtype=np.float32)
    # Sums of large numbers that cancel: rounding the operands destroys the result.
    cancels = np.array([[1.0], [-1.0], [0], [0], [0], [0], [0], [0]], np.float32)
    x = np.zeros((4, 8), np.float32)
    x[:, 0] = 1000 + rng.random(4)
    x[:, 1] = 1000
    expected = x @ harmless @ cancels
    halved = halve("g", chain(harmless, cancels), {"x": x}, {"y": expected}, tolerance=5e-3)
    assert halved.halved == 0
    assert halved.error <= 5e-3
    np.testing.assert_allclose(run(halved.model, x), expected, rtol=1e-6)


def test_operands_near_the_limit_stay_in_single_precision():
    weight = np.full((2, 2), 0.5, np.float32)
    x = np.full(
        (1, 2), 5000.0, np.float32
    )  # exact in half precision, but another window may be ten times larger
    halved = halve("g", chain(weight), {"x": x}, {"y": x @ weight}, tolerance=5e-3)
    assert (halved.halved, halved.products) == (0, 1)


def test_tolerance_decides_how_many(rng):
    weights = [rng.normal(size=(8, 8)).astype(np.float32) / 3 for _ in range(4)]
    x = rng.normal(size=(5, 8)).astype(np.float32)
    expected = x @ weights[0] @ weights[1] @ weights[2] @ weights[3]
    counts = [halve("g", chain(*weights), {"x": x}, {"y": expected}, t).halved for t in (1e-6, 3e-4, 5e-3)]
    assert counts[0] == 0
    assert counts[0] <= counts[1] <= counts[2] == 4


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_graph_that_is_none_is_named(content):
    with pytest.raises(CompileError, match="graph 'g'"):
        halve("g", content, {"x": np.ones((1, 1), np.float32)}, {"y": np.ones((1, 1), np.float32)}, 1e-2)


def test_every_encoder_and_decoder_of_a_bundle_keeps_within_the_tolerance(tiny_bundle):
    golden = Golden(tiny_bundle / "golden.npz", load_manifest(tiny_bundle))
    assert golden.case("fuse") is None
    assert golden.case("observe_rgb") is None
    for name in golden.names:
        for graph in (f"encode_{name}", f"decode_{name}"):
            inputs, expected = golden.case(graph)
            halved = halve(graph, (tiny_bundle / f"{graph}.onnx").read_bytes(), inputs, expected, 5e-3)
            assert halved.error <= 5e-3
            assert halved.products >= 1


def test_engine_in_half_precision_is_smaller_and_says_what_it_did(tiny_bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    target = load_target("tensorrt-rtx")
    half = target.model_copy(update={"precision": "fp16"})
    folder = compile_bundle(tiny_bundle, half, tmp_path / "half")
    engine, _ = load_engine(folder)
    assert engine.precision == "fp16"
    assert engine.parity.threshold == 1e-2
    assert set(engine.half_precision) == {
        f"{r}_{m}" for r in ("encode", "decode") for m in ("rgb", "depth", "audio", "eeg")
    }
    assert engine.half_precision["decode_eeg"] == "1 of 1 products"
    single = compile_bundle(tiny_bundle, target, tmp_path / "single")
    assert load_engine(single)[0].half_precision == {}
    assert (folder / "decode_eeg.engine").stat().st_size < (single / "decode_eeg.engine").stat().st_size
    assert (folder / "fuse.engine").stat().st_size == (single / "fuse.engine").stat().st_size
