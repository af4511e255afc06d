"""What the TensorRT-RTX builder makes of our networks and settings, without a GPU; TensorRT's settings on its API."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from process_under_test import run_to_end

pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX extra is not installed")
pytest.importorskip("onnx", reason="networks are made with onnx, which is not installed")
import damaged_engines
import tensorrt_rtx as library
from onnx import TensorProto, helper, numpy_helper

from engines.backends import tensorrt
from engines.backends.cache_files import read_cache
from engines.backends.tensorrt import LibraryLog, batch_profiles, build_engine, library_log
from engines.backends.tensorrt_engine import Engine
from engines.bundle import GraphSignature
from engines.errors import CompileError, EngineError
from engines.targets import BatchProfile, Target

SIGNATURE = GraphSignature({"x": (32,)}, {"y": (24,)})
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(32, 24)).astype(np.float32)
BIAS = RNG.normal(size=24).astype(np.float32)


def target(backend="tensorrt-rtx", **fields):
    return Target(version=1, name="t", backend=backend, **{"batch": BatchProfile(maximum=8), **fields})


def network(nodes, constants, signature=SIGNATURE, opset=18):
    def values(tensors):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", *s]) for n, s in tensors.items()]

    graph = helper.make_graph(nodes, "g", values(signature.inputs), values(signature.outputs), constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def gemm(precision="fp32"):
    """A dense layer in one of the precisions that bundles are compiled to."""
    weights, bias = constant("w", WEIGHTS), constant("b", BIAS)
    if precision == "fp32":
        return network([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], [weights, bias])
    if precision == "int8":
        scale = (np.abs(WEIGHTS).max(axis=0) / 127).astype(np.float32)
        quantized = np.rint(WEIGHTS / scale).astype(np.int8)
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=1),
            helper.make_node("Gemm", ["xd", "wd", "b"], ["y"]),
        ]
        scales = [constant("xs", np.float32(0.05)), constant("xz", np.int8(0)), constant("ws", scale)]
        return network(
            nodes, [*scales, constant("wz", np.zeros(24, np.int8)), constant("wq", quantized), bias]
        )
    low = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    nodes = [helper.make_node("Cast", [n], [f"{n}l"], to=low) for n in ("x", "w", "b")]
    nodes.append(helper.make_node("Gemm", ["xl", "wl", "bl"], ["yl"]))
    nodes.append(helper.make_node("Cast", ["yl"], ["y"], to=TensorProto.FLOAT))
    return network(nodes, [weights, bias])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("maximum", [1, 8])
def test_every_precision_builds_with_every_number_of_profiles(precision, maximum):
    plan = build_engine("g", gemm(precision), SIGNATURE, target(batch=BatchProfile(maximum=maximum)))
    assert len(plan) > 10_000


def test_int8_weights_stay_int8_in_the_engine():
    size = 1024
    signature = GraphSignature({"x": (size,)}, {"y": (size,)})
    weights = RNG.normal(size=(size, size)).astype(np.float32)
    plain = network([helper.make_node("MatMul", ["x", "w"], ["y"])], [constant("w", weights)], signature)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    quantized = [constant("s", np.float32(0.03)), constant("z", np.int8(0))]
    quantized.append(constant("w", np.clip(np.rint(weights / 0.03), -127, 127).astype(np.int8)))
    one = target(batch=BatchProfile(maximum=1))
    small = build_engine("g", network(nodes, quantized, signature), signature, one)
    assert len(small) < 0.4 * len(build_engine("g", plain, signature, one))


def test_profiles_are_for_one_row_and_for_more():
    assert batch_profiles(BatchProfile(maximum=1)) == ((1, 1, 1),)
    assert batch_profiles(BatchProfile(maximum=8)) == ((1, 1, 1), (2, 8, 8))
    assert batch_profiles(BatchProfile(optimum=8, maximum=32)) == ((1, 1, 1), (2, 8, 32))


def test_what_the_parser_does_not_know_is_named():
    model = network([helper.make_node("Nonsense", ["x"], ["y"], name="odd one")], [])
    with pytest.raises(CompileError, match=r"graph 'g': tensorrt_rtx cannot parse it: node .*Nonsense"):
        build_engine("g", model, SIGNATURE, target())


@pytest.fixture
def as_tensorrt(monkeypatch, tmp_path):
    """The real builder of TensorRT-RTX where TensorRT's is asked for: it has the same API, and TensorRT needs a GPU."""
    log = LibraryLog(library)
    monkeypatch.setattr(tensorrt, "load_library", lambda backend: library)
    monkeypatch.setattr(tensorrt, "library_log", lambda backend: log)
    monkeypatch.setattr(tensorrt, "device_problem", lambda: "")
    monkeypatch.setattr(tensorrt, "device_name", lambda: "some-gpu-sm87")
    monkeypatch.setenv("AFTERIMAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / f"tensorrt-{library.__version__}" / "some-gpu-sm87" / "timings"


@contextlib.contextmanager
def timing_cache_calls():
    """TensorRT-RTX has the calls, and says that they do nothing."""
    with pytest.warns(DeprecationWarning, match="Timing cache operations are no-ops"):
        yield


def test_timings_are_kept_and_damage_to_them_is_harmless(as_tensorrt):
    for damage in (None, b"", b"\0" * 500):
        if damage is not None:
            tensorrt.write_cache(as_tensorrt, damage)
        with timing_cache_calls():
            assert build_engine("g", gemm(), SIGNATURE, target("tensorrt"))
        kept = read_cache(as_tensorrt)
        assert kept not in (b"", damage)


def test_the_workspace_limits_a_build(as_tensorrt, monkeypatch):
    with timing_cache_calls():
        assert build_engine("g", gemm(), SIGNATURE, target("tensorrt", workspace_mib=64))
    builder = library.Builder(library_log("tensorrt-rtx").native)
    config = builder.create_builder_config()
    tensorrt._set_workspace_and_accelerator(library, builder, config, target("tensorrt", workspace_mib=64))
    assert config.get_memory_pool_limit(library.MemoryPoolType.WORKSPACE) == 64 << 20


def test_an_accelerator_that_is_not_there_is_refused(as_tensorrt):
    one = {"batch": BatchProfile(maximum=1), "precision": "fp16"}
    with pytest.raises(CompileError, match=r"dla_core 1: this machine has 0 deep learning accelerators"):
        build_engine("g", gemm(), SIGNATURE, target("tensorrt", dla_core=1, **one))
    with pytest.raises(
        CompileError, match=r"dla_core 0: .* expected batch \{optimum: 1, maximum: 1\}, got .* 8"
    ):
        build_engine("g", gemm(), SIGNATURE, target("tensorrt", dla_core=0, precision="fp16"))


def test_an_accelerator_is_the_default_device_and_falls_back_to_the_gpu():
    builder = library.Builder(library_log("tensorrt-rtx").native)
    config = builder.create_builder_config()
    chosen = target("tensorrt", dla_core=1, batch=BatchProfile(maximum=1), precision="fp16")
    tensorrt._set_workspace_and_accelerator(library, SimpleNamespace(num_DLA_cores=2), config, chosen)
    assert config.default_device_type == library.DeviceType.DLA
    assert config.get_flag(library.BuilderFlag.GPU_FALLBACK)


def test_damaged_engines_are_errors_and_not_crashes(tmp_path):
    whole = tmp_path / "whole"
    whole.write_bytes(build_engine("g", gemm(), SIGNATURE, target()))
    command = [sys.executable, damaged_engines.__file__, str(whole), "60"]
    paths = {
        "PYTHONPATH": str(Path(tensorrt.__file__).parents[2]),
        "AFTERIMAGE_CACHE": str(tmp_path / "cache"),
    }
    done = run_to_end(command, environment=paths, seconds=240)
    refused, loaded = map(int, re.findall(r"\d+", done.stdout))
    assert refused + loaded == 60
    assert refused >= 20  # those that are truncated


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: b"", "empty memory buffer"),
        (lambda c: c[: len(c) // 2], "plan.header.size == blobSize"),
        (lambda c: c[:-1], "plan.header.size == blobSize"),
        (lambda c: bytes([c[0] ^ 1]) + c[1:], "magicTag == kEXPECTED_MAGIC_TAG"),
    ],
    ids=["empty", "half", "one byte short", "first bit"],
)
def test_what_is_wrong_with_a_damaged_engine_is_said(tmp_path, damage, reason):
    path, log = tmp_path / "g.engine", LibraryLog(library)
    path.write_bytes(damage(build_engine("g", gemm(), SIGNATURE, target())))
    with pytest.raises(EngineError, match=rf"g\.engine: tensorrt_rtx cannot load it on this GPU: .*{reason}"):
        Engine(library, library.Runtime(log.native), log, path, SIGNATURE, tmp_path / "kernels")
