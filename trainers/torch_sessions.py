"""PyTorch, eager and compiled, behind the same session as the engines: what they are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import torch
from torch import Tensor

from engines.backends.interface import Array
from engines.bundle import Manifest
from engines.errors import EngineError
from engines.session import Session
from runtime.rig import Rig, load_rig
from trainers.checkpoint_evaluation import SystemRunner, load_system
from trainers.systems.base import System

Graph = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class _Shape:
    """The part of a source of signals that a system's shapes depend on."""

    rig: Rig
    classes: tuple[str, ...]


class TorchRunner(SystemRunner):
    """A system's graphs on the number of threads that PyTorch is set to, optionally through ``torch.compile``."""

    def __init__(self, system: System, *, compiled: bool) -> None:
        """Take a system; a graph is compiled on its first call, and again when the batch changes for the first time."""
        super().__init__(system)
        self._compiled = compiled
        self._graphs: dict[str, Graph] = {}

    @property
    def backend(self) -> str:
        """``pytorch-eager`` or ``pytorch-compiled``."""
        return "pytorch-compiled" if self._compiled else "pytorch-eager"

    @torch.inference_mode()
    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph by its name in the bundle.

        Raises:
            EngineError: PyTorch failed, or could not compile it.
        """
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        try:
            outputs = self._callable(graph)(tensors)
        except RuntimeError as e:
            lines = str(e).strip().splitlines() or [type(e).__name__]
            raise EngineError(f"graph {graph!r} failed in {self.backend}: {lines[0][:300]}") from e
        return {name: value.numpy() for name, value in outputs.items()}

    def _callable(self, graph: str) -> Graph:
        found = self._graphs.get(graph)
        if found is None:

            def call(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
                return self._run(graph, tensors)

            found = self._graphs[graph] = _compiled(call, graph) if self._compiled else call
        return found


def _compiled(call: FunctionType, graph: str) -> Graph:
    """The call through ``torch.compile``: compiled as a whole, or an error.

    Each graph gets a code object of its own. PyTorch keeps what it compiled by code object: graphs that share one would
    be told apart by guards on every call, and more than eight of them would silently run uncompiled.
    """
    code = call.__code__.replace(co_name=f"{call.__name__}_{graph}")
    own = FunctionType(code, call.__globals__, code.co_name, call.__defaults__, call.__closure__)
    return torch.compile(own, fullgraph=True)


def open_torch_session(checkpoint: Path, manifest: Manifest, *, compiled: bool, threads: int) -> Session:
    """A session over a checkpoint in PyTorch, with the manifest of the bundle that was exported from it.

    Args:
        checkpoint: of the training run.
        manifest: of its bundle.
        compiled: through ``torch.compile`` (inductor) instead of eager.
        threads: that PyTorch may use, in this whole process.

    Raises:
        CheckpointError: not a checkpoint, or of a system that is built differently now.
        RigError: the bundle's rig is not a shipped one.
    """
    torch.set_num_threads(threads)
    system, _ = load_system(checkpoint, _Shape(load_rig(manifest.rig), manifest.classes))
    return Session(manifest, TorchRunner(system, compiled=compiled))
