"""What every backend offers to a session: named graphs, run by name on float32 arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can build and run engines on this machine.

    Attributes:
        name: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        can_build: an engine can be compiled here.
        can_run: an engine can be executed here.
        reason: why not, in one line; empty if it can do both.
        version: version of its library, empty if that is not installed.
    """

    name: str
    can_build: bool
    can_run: bool
    reason: str
    version: str


class GraphRunner(Protocol):
    """The graphs of one bundle, loaded on one backend."""

    @property
    def backend(self) -> str:
        """Name of the backend."""
        ...

    @property
    def maximum_batch(self) -> int | None:
        """Largest batch that the engine was built for, or None if any will do."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph on C-contiguous float32 inputs that share their first (batch) axis.

        Returns:
            every output of the graph by name, float32, not aliased to buffers of the backend.

        Raises:
            EngineError: the library failed; the message names the graph.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds; idempotent."""
        ...
