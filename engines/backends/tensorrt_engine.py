"""One deserialized TensorRT or TensorRT-RTX engine: its tensors checked, its contexts, its compiled kernels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.backends.cache_files import read_cache, write_cache
from engines.backends.cuda import DeviceMemory, Stream
from engines.backends.tensorrt import LibraryLog
from engines.bundle import GraphSignature
from engines.errors import EngineError


class Engine:
    """The engine of one graph.

    Its contexts do not allocate. They share scratch memory that the runner owns; that is safe because they run one
    after another on one stream. So the scratch memory is as large as the largest need instead of the sum, and contexts
    are cheap enough to have one per captured shape. TensorRT-RTX also requires it of an engine that is to be captured.

    Attributes:
        name: of the graph.
        signature: what it takes and gives.
        scratch_size: bytes that one context needs.
    """

    def __init__(
        self,
        library: Any,
        runtime: Any,
        log: LibraryLog,
        path: Path,
        signature: GraphSignature,
        kernel_folder: Path,
    ) -> None:
        """Deserialize an engine file.

        Args:
            library: ``tensorrt`` or ``tensorrt_rtx``.
            runtime: the library's ``Runtime``.
            log: of the library.
            path: ``<graph>.engine``.
            signature: what the graph must take and give.
            kernel_folder: where TensorRT-RTX's kernels for this GPU are kept.

        Raises:
            EngineError: it does not load on this GPU, or has another signature.
        """
        log.clear()
        self.name = path.stem
        self.signature = signature
        self._library = library
        self._log = log
        self._contexts: dict[int, Context] = {}
        try:
            content = path.read_bytes()
        except OSError as e:
            raise EngineError(f"{path}: cannot be read: {e.strerror}; compile the bundle again") from e
        self._native: Any = runtime.deserialize_cuda_engine(content)
        if self._native is None:
            raise EngineError(f"{path}: {library.__name__} cannot load it on this GPU: {log.reason()}")
        _check_tensors(self.name, library, self._native, signature)
        self.scratch_size = int(self._native.device_memory_size_v2)
        self._batches = _profile_batches(self._native, next(iter(signature.inputs)))
        self._kernels: KernelCache | None = None
        self._config: Any = None
        if library.__name__ == "tensorrt_rtx":
            digest = hashlib.sha256(content).hexdigest()[:16]
            self._kernels = KernelCache(kernel_folder / f"{digest}.kernels")
            self._config = self._runtime_config(self._kernels)
        self._compiled: set[int] = set()

    def shared_context(self, rows: int, scratch: DeviceMemory, stream: Stream) -> Context:
        """The context of the batch size's optimisation profile; bind it before each use."""
        profile = self._profile(rows)
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile, scratch, stream)
        return self._contexts[profile]

    def own_context(self, rows: int, scratch: DeviceMemory, stream: Stream) -> Context:
        """A new context for captured work, so that nobody else changes its shapes."""
        return self._new_context(self._profile(rows), scratch, stream)

    def keep_kernels(self, rows: int) -> None:
        """Save the kernels that were compiled for a batch size, once it has run for the first time."""
        if self._kernels is not None and rows not in self._compiled:
            self._compiled.add(rows)
            self._kernels.save()

    def close(self) -> None:
        """Release the contexts, then the engine that they belong to; idempotent."""
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()
        self._config = self._kernels = self._native = None

    def _profile(self, rows: int) -> int:
        """The first optimisation profile that takes a batch size; profiles are in the order of preference."""
        for index, (smallest, largest) in enumerate(self._batches):
            if smallest <= rows <= largest:
                return index
        raise EngineError(
            f"graph {self.name!r}: batch of {rows}, its engine was built for "
            f"{' and '.join(f'{a} to {b}' for a, b in self._batches)}; compile the bundle again for larger batches"
        )

    def _new_context(self, profile: int, scratch: DeviceMemory, stream: Stream) -> Context:
        self._log.clear()
        how = self._config or self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        native = self._native.create_execution_context(how)
        if native is None:
            raise EngineError(f"graph {self.name!r}: no execution context: {self._log.reason()}")
        native.set_device_memory(scratch.address, scratch.size)
        if not native.set_optimization_profile_async(profile, int(stream.handle)):
            raise EngineError(f"graph {self.name!r}: profile {profile} was refused: {self._log.reason()}")
        stream.synchronize()
        return Context(self, native, self._log)

    def _runtime_config(self, kernels: KernelCache) -> Any:
        """Settings for running on TensorRT-RTX, which compiles kernels when an engine runs."""
        library, config = self._library, self._native.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            library.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # Lazily compiled kernels are used only some runs later, and a captured tick would keep the slow ones for good.
        strategies = library.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        # The library's own capture covers one engine and cannot run inside ours, which covers copies and all engines.
        config.cuda_graph_strategy = library.CudaGraphStrategy.DISABLED
        kernels.attach(config)
        return config


