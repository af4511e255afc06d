"""The products of a graph: its convolutions and matrix products with weights, which are nearly all of its arithmetic.

All reduced precisions rewrite products. Here are the operations that they share: finding products, running a graph on
ONNX Runtime unoptimised, reading inner tensors, and replacing nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from engines.backends.interface import GRAPH_BY_GRAPH, Array, encode_then_fuse
from engines.errors import BackendUnavailableError, CompileError, EngineError

KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ERRORS_ONLY = 3


def onnx_module() -> Any:
    """The onnx package, which rewrites graphs.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as e:
        raise BackendUnavailableError(
            "precisions below fp32 rewrite graphs, which needs onnx: pip install onnx"
        ) from e
    return onnx


def parsed(source: bytes) -> Any:
    """A graph as an ONNX model; each node is named after its first output, so that all have unique names."""
    model = onnx_module().load_from_string(source)
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def copied(model: Any) -> Any:
    """A copy of a model."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def weights(model: Any) -> dict[str, Array]:
    """The float32 initializers of a graph."""
    onnx = onnx_module()
    float32 = onnx.TensorProto.FLOAT
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == float32}


def products(model: Any) -> list[Any]:
    """The nodes that multiply by float32 weights of the graph, in order."""
    constant = weights(model)
    return [n for n in model.graph.node if n.op_type in KINDS and any(i in constant for i in n.input)]


def activations(model: Any, node: Any) -> list[str]:
    """Inputs and output of a product, without its weights."""
    constant = weights(model)
    return [*(i for i in node.input if i and i not in constant), node.output[0]]


def replace_nodes(model: Any, nodes: Iterable[Any]) -> None:
    """Put other nodes into a graph, and drop the weights and types that no longer hold."""
    graph = model.graph
    kept = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {i for n in kept for i in n.input}
    initializers = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    # The types recorded for inner tensors may be wrong now; every reader infers them again.
    del graph.value_info[:]


def unoptimised_session(model: bytes) -> Any:
    """An ONNX Runtime session on the CPU that executes a graph as it is written.

    Optimisation is off: it could remove a rounding, or replace it by an integer kernel of this machine's CPU.

    Raises:
        engines.backends.onnxruntime.FAILURES: the graph is broken, or holds an operator that ONNX Runtime lacks.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, inputs: Mapping[str, Array], outputs: list[str]) -> dict[str, Array]:
    """Outputs of a graph, executed as it is written."""
    values = unoptimised_session(model).run(outputs, dict(inputs))
    return dict(zip(outputs, values, strict=True))


def inner_values(model: Any, tensors: Iterable[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Values of any tensors of a graph for some inputs."""
    probe = copied(model)
    value_info = onnx_module().ValueInfoProto
    known = {o.name for o in model.graph.output} | inputs.keys()
    asked = list(dict.fromkeys(tensors))
    probe.graph.output.extend(value_info(name=t) for t in asked if t not in known)
    values = run(probe.SerializeToString(), inputs, [t for t in asked if t not in inputs])
    return {t: inputs[t] if t in inputs else values[t] for t in asked}


class UnoptimisedRunner:
    """Graphs executed as they are written, in place of a target that cannot run on the machine that builds."""

    backend = "onnxruntime"
    maximum_batch: int | None = None
    tick_submission = GRAPH_BY_GRAPH

    def __init__(self, models: Mapping[str, bytes]) -> None:
        """Load serialized graphs.

        Raises:
            CompileError: names the graph that ONNX Runtime cannot load.
        """
        from engines.backends.onnxruntime import FAILURES, first_line

        self._failures = FAILURES
        self._sessions: dict[str, Any] = {}
        for graph, model in models.items():
            try:
                self._sessions[graph] = unoptimised_session(model)
            except FAILURES as e:
                raise CompileError(f"graph {graph!r}: ONNX Runtime cannot load it: {first_line(e)}") from e

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph; see :class:`engines.backends.interface.GraphRunner`."""
        session = self._sessions[graph]
        names = [o.name for o in session.get_outputs()]
        try:
            values = session.run(names, dict(inputs))
        except self._failures as e:
            raise EngineError(f"graph {graph!r} failed in ONNX Runtime: {e}") from e
        return {n: np.asarray(v) for n, v in zip(names, values, strict=True)}

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """A tick, graph after graph; see :class:`engines.backends.interface.GraphRunner`."""
        return encode_then_fuse(self, windows, evidence, presence)

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()
