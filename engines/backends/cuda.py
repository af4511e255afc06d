"""The little of the CUDA runtime that running an engine needs: a stream, device and page-locked memory, copies.

``cuda.bindings.runtime`` is imported when first used. Its functions return ``(error, *values)`` and never raise, so
every call goes through :func:`checked`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from engines.backends.interface import Array
from engines.errors import BackendUnavailableError, EngineError


@cache
def runtime() -> Any:
    """The CUDA runtime bindings.

    Raises:
        BackendUnavailableError: cuda-bindings is not installed, or the CUDA runtime library does not load.
    """
    try:
        from cuda.bindings import runtime as cudart
    except ModuleNotFoundError as e:
        raise BackendUnavailableError(
            "CUDA bindings are not installed: pip install 'afterimage[tensorrt-rtx]'"
        ) from e
    except (ImportError, OSError, RuntimeError) as e:
        raise BackendUnavailableError(f"CUDA bindings do not load: {str(e).splitlines()[0]}") from e
    return cudart


def checked(what: str, result: tuple[Any, ...]) -> Any:
    """The values of a CUDA call, or an error.

    Args:
        what: the call, for the message.
        result: what it returned, ``(error, *values)``.

    Returns:
        None, the one value, or the tuple of values.

    Raises:
        EngineError: the call failed; names the call and CUDA's error.
    """
    error, *values = result
    if int(error) != 0:
        raise EngineError(f"CUDA: {what} failed: {getattr(error, 'name', error)}")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def device_problem() -> str:
    """Why no GPU can be used here, in one line; empty if one can."""
    try:
        cudart = runtime()
    except BackendUnavailableError as e:
        return str(e)
    try:
        error, count = cudart.cudaGetDeviceCount()
    except RuntimeError as e:  # the bindings raise this where the CUDA library itself cannot be found
        return f"no NVIDIA GPU can be used: {str(e).splitlines()[0]}"
    if int(error) != 0:
        return f"no NVIDIA GPU can be used: {getattr(error, 'name', error)} (install an NVIDIA driver)"
    return "" if count else "no NVIDIA GPU is in this machine"


def device_capability() -> str:
    """Compute capability of the current GPU, as ``SM89``.

    Raises:
        EngineError: there is no usable GPU.
    """
    cudart = runtime()
    device = checked("cudaGetDevice", cudart.cudaGetDevice())
    attribute = cudart.cudaDeviceAttr
    major, minor = (
        checked("cudaDeviceGetAttribute", cudart.cudaDeviceGetAttribute(a, device))
        for a in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    )
    return f"SM{major}{minor}"


class Stream:
    """One CUDA stream."""

    def __init__(self) -> None:
        """Create the stream on the current device."""
        self.handle: Any = checked("cudaStreamCreate", runtime().cudaStreamCreate())

    def synchronize(self) -> None:
        """Wait until everything queued has run."""
        checked("cudaStreamSynchronize", runtime().cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        """Destroy the stream; idempotent."""
        if self.handle is not None:
            handle, self.handle = self.handle, None
            checked("cudaStreamDestroy", runtime().cudaStreamDestroy(handle))


class Buffer:
    """Device memory for one float32 tensor at the largest batch, and its page-locked twin on the host.

    Page-locked, because only such memory is copied asynchronously; allocated once, because allocation synchronises the
    device and would show up as jitter in a tick.
    """

    def __init__(self, batch: int, shape: tuple[int, ...]) -> None:
        """Allocate for ``(batch, *shape)``."""
        cudart = runtime()
        self._shape = shape
        self._row = int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float32).itemsize
        size = batch * self._row
        self.device: int | None = int(checked("cudaMalloc", cudart.cudaMalloc(size)))
        self._host: int | None = None
        try:
            self._host = int(checked("cudaMallocHost", cudart.cudaMallocHost(size)))
        except EngineError:
            self.close()
            raise
        flat = (ctypes.c_float * (size // 4)).from_address(self._host)
        self._array: Array = np.ctypeslib.as_array(flat).reshape(batch, *shape)

    def upload(self, values: Array, stream: Stream) -> None:
        """Queue a copy of ``(B, *shape)`` to the device."""
        cudart = runtime()
        rows = len(values)
        np.copyto(self._array[:rows], values)
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        call = cudart.cudaMemcpyAsync(self.device, self._host, rows * self._row, kind, stream.handle)
        checked("cudaMemcpyAsync to the device", call)

    def download(self, rows: int, stream: Stream) -> None:
        """Queue a copy of the first rows from the device; read them with :meth:`values` after synchronising."""
        cudart = runtime()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call = cudart.cudaMemcpyAsync(self._host, self.device, rows * self._row, kind, stream.handle)
        checked("cudaMemcpyAsync from the device", call)

    def values(self, rows: int) -> Array:
        """A copy of the first rows on the host, ``(rows, *shape)``."""
        return self._array[:rows].copy()

    def close(self) -> None:
        """Free both memories; idempotent. Arrays from :meth:`values` stay valid."""
        cudart = runtime()
        device, self.device = self.device, None
        host, self._host = self._host, None
        self._array = np.empty((0, *self._shape), np.float32)
        if host is not None:
            checked("cudaFreeHost", cudart.cudaFreeHost(host))
        if device is not None:
            checked("cudaFree", cudart.cudaFree(device))