class Context:
    """An execution context: an engine with shapes and addresses."""

    def __init__(self, engine: Engine, native: Any, log: LibraryLog) -> None:
        """Wrap the library's context, which has its profile and scratch memory."""
        self._engine = engine
        self._native = native
        self._log = log
        self._bound: Mapping[str, int] | None = None

    def bind(self, rows: int, addresses: Mapping[str, int]) -> None:
        """Set batch size and the address of every tensor; does nothing if the mapping is the one of the last call.

        Raises:
            EngineError: the library refused one, or an output has another size than its place, and the engine would
                write past it.
        """
        if self._bound is addresses:
            return
        self._bound = None
        self._log.clear()
        name, signature = self._engine.name, self._engine.signature
        for tensor, shape in signature.inputs.items():
            if not self._native.set_input_shape(tensor, (rows, *shape)):
                raise EngineError(
                    f"graph {name!r}: input {tensor!r}: shape {(rows, *shape)} was refused: {self._log.reason()}"
                )
        for tensor, shape in signature.outputs.items():
            found = tuple(self._native.get_tensor_shape(tensor))
            if found != (rows, *shape):
                raise EngineError(
                    f"graph {name!r}: output {tensor!r}: expected shape {(rows, *shape)}, got {found}"
                )
        for tensor in (*signature.inputs, *signature.outputs):
            if not self._native.set_tensor_address(tensor, addresses[tensor]):
                raise EngineError(
                    f"graph {name!r}: tensor {tensor!r}: address was refused: {self._log.reason()}"
                )
        self._bound = addresses

    def enqueue(self, stream: Stream) -> None:
        """Queue one execution.

        Raises:
            EngineError: the library failed; names the graph.
        """
        self._log.clear()
        if not self._native.execute_async_v3(int(stream.handle)):
            raise EngineError(f"graph {self._engine.name!r} failed: {self._log.reason()}")

    def capturable(self, stream: Stream) -> bool:
        """Whether an execution can be captured, according to the library; TensorRT does not say, so True is assumed."""
        ask = getattr(self._native, "is_stream_capturable", None)
        return True if ask is None else bool(ask(int(stream.handle)))

    def close(self) -> None:
        """Release the library's context."""
        self._native = None


class KernelCache:
    """Kernels that TensorRT-RTX compiled for one engine on this GPU, kept from run to run."""

    def __init__(self, path: Path) -> None:
        """Nothing is read before :meth:`attach`."""
        self._path = path
        self._native: Any = None
        self._kept = b""

    def attach(self, config: Any) -> None:
        """Let a runtime configuration use the kernels that are kept, and collect new ones.

        The library checks the kernels against its version, the GPU and the driver. Kernels that it refuses are
        compiled and written again.
        """
        self._native = config.create_runtime_cache()
        kept = read_cache(self._path)
        if kept and self._native.deserialize(kept):
            self._kept = kept
        config.set_runtime_cache(self._native)

    def save(self) -> None:
        """Write the kernels to their file if they have changed."""
        blob = self._native.serialize()
        if blob is not None and bytes(blob) != self._kept:
            self._kept = bytes(blob)
            write_cache(self._path, self._kept)


def _profile_batches(native: Any, tensor: str) -> tuple[tuple[int, int], ...]:
    """Smallest and largest batch of every optimisation profile."""
    shapes = [native.get_tensor_profile_shape(tensor, i) for i in range(native.num_optimization_profiles)]
    return tuple((int(smallest[0]), int(largest[0])) for smallest, _, largest in shapes)


def _check_tensors(graph: str, library: Any, native: Any, signature: GraphSignature) -> None:
    """Refuse an engine whose tensors are not those of the manifest: it would read and write out of bounds."""
    expected = {**signature.inputs, **signature.outputs}
    found = [native.get_tensor_name(i) for i in range(native.num_io_tensors)]
    if sorted(found) != sorted(expected):
        raise EngineError(f"graph {graph!r}: expected tensors {sorted(expected)}, got {sorted(found)}")
    for name, shape in expected.items():
        dims, dtype = tuple(native.get_tensor_shape(name)), native.get_tensor_dtype(name)
        is_input = native.get_tensor_mode(name) == library.TensorIOMode.INPUT
        agree = len(dims) == 1 + len(shape) and all(
            d in (s, -1) for d, s in zip(dims[1:], shape, strict=True)
        )
        if not agree or dtype != library.float32 or is_input != (name in signature.inputs):
            raise EngineError(
                f"graph {graph!r}: tensor {name!r}: expected float32 (batch, {', '.join(map(str, shape))}), "
                f"got {dtype} {dims}"
            )
