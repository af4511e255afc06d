"""fp16 and bf16 are chosen by measurement: harmless products join, harmful ones stay out."""

from __future__ import annotations

import numpy as np
import pytest

from engines.bundle import load_manifest
from engines.compiling.compile import compile_bundle
from engines.compiling.half_precision import BF16, FP16, HalfPrecision, bfloat16_bits
from engines.compiling.parity import Golden, relative_error
from engines.compiling.product_choice import GraphExamples, ProductChoice, tolerance
from engines.compiling.weight_products import parsed, products, run
from engines.engine import load_engine
from engines.errors import CompileError
from engines.targets import load_target, overridden

onnx = pytest.importorskip("onnx", reason="lower precisions rewrite graphs with onnx")
helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array

RTX = load_target("tensorrt-rtx")
HALVES = {p: overridden(RTX, p) for p in ("fp16", "bf16")}
TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}


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


def choice(source, x, expected, precision="fp16"):
    return ProductChoice("g", source, HALVES[precision], GraphExamples({"x": x}, {"y": expected}))


@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 1e-5, 2e-3), ("bf16", 1e-3, 2e-2)])
def test_harmless_products_join_and_are_really_rounded(rng, precision, least, most):
    first, second = (rng.normal(size=(8, 8)).astype(np.float32) for _ in range(2))
    x = rng.normal(size=(5, 8)).astype(np.float32)
    expected = x @ first @ second
    reduced = choice(chain(first, second), x, expected, precision).within(most)
    assert (reduced.reduced, reduced.products) == (2, 2)
    types = {t.data_type for t in onnx.load_from_string(reduced.model).graph.initializer}
    assert types == {TYPES[precision]}
    assert least < reduced.error < most
    assert relative_error(run(reduced.emulation, {"x": x}, ["y"])["y"], expected) == reduced.error


def test_emulation_rounds_as_float16_does(rng):
    """One product of one operand each: the emulated result is what numpy's own half precision gives."""
    weight = rng.normal(size=(1, 64)).astype(np.float32)
    x = rng.normal(size=(200, 1)).astype(np.float32)
    half = HalfPrecision(parsed(chain(weight)), FP16, {"x": x})
    emulated = run(half.emulate(half.candidates), {"x": x}, ["y"])["y"]
    exact = (x.astype(np.float16).astype(np.float32) * weight.astype(np.float16).astype(np.float32)).astype(
        np.float16
    )
    normal = np.abs(exact) > 6.2e-5  # below that half precision has fewer bits, which nothing here needs
    np.testing.assert_array_equal(emulated[normal], exact[normal].astype(np.float32))


def test_emulation_rounds_as_bfloat16_does(rng):
    torch = pytest.importorskip("torch", reason="torch rounds to bfloat16, and is not installed")
    weight = rng.normal(size=(1, 64)).astype(np.float32)
    x = rng.normal(size=(200, 1)).astype(np.float32)
    half = HalfPrecision(parsed(chain(weight)), BF16, {"x": x})
    emulated = run(half.emulate(half.candidates), {"x": x}, ["y"])["y"]
    exact = torch.from_numpy(x).bfloat16().float() * torch.from_numpy(weight).bfloat16().float()
    np.testing.assert_array_equal(emulated, exact.bfloat16().float().numpy())
    stored = torch.from_numpy(weight).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(bfloat16_bits(weight), stored)


def test_a_product_that_cancels_stays_in_single_precision(rng):
    harmless = np.eye(8, dtype=np.float32)
    # Sums of large numbers that cancel: rounding the operands destroys the result.
    cancels = np.array([[1.0], [-1.0], [0], [0], [0], [0], [0], [0]], np.float32)
    x = np.zeros((4, 8), np.float32)
    x[:, 0] = 1000 + rng.random(4)
    x[:, 1] = 1000
    expected = x @ harmless @ cancels
    reduced = choice(chain(harmless, cancels), x, expected).within(5e-3)
    assert reduced.reduced == 0
    assert reduced.error <= 5e-3
    np.testing.assert_allclose(run(reduced.model, {"x": x}, ["y"])["y"], expected, rtol=1e-6)


