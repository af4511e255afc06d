"""Which backends this machine can build for and run; what ``afterimage doctor`` prints."""

from __future__ import annotations

from engines.backends.interface import BackendStatus


def available_backends() -> list[BackendStatus]:
    """Every backend, and whether it can build and run engines here; imports their libraries where installed."""
    from engines.backends import onnxruntime, tensorrt

    return [onnxruntime.status(), tensorrt.status("tensorrt-rtx"), tensorrt.status("tensorrt")]
