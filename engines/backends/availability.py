"""Which backends this machine can build for and run; what ``afterimage doctor`` prints."""

from __future__ import annotations

from engines.backends.interface import BackendStatus


def available_backends() -> list[BackendStatus]:
    """Every backend, and whether it can build and run engines here; imports their libraries where installed.

    ONNX Runtime's CUDA provider has an entry of its own, ``onnxruntime-cuda``.
    """
    from engines.backends import onnxruntime, onnxruntime_cuda, tensorrt

    return [
        onnxruntime.status(),
        tensorrt.status("tensorrt-rtx"),
        tensorrt.status("tensorrt"),
        onnxruntime_cuda.status(),
    ]


def backend_status(backend: str, provider: str = "cpu") -> BackendStatus:
    """The status of one backend.

    Args:
        backend: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        provider: of ONNX Runtime, ``cpu`` or ``cuda``.

    Raises:
        KeyError: there is no such backend.
    """
    name = f"{backend}-cuda" if provider == "cuda" else backend
    found = {status.name: status for status in available_backends()}
    return found[name]