def test_operands_near_the_limit_of_fp16_stay_in_single_precision():
    weight = np.full((2, 2), 0.5, np.float32)
    # Exact in half precision, but another window may be ten times larger.
    x = np.full((1, 2), 5000.0, np.float32)
    counts = {p: choice(chain(weight), x, x @ weight, p).within(5e-3) for p in HALVES}
    assert (counts["fp16"].reduced, counts["fp16"].products) == (0, 1)
    assert (counts["bf16"].reduced, counts["bf16"].products) == (1, 1)


def test_tolerance_decides_how_many(rng):
    weights = [rng.normal(size=(8, 8)).astype(np.float32) / 3 for _ in range(4)]
    x = rng.normal(size=(5, 8)).astype(np.float32)
    expected = x @ weights[0] @ weights[1] @ weights[2] @ weights[3]
    made = choice(chain(*weights), x, expected)
    counts = [made.within(t).reduced for t in (1e-6, 3e-4, 5e-3)]
    assert counts[0] == 0
    assert counts[0] <= counts[1] <= counts[2] == 4


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_graph_that_is_none_is_named(content, precision):
    one = np.ones((1, 1), np.float32)
    with pytest.raises(CompileError, match=f"graph 'g': cannot be put into {precision}"):
        ProductChoice("g", content, overridden(RTX, precision), GraphExamples({"x": one}, {"y": one}))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_encoder_and_decoder_of_a_bundle_keeps_within_the_tolerance(tiny_bundle, precision):
    golden = Golden(tiny_bundle / "golden.npz", load_manifest(tiny_bundle))
    assert golden.case("fuse") is None
    assert golden.case("observe_rgb") is None
    target = HALVES[precision]
    for name in golden.names:
        for graph in (f"encode_{name}", f"decode_{name}"):
            source = (tiny_bundle / f"{graph}.onnx").read_bytes()
            made = ProductChoice(graph, source, target, GraphExamples(*golden.case(graph)))
            reduced = made.within(tolerance(target))
            assert reduced.error <= tolerance(target)
            assert 1 <= reduced.reduced <= reduced.products == len(products(parsed(source)))


def test_bf16_leaves_transposed_convolutions(tiny_bundle):
    """TensorRT-RTX builds none in bf16."""
    golden = Golden(tiny_bundle / "golden.npz", load_manifest(tiny_bundle))
    source = (tiny_bundle / "decode_rgb.onnx").read_bytes()
    samples = GraphExamples(*golden.case("decode_rgb"))
    counts = {
        p: ProductChoice("decode_rgb", source, t, samples).within(tolerance(t)) for p, t in HALVES.items()
    }
    assert (counts["fp16"].reduced, counts["bf16"].reduced) == (2, 1)


class TestEngines:
    """Built with the real TensorRT-RTX; no GPU needed."""

    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_an_engine_says_what_it_did(self, tiny_bundle, tmp_path, precision):
        folder = compile_bundle(tiny_bundle, HALVES[precision], tmp_path / "half")
        engine, _ = load_engine(folder)
        assert engine.precision == precision
        assert engine.parity.threshold == {"fp16": 1e-2, "bf16": 4e-2}[precision]
        assert engine.parity.decisions.allowed == 0.005
        assert set(engine.reduced_products) == {
            f"{r}_{m}" for r in ("encode", "decode") for m in ("rgb", "depth", "audio", "eeg")
        }
        assert engine.reduced_products["decode_eeg"] == "1 of 1"
        single = compile_bundle(tiny_bundle, RTX, tmp_path / "single")
        assert load_engine(single)[0].reduced_products == {}
        half, full = (f / "decode_eeg.engine" for f in (folder, single))
        assert half.read_bytes() != full.read_bytes()
        if precision == "fp16":  # in bf16 its kernels outweigh what so small a graph saves
            assert half.stat().st_size < full.stat().st_size
        assert (folder / "fuse.engine").stat().st_size == (single / "fuse.engine").stat().st_size
