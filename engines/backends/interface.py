"""The interface of every backend: named graphs that run on float32 arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


GRAPH_BY_GRAPH = "graph by graph"
"""A tick as one call of the backend per graph."""


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

    @property
    def tick_submission(self) -> str:
        """How a tick is handed to the backend: ``cuda graph``, ``stream``, or ``graph by graph``."""
        ...

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph on C-contiguous float32 inputs that share their first (batch) axis.

        Returns:
            every output of the graph by name, float32, not aliased to buffers of the backend.

        Raises:
            EngineError: the library failed; the message names the graph.
        """
        ...

    def run_tick(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """Encode the windows that are due, and fuse their evidence with that of the other modalities.

        A backend that can submit all of this as one unit of work does so; the others call :func:`encode_then_fuse`.

        Args:
            windows: modality -> (B, *window_shape), of the modalities that are due.
            evidence: modality -> (B, evidence_size), of *all* other modalities; zeros where absent.
            presence: (B, M) of 0 and 1.

        Returns:
            every output of ``fuse`` by name, and ``evidence_<m>`` of every window; not aliased to buffers of the
            backend.

        Raises:
            EngineError: the library failed.
        """
        ...

    def close(self) -> None:
        """Free what the backend holds; idempotent."""
        ...


def encode_then_fuse(
    runner: GraphRunner, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
) -> dict[str, Array]:
    """:meth:`GraphRunner.run_tick` as a sequence of graphs, for backends that cannot submit it as a whole."""
    encoded = {
        f"evidence_{m}": runner.run(f"encode_{m}", {"window": w})["evidence"] for m, w in windows.items()
    }
    given = {f"evidence_{m}": e for m, e in evidence.items()}
    return runner.run("fuse", {**given, **encoded, "presence": presence}) | encoded
