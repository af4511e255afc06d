"""ONNX Runtime's CUDA provider: a check of what it needs, and graphs bound to buffers on the device.

If its CUDA libraries do not load, ONNX Runtime falls back to the CPU even when told not to. Here that is an error that
says what is missing.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from engines.backends.interface import Array, BackendStatus
from engines.backends.onnxruntime import NAME, version
from engines.bundle import GraphSignature
from engines.errors import BackendUnavailableError

_PROVIDER = "CUDAExecutionProvider"
_INSTEAD = "the target cpu works here"
# TF32 keeps 10 bits of a product's mantissa and does not reach parity in fp32.
_OPTIONS = {"use_tf32": "0"}


def status() -> BackendStatus:
    """Graphs can be prepared for CUDA on any machine; running them needs the GPU build of ONNX Runtime and a GPU."""
    problem = cuda_problem()
    return BackendStatus(
        f"{NAME}-cuda", can_build=True, can_run=not problem, reason=problem, version=version()
    )


def cuda_problem() -> str:
    """Why the CUDA provider cannot be used here, in one line that names what works instead; empty if it can."""
    if _PROVIDER not in ort.get_available_providers():
        return (
            f"onnxruntime {version()} is the CPU-only build: install onnxruntime-gpu in its place; {_INSTEAD}"
        )
    if problem := _gpu_problem():
        return f"{problem}; {_INSTEAD}"
    return ""


def open_cuda_session(path: Path, options: ort.SessionOptions) -> Any:
    """A session on the CUDA provider.

    Raises:
        BackendUnavailableError: the GPU build, a GPU or a CUDA library is missing.
    """
    if problem := cuda_problem():
        raise BackendUnavailableError(f"{NAME} with provider cuda: {problem}")
    failure = _preload()
    session = ort.InferenceSession(str(path), options, providers=[(_PROVIDER, _OPTIONS)], enable_fallback=0)
    if _PROVIDER not in session.get_providers():
        raise BackendUnavailableError(
            f"{NAME} with provider cuda: its CUDA libraries do not load ({failure or 'see the log above'}): "
            f"pip install 'onnxruntime-gpu[cuda,cudnn]'; {_INSTEAD}"
        )
    return session


@cache
def _preload() -> str:
    """Load CUDA and cuDNN from their wheels, if installed; returns the first failure in one line, or nothing."""
    output = io.StringIO()
    with redirect_stdout(output):
        ort.preload_dlls()
    failures = [line for line in output.getvalue().splitlines() if line.startswith("Failed")]
    return failures[0] if failures else ""


def _gpu_problem() -> str:
    """Why the driver offers no GPU, or nothing; calls the driver directly, so that no Python binding is needed."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda.so.1)"
    count = ctypes.c_int(0)
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error:
        return f"the NVIDIA driver finds no usable GPU (CUDA driver error {error})"
    return "" if count.value else "no NVIDIA GPU is in this machine"


class DeviceGraph:
    """A session whose inputs and outputs stay in device buffers, allocated again when the batch size changes."""

    def __init__(self, session: Any, signature: GraphSignature, device: str) -> None:
        """Bind nothing yet.

        Args:
            session: of ONNX Runtime, on a provider that works on the device.
            signature: of the graph.
            device: ``cuda`` or ``cpu``, as ONNX Runtime names it.
        """
        self._session = session
        self._signature = signature
        self._device = device
        self._rows = 0
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Upload, execute, download; see :class:`engines.backends.interface.GraphRunner`."""
        self.execute(inputs, {})
        return self.download()

    def execute(self, uploaded: Mapping[str, Array], resident: Mapping[str, Any]) -> None:
        """Run on inputs of which some are already on the device; outputs stay there until the next call.

        Args:
            uploaded: input -> (B, ...) on the host.
            resident: input -> a tensor on the device with the same B.
        """
        given = next(iter(uploaded.values()), None)
        rows = next(iter(resident.values())).shape()[0] if given is None else len(given)
        if rows != self._rows:
            self._allocate(rows)
        for name, value in uploaded.items():
            self._inputs[name].update_inplace(value)
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        for name, tensor in resident.items():
            self._binding.bind_ortvalue_input(name, tensor)
        self._session.run_with_iobinding(self._binding)

    def output(self, name: str) -> Any:
        """An output of the last :meth:`execute`, on the device."""
        return self._outputs[name]

    def download(self) -> dict[str, Array]:
        """Copies of all outputs of the last :meth:`execute`."""
        return {name: np.array(value.numpy(), np.float32) for name, value in self._outputs.items()}

    def _allocate(self, rows: int) -> None:
        self._inputs = {n: self._buffer(rows, s) for n, s in self._signature.inputs.items()}
        self._outputs = {n: self._buffer(rows, s) for n, s in self._signature.outputs.items()}
        self._binding = self._session.io_binding()
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._rows = rows

    def _buffer(self, rows: int, shape: tuple[int, ...]) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type([rows, *shape], np.float32, self._device, 0)


def tick_on_device(
    graphs: Mapping[str, Any], windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
) -> dict[str, Array]:
    """A tick in which evidence passes from the encoders to fuse without leaving the device.

    Args:
        graphs: graph -> :class:`DeviceGraph`.
        windows: modality -> (B, *window_shape), as for :meth:`engines.backends.interface.GraphRunner.run_tick`.
        evidence: modality -> (B, evidence_size) of the modalities without a window.
        presence: (B, M).
    """
    resident = {}
    for name, window in windows.items():
        encoder: DeviceGraph = graphs[f"encode_{name}"]
        encoder.execute({"window": window}, {})
        resident[f"evidence_{name}"] = encoder.output("evidence")
    fuse: DeviceGraph = graphs["fuse"]
    fuse.execute({"presence": presence, **{f"evidence_{n}": e for n, e in evidence.items()}}, resident)
    encoded = {n: np.array(value.numpy(), np.float32) for n, value in resident.items()}
    return fuse.download() | encoded
