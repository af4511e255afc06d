"""Running TensorRT and TensorRT-RTX engines: one stream, and all memory allocated at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends.cuda import DeviceMemory, MirroredMemory, Stream, device_problem
from engines.backends.interface import Array
from engines.backends.memory_layout import ALIGNMENT, lay_out
from engines.backends.tensorrt import gpu_cache_folder, library_log, load_library
from engines.backends.tensorrt_engine import Engine
from engines.backends.tensorrt_submission import Device, Execution, Submission
from engines.backends.tensorrt_tick import Ticks, tick_tensors
from engines.bundle import GraphSignature
from engines.errors import BackendUnavailableError, EngineError
from engines.targets import BatchProfile


@dataclass(frozen=True)
class _Single:
    """The submission of one graph at the batch size that it last had."""

    rows: int
    submission: Submission


class TensorRTRunner:
    """The engines of one bundle, deserialized, and the memory that they share.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        maximum_batch: largest batch that the engines were built for.
    """

    def __init__(
        self,
        folder: Path,
        signatures: Mapping[str, GraphSignature],
        backend: str,
        batch: BatchProfile,
        *,
        dla_core: int | None = None,
    ) -> None:
        """Deserialize ``<graph>.engine`` for every graph and allocate for the largest batch.

        Args:
            folder: the engine folder.
            signatures: graph -> what it must take and give; every graph of the bundle.
            backend: ``tensorrt`` or ``tensorrt-rtx``.
            batch: the profile that the engines were built for.
            dla_core: the deep learning accelerator they were built for (Jetson), None for the GPU alone.

        Raises:
            BackendUnavailableError: the library or a usable GPU is missing.
            EngineError: an engine does not load on this GPU, has another signature, or there is too little memory.
        """
        self.backend = backend
        self.maximum_batch: int | None = batch.maximum
        library = load_library(backend)
        if problem := device_problem():
            raise BackendUnavailableError(f"{backend}: {problem}; run the bundle itself to use ONNX Runtime")
        log = library_log(backend)
        self._engines: dict[str, Engine] = {}
        self._singles: dict[str, _Single] = {}
        self._ticks: Ticks | None = None
        self._tensors: MirroredMemory | None = None
        self._scratch: DeviceMemory | None = None
        self._stream: Stream | None = Stream()
        try:
            self._runtime: Any = library.Runtime(log.native)
            if dla_core is not None:
                self._runtime.DLA_core = dla_core
            kernels = gpu_cache_folder(backend)
            for graph, signature in signatures.items():
                path = folder / f"{graph}.engine"
                self._engines[graph] = Engine(library, self._runtime, log, path, signature, kernels)
            self._device = self._allocate(self._stream, batch.maximum)
            # Contexts are made now, so that an engine that cannot run fails on loading.
            for engine in self._engines.values():
                for rows in {1, batch.maximum}:
                    engine.shared_context(rows, self._device.scratch, self._stream)
            self._ticks = Ticks(self._engines, self._device)
        except BaseException:
            self.close()
            raise

    @property
    def tick_submission(self) -> str:
        """``cuda graph`` if ticks are captured, ``stream`` if a capture failed and they are queued piece by piece."""
        return "" if self._ticks is None else self._ticks.submission

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph; see :class:`engines.backends.interface.GraphRunner`."""
        if graph not in self._engines:
            raise EngineError(f"graph {graph!r} is not loaded; this session has {sorted(self._engines)}")
        rows = len(next(iter(inputs.values())))
        single = self._singles.get(graph)
        if single is None or single.rows != rows:
            single = self._singles[graph] = _Single(rows, self._compose(self._engines[graph], rows))
        single.submission.fill(inputs)
        single.submission.run()
        return single.submission.results()

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """A tick as one submission; see :class:`engines.backends.interface.GraphRunner`."""
        if self._ticks is None:
            raise EngineError("tick: this session is closed")
        return self._ticks.run(windows, evidence, presence)

    def close(self) -> None:
        """Free captured ticks, contexts, engines, memory and stream, in this order; idempotent."""
        self._singles.clear()
        if self._ticks is not None:
            ticks, self._ticks = self._ticks, None
            ticks.close()
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._runtime = None
        for memory in (self._tensors, self._scratch):
            if memory is not None:
                memory.close()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            stream.close()

    def _allocate(self, stream: Stream, rows: int) -> Device:
        """Memory for the largest submission, and for the engine that needs most."""
        needs = [lay_out({**e.signature.inputs, **e.signature.outputs}, rows) for e in self._engines.values()]
        size = max(layout.size for layout in (*needs, lay_out(tick_tensors(self._engines), rows)))
        self._tensors = MirroredMemory(size)
        self._scratch = DeviceMemory(max(ALIGNMENT, *(e.scratch_size for e in self._engines.values())))
        return Device(stream, self._tensors, self._scratch)

    def _compose(self, engine: Engine, rows: int) -> Submission:
        """One graph: its inputs in one copy, its outputs in another."""
        device, signature = self._device, engine.signature
        layout = lay_out({**signature.inputs, **signature.outputs}, rows)
        addresses = {name: device.tensors.address(start) for name, start in layout.starts.items()}
        context = engine.shared_context(rows, device.scratch, device.stream)
        return Submission(
            device,
            layout,
            (Execution(engine, context, rows, addresses),),
            inputs=list(signature.inputs),
            outputs=list(signature.outputs),
            uploads=(layout.cover(list(signature.inputs)),),
            downloads=(layout.cover(list(signature.outputs)),),
        )
