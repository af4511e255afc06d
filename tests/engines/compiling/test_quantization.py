"""int8: what is written for each backend, that it rounds as integers do, and that harm keeps a product out."""

from __future__ import annotations

import numpy as np
import pytest

from engines.bundle import graph_signature, load_manifest
from engines.compiling.compile import compile_bundle
from engines.compiling.parity import relative_error
from engines.compiling.product_choice import GraphExamples, ProductChoice
from engines.compiling.quantization import ONNXRUNTIME_CPU, TENSORRT, Quantisation
from engines.compiling.reduced_precision import reduced_graph_names
from engines.compiling.weight_products import parsed, run
from engines.engine import load_engine
from engines.errors import CompileError
from engines.opening import open_session
from engines.targets import load_target, overridden

onnx = pytest.importorskip("onnx", reason="int8 rewrites graphs with onnx")
helper, to_array, to_tensor = onnx.helper, onnx.numpy_helper.to_array, onnx.numpy_helper.from_array

CPU = overridden(load_target("cpu"), "int8")
RTX = overridden(load_target("tensorrt-rtx"), "int8")
FORMS = {"onnxruntime": ONNXRUNTIME_CPU, "tensorrt": TENSORRT}


def network(rng: np.random.Generator) -> bytes:
    """Two convolutions with ReLU, a transposed one, and a matrix product: x (B, 3, 8, 8) -> y (B, 5)."""
    value = helper.make_tensor_value_info
    initializers = {
        "w1": rng.normal(size=(16, 3, 3, 3)) / 5,
        "b1": rng.normal(size=16) / 5,
        "w2": rng.normal(size=(16, 16, 3, 3)) / 12,
        "w3": rng.normal(size=(16, 4, 2, 2)) / 8,
        "w4": rng.normal(size=(4 * 16 * 16, 5)) / 32,
        "b4": rng.normal(size=5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ConvTranspose", ["r2", "w3"], ["t3"], strides=[2, 2]),
        helper.make_node("Flatten", ["t3"], ["f3"]),
        helper.make_node("Gemm", ["f3", "w4", "b4"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", 1, ["b", 3, 8, 8])],
        [value("y", 1, ["b", 5])],
        [to_tensor(w.astype(np.float32), n) for n, w in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture
def source():
    return network(np.random.default_rng(0))


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(64, 3, 8, 8)).astype(np.float32)


def quantised(source, x, form):
    """The graph with all candidates quantised: the model, its initializers, and its nodes of a kind."""
    rewriter = Quantisation(parsed(source), FORMS[form], {"x": x})
    content = rewriter.rewrite(rewriter.candidates)
    model = onnx.load_from_string(content)
    return content, model, {t.name: to_array(t) for t in model.graph.initializer}


def of_kind(model, kind):
    return [n for n in model.graph.node if n.op_type == kind]


def test_tensorrt_gets_symmetric_integers_float_results_and_float_biases(source, x):
    """Anything else its parser refuses, or its builder makes slow."""
    _, model, values = quantised(source, x, "tensorrt")
    onnx.checker.check_model(model)
    for node in of_kind(model, "QuantizeLinear") + of_kind(model, "DequantizeLinear"):
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
    produced = {n.output[0]: n for n in model.graph.node}
    axes = {"Conv": (0, 16), "ConvTranspose": (1, 4), "Gemm": (1, 5)}
    for kind, (axis, channels) in axes.items():
        for node in of_kind(model, kind):
            weight = produced[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert values[weight.input[0]].dtype == np.int8
            assert helper.get_node_attr_value(weight, "axis") == axis
            assert values[weight.input[1]].shape == (channels,)
            assert produced[node.input[0]].op_type == "DequantizeLinear"
            if len(node.input) == 3:
                assert values[node.input[2]].dtype == np.float32
    assert len(of_kind(model, "QuantizeLinear")) == 4  # one for the input of each product, none for results
    assert len(of_kind(model, "Relu")) == 2


def test_onnxruntime_gets_seven_bit_weights_and_runs_integer_kernels(source, x, tmp_path):
    import onnxruntime as ort

    content, model, values = quantised(source, x, "onnxruntime")
    produced = {n.output[0]: n for n in model.graph.node}
    for node in of_kind(model, "Conv") + of_kind(model, "Gemm"):
        weight = values[produced[node.input[1]].input[0]]
        assert weight.dtype == np.int8
        # AVX2 adds two products of 8-bit activations and such weights in 16 bits: 2 * 255 * 64 < 2^15.
        assert np.abs(weight.astype(int)).max() <= 64
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert kinds.count("QGemm") == 1
    assert kinds.count("ConvTranspose") == 1  # there is no integer kernel for it
    assert "Conv" not in kinds
    assert "Relu" not in kinds  # folded into the convolution's range


@pytest.mark.parametrize("form", FORMS)
def test_what_is_measured_is_what_the_integers_compute(source, x, form):
    """The graph as written, in floats, and ONNX Runtime's kernels agree far below the error of quantising."""
    import onnxruntime as ort

    content, _, _ = quantised(source, x, form)
    exact = run(source, {"x": x}, ["y"])["y"]
    written = run(content, {"x": x}, ["y"])["y"]
    assert 1e-4 < relative_error(written, exact) < 3e-2
    if form == "onnxruntime":
        optimised = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        assert relative_error(optimised, written) < 0.5 * relative_error(written, exact)


def test_seven_bits_cost_little_more_than_the_bit_they_lack(source, x):
    exact = run(source, {"x": x}, ["y"])["y"]
    errors = {f: relative_error(run(quantised(source, x, f)[0], {"x": x}, ["y"])["y"], exact) for f in FORMS}
    assert errors["onnxruntime"] < 4 * errors["tensorrt"]


def test_ranges_hold_zero_and_everything_that_was_seen(source, x):
    _, model, values = quantised(source, x + 10, "onnxruntime")
    node = next(n for n in of_kind(model, "QuantizeLinear") if n.input[0] == "x")
    scale, zero = values[node.input[1]], int(values[node.input[2]])
    low, high = -zero * scale, (255 - zero) * scale
    assert low <= 0
    assert high >= (x + 10).max() - scale


@pytest.mark.parametrize("target", [CPU, RTX], ids=["onnxruntime", "tensorrt"])
def test_a_product_with_values_far_apart_stays_in_float(target):
    """A per-tensor step fits the largest column and wipes out the one that decides."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)).astype(np.float32) * np.array([1e4, 1, 1, 1], np.float32)
    weight = np.array([[0, 0], [1, 2], [3, 1], [1, 1]], np.float32)
    harmless = rng.normal(size=(2, 3)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="harmful"),
            helper.make_node("MatMul", ["h", "v"], ["y"]),
        ],
        "g",
        [value("x", 1, ["b", 4])],
        [value("y", 1, ["b", 3])],
        [to_tensor(weight, "w"), to_tensor(harmless, "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    expected = x @ weight @ harmless
    made = ProductChoice("g", model.SerializeToString(), target, GraphExamples({"x": x}, {"y": expected}))
    reduced = made.within(5e-2)
    assert (reduced.reduced, reduced.products) == (1, 2)
    assert reduced.error <= 5e-2
    assert made.within(0).reduced == 0
    assert made.within(0).error < 1e-6


def test_cpu_engine_runs_integers_and_keeps_its_decisions(tiny_bundle, tmp_path):
    folder = compile_bundle(tiny_bundle, CPU, tmp_path / "int8")
    engine, manifest = load_engine(folder)
    assert engine.precision == "int8"
    assert set(engine.reduced_products) == set(reduced_graph_names(manifest))
    assert engine.reduced_products["decode_eeg"] == "1 of 1"
    kinds = {n.op_type for n in onnx.load(folder / "decode_eeg.onnx").graph.node}
    assert "QGemm" in kinds
    assert engine.parity.status == "passed"
    assert engine.parity.checked_on == "onnxruntime"
    assert engine.parity.decisions.rows == 100
    assert engine.parity.decisions.worst_share <= engine.parity.decisions.allowed == 0.01
    single = compile_bundle(tiny_bundle, load_target("cpu"), tmp_path / "fp32")
    assert (folder / "decode_eeg.onnx").stat().st_size < 0.8 * (single / "decode_eeg.onnx").stat().st_size
    with open_session(folder) as session:
        assert session.decode("eeg", np.zeros((2, 3), np.float32)).shape == (2, 768, 8)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken"])
def test_broken_training_windows_are_named(bundle, replace_graph, tmp_path, content):
    from engines.bundle import BundleError

    replace_graph(bundle, "training_windows.npz", content)
    with pytest.raises(BundleError, match=r"training_windows\.npz: cannot be read"):
        compile_bundle(bundle, CPU, tmp_path / "out")


def test_training_windows_of_another_shape_are_named(bundle, replace_arrays, tmp_path):
    from engines.bundle import BundleError

    replace_arrays(bundle, "training_windows.npz", lambda a: a.update(window_eeg=a["window_eeg"][:3]))
    with pytest.raises(BundleError, match=r"window_eeg: expected 32 windows of float32, got 3 of float32"):
        compile_bundle(bundle, CPU, tmp_path / "out")


def test_bundle_without_training_windows_says_to_export_again(bundle, edit_json, tmp_path):
    (bundle / "training_windows.npz").unlink()
    edit_json(bundle / "manifest.json", lambda raw: raw["files"].pop("training_windows.npz"))
    with pytest.raises(CompileError, match=r"lacks training_windows\.npz.*int8.*export the bundle again"):
        compile_bundle(bundle, CPU, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensorrt_rtx_builds_every_quantised_graph(tiny_bundle, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    folder = compile_bundle(tiny_bundle, RTX, tmp_path / "int8")
    engine, _ = load_engine(folder)
    assert len(list(folder.glob("*.engine"))) == 13
    assert engine.reduced_products["decode_rgb"] == "2 of 2"
    if engine.parity.status == "built, not run":
        assert engine.parity.checked_on == "onnxruntime, not on the target"
        assert engine.parity.decisions.worst_share <= 0.01


def test_tensorrt_rtx_builds_all_kinds_of_quantised_products(source, x):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
    from engines.backends.tensorrt import build_engine
    from engines.bundle import GraphSignature

    content, _, _ = quantised(source, x, "tensorrt")
    signature = GraphSignature({"x": (3, 8, 8)}, {"y": (5,)})
    assert len(build_engine("g", content, signature, RTX)) > 10_000


def test_manifest_knows_the_graphs_that_are_reduced(tiny_bundle):
    manifest = load_manifest(tiny_bundle)
    names = reduced_graph_names(manifest)
    assert len(names) == 8
    assert all(graph_signature(manifest, name) for name in names)
