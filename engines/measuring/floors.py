"""What a graph costs at least on this machine: its products at the measured peak, its tensors at memory's speed.

The arithmetic floor counts convolutions and matrix products only. The memory floor counts every weight once, the
graph's inputs and outputs once, and each product's result written and read back; everything between is assumed to be
fused. Small graphs stay in a cache, so their bytes are compared with a copy of about as many bytes.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from engines.backends.onnxruntime import open_cpu_session, session_options

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
FLOAT_BYTES = 4
GEMM_SIDE = 512
COPY_SIZES = tuple(2**k for k in (14, 16, 18, 20, 22, 24, 26, 28))
REPEATS = 30


@dataclass(frozen=True)
class Peak:
    """What the machine was measured to do, with as many threads as the engines get.

    Attributes:
        flops: floating-point operations per second of a large float32 matrix product.
        bytes_per_s: size in bytes -> bytes read plus bytes written per second when that many are copied again and
            again on one thread; the largest sizes are far beyond any cache.
    """

    flops: float
    bytes_per_s: Mapping[int, float]

    def bandwidth(self, size: int) -> float:
        """Bytes per second where this many are moved: the best of all copies that are at least as large."""
        fitting = [rate for s, rate in self.bytes_per_s.items() if s >= size]
        return max(fitting, default=self.bytes_per_s[max(self.bytes_per_s)])


@dataclass(frozen=True)
class Cost:
    """What a graph does at one batch size.

    Attributes:
        flops: of its products; a multiplication and an addition are two.
        bytes: that have to be moved, as the module says.
    """

    flops: int
    bytes: int

    def floor_s(self, peak: Peak) -> float:
        """The least time it can take, in seconds."""
        return max(self.flops / peak.flops, self.bytes / peak.bandwidth(self.bytes))


def measure_peak(threads: int, other_gemm: Callable[[int], float] | None = None) -> Peak:
    """Measure the machine.

    Args:
        threads: for the matrix product.
        other_gemm: side of a square product -> its fastest time in seconds, by another library; the better counts.
    """
    seconds = [_onnxruntime_gemm_s(threads)]
    if other_gemm is not None:
        seconds.append(other_gemm(GEMM_SIDE))
    return Peak(2 * GEMM_SIDE**3 / min(seconds), {size: _copy_rate(size) for size in COPY_SIZES})


def _copy_rate(size: int) -> float:
    """Bytes read plus bytes written per second, where ``size`` is the sum of both."""
    source = np.ones(size // 2, np.uint8)
    target = np.empty_like(source)
    return size / fastest(lambda: np.copyto(target, source))


def fastest(call: Callable[[], object]) -> float:
    """The fastest of some calls, in seconds; the first is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def floors_of(
    bundle: Path,
    p50_us: Mapping[str, Mapping[str, float]],
    tick_p50_us: Mapping[str, float],
    batches: Sequence[int],
    peak: Peak,
) -> dict[str, dict[str, dict[str, Any]]]:
    """The floor of every graph and of the whole tick, beside what was measured.

    Args:
        bundle: with the graphs.
        p50_us: graph -> batch -> measured latency, where there is one.
        tick_p50_us: the same of the whole tick: its encoders and fuse, one after another.
        batches: sizes to count.
        peak: of the machine.

    Returns:
        graph (or ``tick``) -> batch -> ``flops``, ``bytes``, ``floor_us`` and ``latency_over_floor``.

    Raises:
        ValueError: a product whose shapes cannot be told.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for graph, measured in p50_us.items():
        found[graph] = {}
        for batch in batches:
            cost = graph_cost(bundle / f"{graph}.onnx", batch)
            found[graph][str(batch)] = _beside(
                cost.flops, cost.bytes, 1e6 * cost.floor_s(peak), measured.get(str(batch))
            )
    parts = [of for graph, of in found.items() if graph == "fuse" or graph.startswith("encode_")]
    found["tick"] = {}
    for batch_name in map(str, batches):
        flops, moved, floor_us = (
            sum(part[batch_name][key] for part in parts) for key in ("flops", "bytes", "floor_us")
        )
        found["tick"][batch_name] = _beside(flops, moved, floor_us, tick_p50_us.get(batch_name))
    return found


def _beside(flops: int, moved: int, floor_us: float, measured_us: float | None) -> dict[str, Any]:
    over = None if measured_us is None else round(measured_us / floor_us, 2)
    return {"flops": flops, "bytes": moved, "floor_us": round(floor_us, 2), "latency_over_floor": over}


def graph_cost(path: Path, batch: int) -> Cost:
    """Count a graph's products and bytes at one batch size.

    Args:
        path: an ONNX graph of a bundle.
        batch: size of its batch axis.

    Raises:
        ValueError: a product whose shapes cannot be told.
    """
    model = _with_shapes(path, batch)
    graph = model.graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    flops, activations = 0, 0
    for node in graph.node:
        if node.op_type in PRODUCTS:
            try:
                flops += product_flops(node, [shapes[n] for n in node.input if n], shapes[node.output[0]])
            except KeyError as e:
                raise ValueError(
                    f"{path}: {node.op_type} {node.name!r}: the shape of {e} is not known"
                ) from e
            activations += 2 * FLOAT_BYTES * math.prod(shapes[node.output[0]])
    weights = sum(onnx.numpy_helper.to_array(i).nbytes for i in graph.initializer)
    ends = sum(FLOAT_BYTES * math.prod(shapes[v.name]) for v in (*graph.input, *graph.output))
    return Cost(flops, weights + ends + activations)


def product_flops(node: onnx.NodeProto, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    """Floating-point operations of a convolution or matrix product from the shapes of its inputs and output."""
    first, second = inputs[:2]
    if node.op_type == "Conv":  # weight: (out, in / groups, *kernel)
        return 2 * math.prod(output) * math.prod(second[1:])
    if (
        node.op_type == "ConvTranspose"
    ):  # weight: (in, out / groups, *kernel); each input element meets all of it
        return 2 * math.prod(first) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(output) * (first[-2] if transposed else first[-1])


def _with_shapes(path: Path, batch: int) -> onnx.ModelProto:
    """The graph with its batch fixed and all arithmetic on shapes folded away, every shape written down."""
    options = session_options(threads=1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    axis = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if axis:
        options.add_free_dimension_override_by_name(axis, batch)
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / path.name
        options.optimized_model_filepath = str(folded)
        open_cpu_session(path, options)
        return onnx.shape_inference.infer_shapes(onnx.load(folded), data_prop=True)


def _onnxruntime_gemm_s(threads: int) -> float:
    """Fastest time of a square product in ONNX Runtime, its right side a constant as weights are."""
    side = GEMM_SIDE
    matrix = np.random.default_rng(0).standard_normal((side, side), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "gemm",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [side, side])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [side, side])],
        [onnx.numpy_helper.from_array(matrix, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
    return fastest(lambda: session.run(None, {"a": matrix}))
