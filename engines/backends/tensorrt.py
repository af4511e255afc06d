"""Building with TensorRT and TensorRT-RTX: one implementation over the API that the two libraries share.

TensorRT-RTX builds ahead of time, without a GPU, one engine for many GPUs, and specialises kernels when it is loaded.
TensorRT builds on the GPU that will run the engine. Neither library is imported before it is needed, and what they
print goes to Python's logging (logger ``afterimage.engines.tensorrt``) as DEBUG: what matters to the user is in the
exception.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engines.backends.cache_files import cache_folder, read_cache, write_cache
from engines.backends.cuda import device_name, device_problem
from engines.backends.interface import BackendStatus
from engines.bundle import GraphSignature
from engines.errors import BackendUnavailableError, CompileError
from engines.targets import BatchProfile, Target

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_LOG = logging.getLogger("afterimage.engines.tensorrt")


def load_library(backend: str) -> Any:
    """Import the library of a backend.

    Raises:
        BackendUnavailableError: it is not installed (names the extra) or its shared libraries do not load.
    """
    try:
        return importlib.import_module(_MODULES[backend])
    except ModuleNotFoundError as e:
        raise BackendUnavailableError(
            f"{backend} is not installed (no module {e.name!r}): pip install 'afterimage[{backend}]'"
        ) from e
    except (ImportError, OSError, RuntimeError) as e:
        raise BackendUnavailableError(
            f"{backend} is installed but does not load: {str(e).splitlines()[0]}"
        ) from e


def status(backend: str) -> BackendStatus:
    """Whether a backend's engines can be built and run here, and if not, why, in one line."""
    try:
        library = load_library(backend)
    except BackendUnavailableError as e:
        return BackendStatus(backend, can_build=False, can_run=False, reason=str(e), version="")
    problem = device_problem()
    ahead_of_time = backend == "tensorrt-rtx"
    return BackendStatus(
        backend,
        can_build=ahead_of_time or not problem,
        can_run=not problem,
        reason=problem,
        version=str(library.__version__),
    )


