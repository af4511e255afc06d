"""TensorRT and TensorRT-RTX: one implementation over the API that the two libraries share; here, the building half.

TensorRT-RTX builds ahead of time, without a GPU, one engine for many GPUs, and specialises kernels when it is loaded.
TensorRT builds on the GPU that will run the engine. Neither library is imported before it is needed, and what they
print goes to Python's logging (logger ``engines.tensorrt``), below the level that reaches a terminal by default: what
matters to the user is in the exception.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Mapping
from functools import cache
from typing import Any

from engines.backends.cuda import device_problem
from engines.backends.interface import BackendStatus
from engines.bundle import GraphSignature
from engines.errors import BackendUnavailableError, CompileError
from engines.targets import BatchProfile, Target

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_LOG = logging.getLogger("engines.tensorrt")


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
    """The library's log: all of it to Python's logging, and the last errors kept for exceptions.

    Attributes:
        native: the library's ``ILogger``; the library keeps the first one it is given for the whole process.
        errors: the latest error messages, oldest first.
    """

    def __init__(self, library: Any) -> None:
        """Make the native logger; its class can only be derived once the library is imported."""
        self.errors: deque[str] = deque(maxlen=20)
        severity = library.ILogger.Severity
        worst = (severity.INTERNAL_ERROR, severity.ERROR)
        levels = {severity.WARNING: logging.INFO, **dict.fromkeys(worst, logging.INFO)}
        errors = self.errors

        class Native(library.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                library.ILogger.__init__(self)

            def log(self, level: Any, message: str) -> None:
                if level in worst:
                    errors.append(message)
                _LOG.log(levels.get(level, logging.DEBUG), "%s", message)

        self.native = Native()

    def last_error(self) -> str:
        """The latest error in one line."""
        return " ".join(self.errors[-1].split())[:400] if self.errors else "the library gave no reason"


@cache
def library_log(backend: str) -> LibraryLog:
    """The one log of a library in this process."""
    return LibraryLog(load_library(backend))


def build_engine(graph: str, model: bytes, signature: GraphSignature, target: Target) -> bytes:
    """Compile one ONNX graph.

    The network is strongly typed: precision is what the graph says, and for fp32 also TF32 is turned off, which would
    otherwise round every product to 10 bits of mantissa and break parity.

    Args:
        graph: its name, for messages.
        model: serialized ONNX.
        signature: what it must take and give.
        target: backend, batch profile and compute capabilities.

    Returns:
        the serialized engine.

    Raises:
        BackendUnavailableError: the library is not here, or it needs a GPU to build and there is none.
        CompileError: names the graph, the node, its operator and the parser's message.
    """
    library = load_library(target.backend)
    log = library_log(target.backend)
    if target.backend == "tensorrt" and (problem := device_problem()):
        raise BackendUnavailableError(f"tensorrt builds on the GPU that will run the engine: {problem}")
    log.errors.clear()
    builder = library.Builder(log.native)
    network = _network(library, builder)
    _parse(library, network, log, graph, model, signature)
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, signature, target))
    _set_capabilities(library, config, target)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CompileError(f"graph {graph!r}: {target.backend} cannot build it: {log.last_error()}")
    return bytes(plan)


def compute_capabilities(target: Target) -> tuple[str, ...]:
    """The GPUs that an engine of this target will run on, as compute capabilities (``SM89``).

    Without a choice, TensorRT-RTX's engine runs on Ampere and later: all that the library names but SM75 (Turing).
    TensorRT's engine runs on the kind of GPU it is built on.
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
    # TensorRT 10 wants the flag; RTX and TensorRT 11 know nothing else, and ignore it.
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
        raise CompileError(
            f"graph {graph!r}: {library.__name__} cannot parse it: {where or log.last_error()}"
        )
    inputs = {network.get_input(i).name for i in range(network.num_inputs)}
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    # The parser accepts some files that are not ONNX at all as an empty network.
    if inputs != signature.inputs.keys() or outputs != signature.outputs.keys():
        raise CompileError(
            f"graph {graph!r}: expected inputs {sorted(signature.inputs)} and outputs "
            f"{sorted(signature.outputs)}, the parser found {sorted(inputs)} and {sorted(outputs)}"
        )


def _profile(builder: Any, signature: GraphSignature, target: Target) -> Any:
    batch = target.batch or BatchProfile()
    profile = builder.create_optimization_profile()
    for name, shape in signature.inputs.items():
        profile.set_shape(name, *((size, *shape) for size in (1, batch.optimum, batch.maximum)))
    return profile


def _set_capabilities(library: Any, config: Any, target: Target) -> None:
    if not target.compute_capabilities:
        return
    known: Mapping[str, Any] = library.ComputeCapability.__members__
    config.num_compute_capabilities = len(target.compute_capabilities)
    for index, name in enumerate(target.compute_capabilities):
        if name not in known or not config.set_compute_capability(known[name], index):
            supported = [m for m in known if m.startswith("SM")]
            raise CompileError(f"compute capability {name!r}: {target.backend} supports {supported}")
