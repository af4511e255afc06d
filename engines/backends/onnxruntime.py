"""ONNX Runtime on the CPU: the embedded default, and the reference that every other backend is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from engines.backends.interface import Array, BackendStatus, encode_then_fuse
from engines.bundle import GraphSignature
from engines.errors import CompileError, EngineError

NAME = "onnxruntime"

# ONNX Runtime's exceptions share no base class below Exception; these are the ones loading and running raise.
FAILURES: tuple[type[Exception], ...] = (
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoSuchFile,
    native.NoModel,
    native.NotFound,
    native.NotImplemented,
    native.EPFail,
    native.RuntimeException,
    RuntimeError,
    ValueError,
)
_ERRORS_ONLY = 3


def status() -> BackendStatus:
    """ONNX Runtime is part of the base install: if this module imports, it builds and runs."""
    return BackendStatus(NAME, can_build=True, can_run=True, reason="", version=version())


def version() -> str:
    """Version of the installed ONNX Runtime."""
    return str(ort.__version__)


def session_options(threads: int) -> ort.SessionOptions:
    """Options for small graphs that share a machine with sensors.

    Sequential execution on few threads and no spinning: a spinning pool burns a core between ticks, which on an
    embedded board is the core that a sensor process needs.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


class OnnxRuntimeRunner:
    """One ``InferenceSession`` per graph."""

    backend = NAME
    maximum_batch: int | None = None

    def __init__(self, folder: Path, signatures: Mapping[str, GraphSignature], *, threads: int = 1) -> None:
        """Load ``<graph>.onnx`` for every graph and check its inputs and outputs against the manifest.

        Args:
            folder: where the graphs are.
            signatures: graph -> what it must take and give.
            threads: threads for the operators of one graph.

        Raises:
            EngineError: a graph cannot be loaded or has another signature than the manifest says.
        """
        options = session_options(threads)
        self._sessions: dict[str, Any] = {}
        self._outputs: dict[str, list[str]] = {}
        for graph, signature in signatures.items():
            session, inputs, outputs = _load(folder / f"{graph}.onnx", options)
            _check_tensors(graph, "input", inputs, signature.inputs)
            _check_tensors(graph, "output", outputs, signature.outputs)
            self._sessions[graph] = session
            self._outputs[graph] = list(signature.outputs)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph; see :class:`engines.backends.interface.GraphRunner`."""
        session = self._sessions.get(graph)
        if session is None:
            raise EngineError(f"graph {graph!r} is not loaded; this session has {sorted(self._sessions)}")
        names = self._outputs[graph]
        try:
            values = session.run(names, dict(inputs))
        except FAILURES as e:
            raise EngineError(f"graph {graph!r} failed in ONNX Runtime: {first_line(e)}") from e
        return dict(zip(names, values, strict=True))

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """A tick, graph after graph; see :class:`engines.backends.interface.GraphRunner`."""
        return encode_then_fuse(self, windows, evidence, presence)

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()


def optimise(source: Path, target: Path) -> None:
    """Write ONNX Runtime's optimised form of a graph, without rewrites tied to this machine's CPU.

    The level is EXTENDED: constants folded, operators fused. The layout rewrites of the ALL level depend on the CPU's
    vector width and are left to loading. The file may hold operators of ONNX Runtime's own, so it belongs to the
    version that wrote it.

    Raises:
        CompileError: the graph is broken or holds an operator that ONNX Runtime does not have.
    """
    options = session_options(threads=1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except FAILURES as e:
        raise CompileError(
            f"graph {source.stem!r}: ONNX Runtime {version()} cannot compile it: {first_line(e)}"
        ) from e


@dataclass(frozen=True)
class _Tensor:
    """An input or output as the graph declares it; symbolic dimensions are strings or None."""

    name: str
    type: str
    shape: list[int | str | None]


def _load(path: Path, options: ort.SessionOptions) -> tuple[Any, list[_Tensor], list[_Tensor]]:
    """A session with its inputs and outputs; reading them fails too, where a name is not text."""
    try:
        session = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        inputs, outputs = (
            [_Tensor(t.name, t.type, t.shape) for t in tensors]
            for tensors in (session.get_inputs(), session.get_outputs())
        )
        return session, inputs, outputs
    except FAILURES as e:
        raise EngineError(f"{path}: ONNX Runtime {version()} cannot load it: {first_line(e)}") from e


def _check_tensors(
    graph: str, side: str, tensors: list[_Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    found = {t.name: t for t in tensors}
    if found.keys() != expected.keys():
        raise EngineError(f"graph {graph!r}: expected {side}s {sorted(expected)}, got {sorted(found)}")
    for name, shape in expected.items():
        tensor = found[name]
        if tensor.type != "tensor(float)":
            raise EngineError(f"graph {graph!r}: {side} {name!r}: expected tensor(float), got {tensor.type}")
        dims = tensor.shape
        # A symbolic dimension is a string or None: exporters leave some outputs symbolic, the session checks those.
        agree = len(dims) == 1 + len(shape) and all(
            not isinstance(d, int) or d == s for d, s in zip(dims[1:], shape, strict=True)
        )
        if not agree:
            raise EngineError(
                f"graph {graph!r}: {side} {name!r}: expected shape (batch, {', '.join(map(str, shape))}), got {dims}"
            )
        if dims and isinstance(dims[0], int):
            raise EngineError(f"graph {graph!r}: {side} {name!r}: the batch axis must be dynamic, got {dims}")


def first_line(error: Exception) -> str:
    """An exception's message in one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
