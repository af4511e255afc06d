"""ONNX Runtime: what its runner, its CUDA provider and the compiler share, and the building half of the backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from engines.backends.interface import BackendStatus
from engines.errors import CompileError
from engines.targets import Provider

NAME = "onnxruntime"

# ONNX Runtime's exceptions share no base class below Exception; loading and running raise these.
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
    embedded board is the core that a sensor process needs. The memory arena stays on: without it, large batches would
    allocate every intermediate tensor from the system again and again.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def optimise(source: Path, target: Path, provider: Provider = "cpu") -> None:
    """Write ONNX Runtime's optimised form of a graph, without rewrites tied to this machine's CPU.

    For the CPU the level is EXTENDED: constants folded, operators fused. The layout rewrites of the ALL level depend
    on the CPU's vector width and are left to loading. The file may hold operators of ONNX Runtime's own, so it belongs
    to the version that wrote it. For CUDA the level is BASIC: the fused operators of the CPU have no CUDA kernels, and
    the provider fuses its own on loading.

    Raises:
        CompileError: the graph is broken or holds an operator that ONNX Runtime does not have.
    """
    options = session_options(threads=1)
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_EXTENDED if provider == "cpu" else levels.ORT_ENABLE_BASIC
    )
    options.optimized_model_filepath = str(target)
    try:
        open_cpu_session(source, options)
    except FAILURES as e:
        raise CompileError(
            f"graph {source.stem!r}: ONNX Runtime {version()} cannot compile it: {first_line(e)}"
        ) from e


def open_cpu_session(path: Path, options: ort.SessionOptions) -> Any:
    """A session on the CPU provider; raises one of :data:`FAILURES`."""
    return ort.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=0,
        # It moves the transpose in quantised image encoders behind arithmetic, which then runs 15 times slower.
        disabled_optimizers=["NhwcTransformer"],
    )


def first_line(error: Exception) -> str:
    """An exception's message in one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
