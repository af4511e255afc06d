"""The part of the CUDA runtime that running an engine needs: a stream, memory, copies, captured work.

``cuda.bindings.runtime`` is imported when first used. Its functions return ``(error, *values)`` and never raise, so
every call goes through :func:`checked`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
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
        # CUDA keeps it as the thread's last error, and libraries would mistake it for an error of their own next call.
        runtime().cudaGetLastError()
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


def device_name() -> str:
    """Name and compute capability of the current GPU as one word for a path, such as ``nvidia-l4-sm89``.

    Raises:
        EngineError: there is no usable GPU.
    """
    cudart = runtime()
    device = checked("cudaGetDevice", cudart.cudaGetDevice())
    name = checked("cudaGetDeviceProperties", cudart.cudaGetDeviceProperties(device)).name
    words = re.findall(r"[a-z0-9]+", name.split(b"\0")[0].decode(errors="replace").lower())
    return "-".join([*words, device_capability().lower()])


class Stream:
    """One CUDA stream.

    It does not synchronise with the legacy default stream, so that work of other libraries there can neither delay a
    tick nor break a capture.
    """

    def __init__(self) -> None:
        """Create the stream on the current device."""
        cudart = runtime()
        created = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
        self.handle: Any = checked("cudaStreamCreateWithFlags", created)

    def synchronize(self) -> None:
        """Wait until everything queued has run."""
        checked("cudaStreamSynchronize", runtime().cudaStreamSynchronize(self.handle))

    def close(self) -> None:
        """Destroy the stream; idempotent."""
        if self.handle is not None:
            handle, self.handle = self.handle, None
            checked("cudaStreamDestroy", runtime().cudaStreamDestroy(handle))


class CapturedWork:
    """An executable CUDA graph: work that was recorded on a stream instead of run, and is launched as a whole.

    Addresses, sizes and shapes stay those of the recording, so inputs go into the same host memory before each launch.
    """

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        """Record what ``enqueue`` queues on the stream, without running it.

        Raises:
            EngineError: some of the work cannot be captured. The capture has ended, and the stream can be used again.
        """
        cudart = runtime()
        # Thread-local mode: unsafe calls of this thread end the recording, calls of other threads (allocation, say) do
        # not.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked("cudaStreamBeginCapture", cudart.cudaStreamBeginCapture(stream.handle, mode))
        try:
            enqueue()
        except BaseException:
            self._abandon(stream)
            raise
        graph = checked("cudaStreamEndCapture", cudart.cudaStreamEndCapture(stream.handle))
        self._executable: Any = None
        try:
            self._executable = checked("cudaGraphInstantiate", cudart.cudaGraphInstantiate(graph, 0))
            # Uploaded now, so that the first launch does not have to.
            checked("cudaGraphUpload", cudart.cudaGraphUpload(self._executable, stream.handle))
        except EngineError:
            self.close()
            raise
        finally:
            checked("cudaGraphDestroy", cudart.cudaGraphDestroy(graph))

    def launch(self, stream: Stream) -> None:
        """Queue the recorded work."""
        checked("cudaGraphLaunch", runtime().cudaGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Destroy the executable graph; idempotent. It must not be running."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            checked("cudaGraphExecDestroy", runtime().cudaGraphExecDestroy(executable))

    @staticmethod
    def _abandon(stream: Stream) -> None:
        """End a recording that failed, whatever state it is in."""
        cudart = runtime()
        error, graph = cudart.cudaStreamEndCapture(stream.handle)
        if int(error) == 0 and int(graph) != 0:
            cudart.cudaGraphDestroy(graph)
        cudart.cudaGetLastError()


class DeviceMemory:
    """Memory on the device.

    Attributes:
        size: in bytes.
        address: 0 once freed.
    """

    def __init__(self, size: int) -> None:
        """Allocate ``size`` bytes, aligned to at least 256."""
        self.size = size
        self.address = int(checked("cudaMalloc", runtime().cudaMalloc(size)))

    def close(self) -> None:
        """Free it; idempotent."""
        if self.address:
            address, self.address = self.address, 0
            checked("cudaFree", runtime().cudaFree(address))


class MirroredMemory:
    """Device memory and page-locked host memory of the same size, with copies of byte ranges between the two.

    The host memory is page-locked, because only such memory can be copied asynchronously and in captured work. Both are
    allocated once, because allocation synchronises the device and would show up as jitter in a tick.
    """

    def __init__(self, size: int) -> None:
        """Allocate ``size`` bytes on both sides."""
        self._device = DeviceMemory(size)
        self._host = 0
        try:
            self._host = int(checked("cudaMallocHost", runtime().cudaMallocHost(size)))
        except BaseException:
            self.close()
            raise
        self._bytes = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._host))

    def address(self, start: int) -> int:
        """Device address of a byte."""
        return self._device.address + start

    def array(self, start: int, shape: tuple[int, ...]) -> Array:
        """A float32 array over the host side, from a byte on. It must not be used after :meth:`close`."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float32).itemsize
        return self._bytes[start : start + size].view(np.float32).reshape(shape)

    def upload(self, start: int, stop: int, stream: Stream) -> None:
        """Queue a copy of bytes ``start`` to ``stop`` to the device."""
        cudart = runtime()
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        to, source = self.address(start), self._host + start
        call = cudart.cudaMemcpyAsync(to, source, stop - start, kind, stream.handle)
        checked("cudaMemcpyAsync to the device", call)

    def download(self, start: int, stop: int, stream: Stream) -> None:
        """Queue a copy of bytes ``start`` to ``stop`` from the device."""
        cudart = runtime()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        to, source = self._host + start, self.address(start)
        call = cudart.cudaMemcpyAsync(to, source, stop - start, kind, stream.handle)
        checked("cudaMemcpyAsync from the device", call)

    def close(self) -> None:
        """Free both sides; idempotent."""
        host, self._host = self._host, 0
        self._bytes = np.empty(0, np.uint8)
        if host:
            checked("cudaFreeHost", runtime().cudaFreeHost(host))
        self._device.close()
