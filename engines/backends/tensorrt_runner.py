"""Running TensorRT and TensorRT-RTX engines: every graph on one stream, all memory allocated at the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.backends.cuda import Buffer, Stream, device_problem
from engines.backends.interface import Array, encode_then_fuse
from engines.backends.tensorrt import LibraryLog, library_log, load_library
from engines.bundle import GraphSignature
from engines.errors import BackendUnavailableError, EngineError
from engines.targets import BatchProfile


class TensorRTRunner:
    """The engines of one bundle, deserialized, each with its execution context and buffers."""

    def __init__(
        self, folder: Path, signatures: Mapping[str, GraphSignature], backend: str, batch: BatchProfile
    ) -> None:
        """Deserialize ``<graph>.engine`` for every graph and allocate for the largest batch.

        Args:
            folder: the engine folder.
            signatures: graph -> what it must take and give.
            backend: ``tensorrt`` or ``tensorrt-rtx``.
            batch: the profile that the engines were built for.

        Raises:
            BackendUnavailableError: the library or a usable GPU is not here.
            EngineError: an engine does not load on this GPU, or has another signature.
        """
        self.backend = backend
        self.maximum_batch: int | None = batch.maximum
        library = load_library(backend)
        if problem := device_problem():
            raise BackendUnavailableError(f"{backend}: {problem}; run the bundle itself to use ONNX Runtime")
        log = library_log(backend)
        self._graphs: dict[str, _Graph] = {}
        self._stream: Stream | None = Stream()
        try:
            self._runtime: Any = library.Runtime(log.native)
            for graph, signature in signatures.items():
                path = folder / f"{graph}.engine"
                self._graphs[graph] = _Graph(library, self._runtime, log, path, signature, batch.maximum)
        except BaseException:
            self.close()
            raise

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph; see :class:`engines.backends.interface.GraphRunner`."""
        loaded = self._graphs.get(graph)
        if loaded is None or self._stream is None:
            raise EngineError(f"graph {graph!r} is not loaded; this session has {sorted(self._graphs)}")
        return loaded.run(inputs, self._stream)

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """A tick, graph after graph; see :class:`engines.backends.interface.GraphRunner`."""
        return encode_then_fuse(self, windows, evidence, presence)

    def close(self) -> None:
        """Free buffers, contexts, engines and the stream, in that order; idempotent."""
        for loaded in self._graphs.values():
            loaded.close()
        self._graphs.clear()
        self._runtime = None
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()


class _Graph:
    """One deserialized engine with its context and the buffers of its inputs and outputs."""

    def __init__(
        self,
        library: Any,
        runtime: Any,
        log: LibraryLog,
        path: Path,
        signature: GraphSignature,
        batch: int,
    ) -> None:
        log.errors.clear()
        self._name = path.stem
        self._log = log
        self._signature = signature
        self._buffers: dict[str, Buffer] = {}
        self._checked_rows: set[int] = set()
        self._engine: Any = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(f"{path}: {library.__name__} cannot load it on this GPU: {log.last_error()}")
        self._check(library)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{path}: no execution context: {log.last_error()}")
        try:
            for name, shape in {**signature.inputs, **signature.outputs}.items():
                buffer = self._buffers[name] = Buffer(batch, shape)
                if not self._context.set_tensor_address(name, buffer.device):
                    raise EngineError(f"{path}: tensor {name!r} was refused: {log.last_error()}")
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array], stream: Stream) -> dict[str, Array]:
        """Upload, execute, download, synchronise."""
        rows = len(next(iter(inputs.values())))
        for name, shape in self._signature.inputs.items():
            self._buffers[name].upload(inputs[name], stream)
            if not self._context.set_input_shape(name, (rows, *shape)):
                raise EngineError(
                    f"graph {self._name!r}: input {name!r}: shape {(rows, *shape)} was refused: "
                    f"{self._log.last_error()}"
                )
        self._check_outputs(rows)
        if not self._context.execute_async_v3(int(stream.handle)):
            raise EngineError(f"graph {self._name!r} failed: {self._log.last_error()}")
        for name in self._signature.outputs:
            self._buffers[name].download(rows, stream)
        stream.synchronize()
        return {name: self._buffers[name].values(rows) for name in self._signature.outputs}

    def close(self) -> None:
        """Free the buffers, then the context, then the engine it belongs to."""
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        self._context = None
        self._engine = None

    def _check_outputs(self, rows: int) -> None:
        """Refuse outputs larger than their buffers, once per batch size; the engine would write past the end."""
        if rows in self._checked_rows:
            return
        for name, shape in self._signature.outputs.items():
            found = tuple(self._context.get_tensor_shape(name))
            if found != (rows, *shape):
                raise EngineError(
                    f"graph {self._name!r}: output {name!r}: expected shape {(rows, *shape)}, got {found}"
                )
        self._checked_rows.add(rows)

    def _check(self, library: Any) -> None:
        """Refuse an engine whose tensors are not those of the manifest: addresses would be read out of bounds."""
        engine = self._engine
        expected = {**self._signature.inputs, **self._signature.outputs}
        found = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if sorted(found) != sorted(expected):
            raise EngineError(
                f"graph {self._name!r}: expected tensors {sorted(expected)}, got {sorted(found)}"
            )
        for name, shape in expected.items():
            dims, dtype = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            mode = engine.get_tensor_mode(name)
            is_input = name in self._signature.inputs
            agree = len(dims) == 1 + len(shape) and all(
                d in (s, -1) for d, s in zip(dims[1:], shape, strict=True)
            )
            if not agree or dtype != library.float32 or (mode == library.TensorIOMode.INPUT) != is_input:
                raise EngineError(
                    f"graph {self._name!r}: tensor {name!r}: expected float32 (batch, {', '.join(map(str, shape))}), "
                    f"got {dtype} {dims}"
                )
