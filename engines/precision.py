"""Half precision where it is harmless: chosen by measurement on golden values, not by the names of layers.

``fp16`` rewrites a graph so that convolutions and matrix products run in half precision, and everything else (spectra,
logarithms, covariances, fusion) stays in float32. Which products those are is decided on the golden values: a product
joins if its own rounding and the rounding of all chosen together stay within the tolerance, and if its operands keep
far from half precision's limits. The rewritten graph is plain ONNX with casts, which any strongly typed backend obeys;
the rounding is measured on the CPU, so the choice needs no GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.backends.interface import Array
from engines.errors import BackendUnavailableError, CompileError

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Half precision ends at 65504; golden values are a sample, so operands keep a factor of 32 away from it.
_LARGEST = 2048.0
_SPLITTER = 2.0**13 + 1.0


@dataclass(frozen=True)
class Halved:
    """A rewritten graph.

    Attributes:
        model: serialized ONNX with the same inputs and outputs, float32.
        products: convolutions and matrix products with weights in the graph.
        halved: how many of them run in half precision.
        error: relative error against the expected outputs, on the CPU.
    """

    model: bytes
    products: int
    halved: int
    error: float


def halve(
    graph: str, source: bytes, inputs: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float
) -> Halved:
    """Put as many products of a graph into half precision as golden values allow.

    Args:
        graph: its name, for messages.
        source: serialized ONNX.
        inputs: golden inputs, (B, ...) each.
        expected: golden outputs.
        tolerance: largest relative error max|a - b| / max|b| of any output.

    Raises:
        BackendUnavailableError: onnx is not installed.
        CompileError: the graph cannot be read or run.
    """
    onnx = _onnx()
    from google.protobuf.message import DecodeError

    from engines.backends.onnxruntime import FAILURES, first_line

    try:
        return _halve(onnx, onnx.load_from_string(source), inputs, expected, tolerance)
    except (DecodeError, *FAILURES) as e:
        raise CompileError(f"graph {graph!r}: cannot be put into half precision: {first_line(e)}") from e


def _halve(
    onnx: Any, model: Any, inputs: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float
) -> Halved:
    products = _products(onnx, model)
    within = _within_range(onnx, model, products, inputs)
    alone = {name: _error(_rewrite(onnx, model, [name], emulate=True), inputs, expected) for name in within}
    chosen = sorted((n for n in alone if alone[n] <= tolerance), key=lambda n: alone[n])
    together = _error(_rewrite(onnx, model, chosen, emulate=True), inputs, expected)
    while chosen and not together <= tolerance:
        chosen.pop()  # the one whose own rounding costs most
        together = _error(_rewrite(onnx, model, chosen, emulate=True), inputs, expected)
    return Halved(_rewrite(onnx, model, chosen), len(products), len(chosen), together)


def _onnx() -> Any:
    try:
        import onnx
    except ModuleNotFoundError as e:
        raise BackendUnavailableError(
            "precision fp16 rewrites graphs, which needs onnx: pip install onnx"
        ) from e
    return onnx


def _products(onnx: Any, model: Any) -> list[str]:
    """Names of the nodes that multiply by float32 weights of the graph; a node is known by its first output."""
    float32 = onnx.TensorProto.FLOAT
    weights = {t.name for t in model.graph.initializer if t.data_type == float32}
    return [
        n.output[0] for n in model.graph.node if n.op_type in _PRODUCTS and any(i in weights for i in n.input)
    ]


def _within_range(onnx: Any, model: Any, products: list[str], inputs: Mapping[str, Array]) -> list[str]:
    """The products whose operands and results stay far from half precision's largest number."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = {n.output[0]: n for n in model.graph.node}
    operands = {p: [i for i in nodes[p].input if i and i not in weights] + [p] for p in products}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    asked = list(dict.fromkeys(t for tensors in operands.values() for t in tensors))
    probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in asked if t not in known)
    values = dict(inputs) | _run(probe.SerializeToString(), inputs, [t for t in asked if t not in inputs])
    constants = {p: [weights[i] for i in nodes[p].input if i in weights] for p in products}
    return [
        p
        for p in products
        if all(
            np.abs(v).max(initial=0) <= _LARGEST for v in (*(values[t] for t in operands[p]), *constants[p])
        )
    ]


def _rewrite(onnx: Any, model: Any, chosen: Collection[str], *, emulate: bool = False) -> bytes:
    """Give the chosen products half-precision operands and results.

    Args:
        onnx: the module.
        model: the graph.
        chosen: names of products.
        emulate: stay in float32 but round as half precision would, for ONNX Runtime on the CPU: it has no such
            kernels, computes in float32, and takes pairs of casts, and so the rounding, out of the graph again.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    rounding = _emulated_rounding if emulate else _casts
    if emulate:
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(_SPLITTER), "half/splitter"))
    made: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.output[0] not in chosen:
            nodes.append(node)
            continue
        for position, name in enumerate(node.input):
            if not name:
                continue
            replaced = node.input[position] = f"{name}/half"
            if replaced in made:
                continue
            made.add(replaced)
            if name in weights:
                value = weights[name].astype(np.float16)
                value = value.astype(np.float32) if emulate else value
                graph.initializer.append(onnx.numpy_helper.from_array(value, replaced))
            else:
                nodes.extend(rounding(onnx, name, replaced, onnx.TensorProto.FLOAT16))
        output = node.output[0]
        node.output[0] = f"{output}/half_result"
        nodes.append(node)
        nodes.extend(rounding(onnx, node.output[0], output, onnx.TensorProto.FLOAT))
    _replace_nodes(onnx, graph, nodes)
    content: bytes = result.SerializeToString()
    return content


def _casts(onnx: Any, source: str, target: str, to: int) -> list[Any]:
    return [onnx.helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=to)]


def _emulated_rounding(onnx: Any, source: str, target: str, to: int) -> list[Any]:
    """Round to the 11 bits of half precision's significand: Veltkamp's split, c = (2^13 + 1) x, c - (c - x)."""
    node, large, rest = onnx.helper.make_node, f"{target}/large", f"{target}/rest"
    return [
        node("Mul", [source, "half/splitter"], [large]),
        node("Sub", [large, source], [rest]),
        node("Sub", [large, rest], [target]),
    ]


def _replace_nodes(onnx: Any, graph: Any, nodes: list[Any]) -> None:
    """Put other nodes into a graph, and drop the weights and types that no longer hold."""
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {i for n in kept for i in n.input}
    initializers = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    # Types recorded for inner tensors no longer hold; every reader infers them again.
    del graph.value_info[:]


def _error(model: bytes, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    from engines.parity import relative_error

    values = _run(model, inputs, list(expected))
    return max(relative_error(values[name], golden) for name, golden in expected.items())


def _run(model: bytes, inputs: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]:
    import onnxruntime as ort

    from engines.backends.onnxruntime import session_options

    options = session_options(threads=1)
    # No optimisation: nothing may simplify the rounding away.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))
