"""A submission of work to the GPU: upload, executions and download on one stream, with one wait at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from engines.backends.cuda import DeviceMemory, MirroredMemory, Stream
from engines.backends.interface import Array
from engines.backends.memory_layout import Layout
from engines.backends.tensorrt_engine import Context, Engine
from engines.errors import EngineError

Span = tuple[int, int]


@dataclass(frozen=True)
class Device:
    """Stream and memory that all submissions of a runner share.

    Sharing is safe, because a submission begins by uploading all that it reads and ends when its results are on the
    host.

    Attributes:
        stream: where everything is queued.
        tensors: memory for inputs and outputs.
        scratch: memory in which engines work.
    """

    stream: Stream
    tensors: MirroredMemory
    scratch: DeviceMemory


@dataclass(frozen=True)
class Execution:
    """One engine in a submission.

    Attributes:
        engine: the engine, which also saves its kernels.
        context: the context that runs it.
        rows: batch size.
        addresses: tensor of the graph -> device address.
    """

    engine: Engine
    context: Context
    rows: int
    addresses: Mapping[str, int]

    def enqueue(self, stream: Stream) -> None:
        """Bind the context and queue one execution."""
        self.context.bind(self.rows, self.addresses)
        self.context.enqueue(stream)


class Submission:
    """A fixed sequence of copies and executions for one batch size; it can run any number of times."""

    def __init__(
        self,
        device: Device,
        layout: Layout,
        executions: tuple[Execution, ...],
        *,
        inputs: Collection[str],
        outputs: Collection[str],
        uploads: tuple[Span, ...],
        downloads: tuple[Span, ...],
    ) -> None:
        """Put a submission together.

        Args:
            device: where it runs.
            layout: of all tensors.
            executions: in their order.
            inputs: tensors that :meth:`run` is given.
            outputs: tensors that it returns.
            uploads: byte ranges of the layout that hold the inputs.
            downloads: byte ranges that hold the outputs.
        """
        self.executions = executions
        self._device = device
        self._uploads = uploads
        self._downloads = downloads
        arrays = {n: device.tensors.array(layout.starts[n], layout.shapes[n]) for n in (*inputs, *outputs)}
        self._inputs = {n: arrays[n] for n in inputs}
        self._outputs = {n: arrays[n] for n in outputs}

    def fill(self, values: Mapping[str, Array]) -> None:
        """Copy the inputs into page-locked memory.

        Raises:
            EngineError: an input is lacking.
        """
        for name, array in self._inputs.items():
            value = values.get(name)
            if value is None:
                raise EngineError(f"input {name!r} is lacking; got {sorted(values)}")
            np.copyto(array, value)

    def enqueue(self) -> None:
        """Queue everything."""
        stream, tensors = self._device.stream, self._device.tensors
        for start, stop in self._uploads:
            tensors.upload(start, stop, stream)
        for execution in self.executions:
            execution.enqueue(stream)
        for start, stop in self._downloads:
            tensors.download(start, stop, stream)

    def run(self) -> None:
        """Queue everything and wait for it.

        Raises:
            EngineError: CUDA or the library failed. The work queued before that has finished, so the memory can be
                used again.
        """
        try:
            self.enqueue()
        finally:
            self._device.stream.synchronize()
        for execution in self.executions:
            execution.engine.keep_kernels(execution.rows)

    def results(self) -> dict[str, Array]:
        """Copies of the outputs."""
        return {name: array.copy() for name, array in self._outputs.items()}