class LibraryLog:
    """The library's log: passes every message on to Python's logging, and keeps the last errors for exceptions.

    Attributes:
        native: the library's ``ILogger``; the library keeps the first one it is given for the whole process.
        errors: the latest error messages, oldest first.
    """

    def __init__(self, library: Any) -> None:
        """Make the native logger; its class can only be derived once the library is imported."""
        self.errors: deque[str] = deque(maxlen=20)
        severity = library.ILogger.Severity
        worst = (severity.INTERNAL_ERROR, severity.ERROR)
        errors = self.errors

        class Native(library.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                library.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in worst:
                    errors.append(message)
                _LOG.debug("%s", message)

        self.native = Native()

    def clear(self) -> None:
        """Forget the errors before a call that may add some."""
        self.errors.clear()

    def reason(self) -> str:
        """The first error since the last :meth:`clear`, in one line; later errors are its consequences."""
        return " ".join(self.errors[0].split())[:400] if self.errors else "the library gave no reason"


@cache
def library_log(backend: str) -> LibraryLog:
    """The one log of a library in this process."""
    return LibraryLog(load_library(backend))


def build_engine(graph: str, model: bytes, signature: GraphSignature, target: Target) -> bytes:
    """Compile one ONNX graph.

    The network is strongly typed: the graph itself says what precision each operator has. TF32 is turned off, because
    it would round every product to 10 bits of mantissa and break parity. An engine has one optimisation profile for
    batch 1 and one for larger batches (:func:`batch_profiles`). TensorRT times kernels as it builds, and the timings
    are kept from build to build; TensorRT-RTX times none.

    Args:
        graph: its name, for messages.
        model: serialized ONNX.
        signature: what it must take and give.
        target: backend, batch profile, compute capabilities, workspace and accelerator.

    Returns:
        the serialized engine.

    Raises:
        BackendUnavailableError: the library is missing, or it needs a GPU to build and there is none.
        CompileError: names the graph, the node, its operator and the parser's message.
    """
    library = load_library(target.backend)
    log = library_log(target.backend)
    if target.backend == "tensorrt" and (problem := device_problem()):
        raise BackendUnavailableError(f"tensorrt builds on the GPU that will run the engine: {problem}")
    log.clear()
    builder = library.Builder(log.native)
    network = _network(library, builder)
    _parse(library, network, log, graph, model, signature)
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    _add_profiles(builder, config, graph, signature, target.batch or BatchProfile())
    _set_capabilities(library, config, target)
    _set_workspace_and_accelerator(library, builder, config, target)
    timings = None
    if target.backend == "tensorrt-rtx":
        # The runner provides all memory, because an engine that allocates while it runs cannot be captured.
        config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
    else:
        timings = gpu_cache_folder(target.backend) / "timings"
        _load_timings(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CompileError(f"graph {graph!r}: {target.backend} cannot build it: {log.reason()}")
    if timings is not None:
        write_cache(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def batch_profiles(batch: BatchProfile) -> tuple[tuple[int, int, int], ...]:
    """Smallest, best and largest batch of every optimisation profile, in the order of preference.

    The first is for exactly one row, the batch of a runtime's ticks: with a fixed shape the builder can choose among
    more kernels. The second is for two rows and more, and is tuned for the target's optimum, or for the maximum if the
    optimum is 1.
    """
    single = (1, 1, 1)
    if batch.maximum == 1:
        return (single,)
    return single, (2, batch.optimum if batch.optimum > 1 else batch.maximum, batch.maximum)


def gpu_cache_folder(backend: str) -> Path:
    """The folder of cache files for a library's version and the current GPU; it need not exist.

    Raises:
        BackendUnavailableError: the library is missing.
        EngineError: there is no usable GPU.
    """
    return cache_folder() / f"{backend}-{load_library(backend).__version__}" / device_name()


def compute_capabilities(target: Target) -> tuple[str, ...]:
    """The GPUs that an engine of this target will run on, as compute capabilities (``SM89``).

    If the target names none, TensorRT-RTX's engine runs on Ampere and later: everything that the library lists except
    SM75 (Turing). TensorRT's engine runs on the kind of GPU that it is built on.
    """
    if target.backend == "tensorrt":
        from engines.backends.cuda import device_capability

        return (device_capability(),)
    if target.compute_capabilities:
        return target.compute_capabilities
    members = load_library(target.backend).ComputeCapability.__members__
    return tuple(m for m in members if m.startswith("SM") and m != "SM75")


def _network(library: Any, builder: Any) -> Any:
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # TensorRT 10 needs the flag; RTX and TensorRT 11 only know strongly typed networks and ignore it.
    return builder.create_network(0 if flag is None else 1 << int(flag))


def _parse(
    library: Any, network: Any, log: LibraryLog, graph: str, model: bytes, signature: GraphSignature
) -> None:
    parser = library.OnnxParser(network, log.native)
    parsed = parser.parse(model)
    faults = [parser.get_error(i) for i in range(parser.num_errors)]
    if not parsed or faults:
        where = "; ".join(
            f"node {f.node_name()!r} ({f.node_operator()}): {f.code().name}: {' '.join(f.desc().split())[:200]}"
            for f in faults
        )
        raise CompileError(f"graph {graph!r}: {library.__name__} cannot parse it: {where or log.reason()}")
    inputs = {network.get_input(i).name for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    # The parser accepts some files that are not ONNX at all as an empty network.
    if inputs != signature.inputs.keys() or outputs != signature.outputs.keys():
        raise CompileError(
            f"graph {graph!r}: expected inputs {sorted(signature.inputs)} and outputs "
            f"{sorted(signature.outputs)}, the parser found {sorted(inputs)} and {sorted(outputs)}"
        )


def _add_profiles(
    builder: Any, config: Any, graph: str, signature: GraphSignature, batch: BatchProfile
) -> None:
    for sizes in batch_profiles(batch):
        profile = builder.create_optimization_profile()
        for name, shape in signature.inputs.items():
            profile.set_shape(name, *((size, *shape) for size in sizes))
        if config.add_optimization_profile(profile) < 0:
            raise CompileError(f"graph {graph!r}: the profile for batches {sizes} was refused")


def _set_workspace_and_accelerator(library: Any, builder: Any, config: Any, target: Target) -> None:
    if target.workspace_mib is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
    core = target.dla_core
    if core is None:
        return
    if target.batch is not None and target.batch.maximum != 1:
        raise CompileError(
            f"dla_core {core}: deep learning accelerators take one fixed shape, expected batch "
            f"{{optimum: 1, maximum: 1}}, got a maximum of {target.batch.maximum}"
        )
    if core >= builder.num_DLA_cores:
        raise CompileError(
            f"dla_core {core}: this machine has {builder.num_DLA_cores} deep learning accelerators that "
            f"{target.backend} can use; leave dla_core out to build for the GPU alone"
        )
    config.default_device_type = library.DeviceType.DLA
    config.DLA_core = core
    # An accelerator supports few layers, in fp16 and int8 only; without this flag the build fails at any other layer.
    config.set_flag(library.BuilderFlag.GPU_FALLBACK)


def _load_timings(config: Any, path: Path) -> None:
    """Start from the timings of earlier builds on this GPU; the library rejects timings that are not its own."""
    kept = config.create_timing_cache(read_cache(path))
    if kept is None or not config.set_timing_cache(kept, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _set_capabilities(library: Any, config: Any, target: Target) -> None:
    if not target.compute_capabilities:
        return
    known: Mapping[str, Any] = library.ComputeCapability.__members__
    config.num_compute_capabilities = len(target.compute_capabilities)
    for index, name in enumerate(target.compute_capabilities):
        if name not in known or not config.set_compute_capability(known[name], index):
            supported = [m for m in known if m.startswith("SM")]
            raise CompileError(f"compute capability {name!r}: {target.backend} supports {supported}")
