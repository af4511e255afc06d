"""Running graphs on ONNX Runtime: on the CPU, which is the default and the reference for other backends, or on CUDA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnxruntime as ort

from engines.backends.interface import GRAPH_BY_GRAPH, Array, encode_then_fuse
from engines.backends.onnxruntime import (
    FAILURES,
    NAME,
    first_line,
    open_cpu_session,
    session_options,
    version,
)
from engines.backends.onnxruntime_cuda import DeviceGraph, open_cuda_session, tick_on_device
from engines.bundle import GraphSignature
from engines.errors import EngineError
from engines.targets import Provider


class LoadedGraph(Protocol):
    """One graph, ready to run."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name; raises one of :data:`FAILURES`."""
        ...


class OnnxRuntimeRunner:
    """The graphs of one bundle on ONNX Runtime."""

    maximum_batch: int | None = None
    tick_submission = GRAPH_BY_GRAPH

    def __init__(
        self,
        folder: Path,
        signatures: Mapping[str, GraphSignature],
        *,
        threads: int = 1,
        provider: Provider = "cpu",
    ) -> None:
        """Load ``<graph>.onnx`` for every graph and check its inputs and outputs against the manifest.

        Args:
            folder: where the graphs are.
            signatures: graph -> what it must take and give.
            threads: CPU threads for the operators of one graph.
            provider: what executes the graphs; ``cuda`` never falls back to the CPU.

        Raises:
            BackendUnavailableError: ``cuda`` was asked for, and this build of ONNX Runtime, its CUDA libraries or a
                GPU cannot do it.
            EngineError: a graph cannot be loaded or has another signature than the manifest says.
        """
        self.backend = NAME if provider == "cpu" else f"{NAME}-{provider}"
        self._graphs: dict[str, LoadedGraph] = {}
        self._on_device = provider == "cuda"
        options = session_options(threads)
        if provider == "cuda":
            for graph, signature in signatures.items():
                session = _load(folder / f"{graph}.onnx", options, signature, open_cuda_session)
                self._graphs[graph] = DeviceGraph(session, signature, "cuda")
            return
        for graph, signature in signatures.items():
            path = folder / f"{graph}.onnx"
            session = _load(path, options, signature, open_cpu_session)
            single = _single_row_session(path, session, threads) if in_a_tick(graph) else None
            self._graphs[graph] = _CpuGraph(session, single, signature)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph; see :class:`engines.backends.interface.GraphRunner`."""
        loaded = self._graphs.get(graph)
        if loaded is None:
            raise EngineError(f"graph {graph!r} is not loaded; this session has {sorted(self._graphs)}")
        try:
            return loaded.run(inputs)
        except FAILURES as e:
            raise EngineError(f"graph {graph!r} failed in ONNX Runtime: {first_line(e)}") from e

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """A tick, graph after graph; evidence stays on the device where the graphs run on one."""
        if not (self._on_device and self._graphs):
            return encode_then_fuse(self, windows, evidence, presence)
        try:
            return tick_on_device(self._graphs, windows, evidence, presence)
        except FAILURES as e:
            raise EngineError(f"a tick failed in ONNX Runtime: {first_line(e)}") from e

    def close(self) -> None:
        """Free the sessions."""
        self._graphs.clear()


class _CpuGraph:
    """A session for any batch and, for graphs of a tick, a second session whose batch is fixed to 1.

    With the batch known, arithmetic on shapes is folded away and memory is planned once.
    """

    def __init__(self, session: Any, single: Any | None, signature: GraphSignature) -> None:
        self._session, self._single = session, single
        self._outputs = list(signature.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        session = self._single if rows == 1 and self._single is not None else self._session
        return dict(zip(self._outputs, session.run(self._outputs, dict(inputs)), strict=True))


def in_a_tick(graph: str) -> bool:
    """Whether a graph takes part in a decision; the others only compute what is published for viewers."""
    return graph == "fuse" or graph.startswith("encode_")


class _OpenSession(Protocol):
    def __call__(self, path: Path, options: ort.SessionOptions, /) -> Any: ...


@dataclass(frozen=True)
class _Tensor:
    """An input or output as the graph declares it; symbolic dimensions are strings or None."""

    name: str
    type: str
    shape: list[int | str | None]


def _load(path: Path, options: ort.SessionOptions, signature: GraphSignature, opened: _OpenSession) -> Any:
    """A session whose inputs and outputs are those of the manifest.

    Reading its inputs and outputs can fail as well, if a name is not valid text.
    """
    try:
        session = opened(path, options)
        inputs, outputs = (
            [_Tensor(t.name, t.type, t.shape) for t in tensors]
            for tensors in (session.get_inputs(), session.get_outputs())
        )
    except FAILURES as e:
        raise EngineError(f"{path}: ONNX Runtime {version()} cannot load it: {first_line(e)}") from e
    _check_tensors(path.stem, "input", inputs, signature.inputs)
    _check_tensors(path.stem, "output", outputs, signature.outputs)
    return session


def _single_row_session(path: Path, session: Any, threads: int) -> Any | None:
    """A second session with the batch fixed to 1; None if the batch axis has no name by which it could be fixed."""
    axes = {t.shape[0] for t in session.get_inputs()}
    if len(axes) != 1 or not isinstance(axis := axes.pop(), str):
        return None
    options = session_options(threads)
    options.add_free_dimension_override_by_name(axis, 1)
    try:
        return open_cpu_session(path, options)
    except FAILURES as e:
        raise EngineError(
            f"{path}: ONNX Runtime {version()} cannot load it with a batch of 1: {first_line(e)}"
        ) from e


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
        # A symbolic dimension is a string or None. Exporters leave some outputs symbolic; the session checks those.
        agree = len(dims) == 1 + len(shape) and all(
            not isinstance(d, int) or d == s for d, s in zip(dims[1:], shape, strict=True)
        )
        if not agree:
            raise EngineError(
                f"graph {graph!r}: {side} {name!r}: expected shape (batch, {', '.join(map(str, shape))}), got {dims}"
            )
        if dims and isinstance(dims[0], int):
            raise EngineError(f"graph {graph!r}: {side} {name!r}: the batch axis must be dynamic, got {dims}")
