"""A whole tick as one submission, captured as a CUDA graph where the library and the GPU allow it.

Encoders write their evidence where fuse reads it. The tensors lie in the order windows, presence, evidence, outputs of
fuse, so that few copies are needed: to the device one for each group of adjacent due windows and one for presence and
given evidence, and one back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from engines.backends.cuda import CapturedWork
from engines.backends.interface import Array
from engines.backends.memory_layout import Layout, lay_out
from engines.backends.tensorrt_engine import Context, Engine
from engines.backends.tensorrt_submission import Device, Execution, Submission
from engines.errors import EngineError

CAPTURED = "cuda graph"
STREAM = "stream"

# How many ticks are kept prepared. A runtime ticks at batch 1 with any set of due modalities: 64 is all sets of six
# modalities. Larger batches are for evaluation and benchmarks, which use a few sets and sizes.
SINGLE_TICKS = 64
LARGER_TICKS = 8

_LOG = logging.getLogger("afterimage.engines.tensorrt")


@dataclass
class _PreparedTick:
    """One set of due modalities at one batch size.

    Attributes:
        submission: its work.
        has_run: it has run once uncaptured, so the library has done all that it puts off to the first run.
        captured: the same work as a CUDA graph.
    """

    submission: Submission
    has_run: bool = False
    captured: CapturedWork | None = None


class Ticks:
    """Runs ticks on the engines of one bundle.

    A set of due modalities at a batch size runs uncaptured the first time, is captured the second time, and is launched
    as a CUDA graph from then on. Captured work keeps the addresses and shapes of its recording, so it has contexts of
    its own, one per graph and batch size, that nothing else binds; they share scratch memory. After the first failure
    to capture, this runner captures no more. Sets and sizes beyond the bounds run uncaptured.

    Attributes:
        submission: ``cuda graph`` or ``stream``: what ticks within the bounds are, or will be, submitted as.
    """

    def __init__(self, engines: Mapping[str, Engine], device: Device) -> None:
        """Prepare nothing yet; ticks are prepared and captured when they are needed."""
        self.submission = CAPTURED
        self._engines = engines
        self._device = device
        self._tensors = tick_tensors(engines)
        self._modalities = _modalities(engines)
        self._ticks: dict[tuple[tuple[str, ...], int], _PreparedTick] = {}
        self._layouts: dict[int, Layout] = {}
        self._contexts: dict[tuple[str, int], tuple[Context, Mapping[str, int]]] = {}

    def run(
        self, windows: Mapping[str, Array], evidence: Mapping[str, Array], presence: Array
    ) -> dict[str, Array]:
        """One tick; see :class:`engines.backends.interface.GraphRunner`."""
        if unknown := sorted((windows.keys() | evidence.keys()) - set(self._modalities)):
            raise EngineError(f"tick: unknown modalities {unknown}; this bundle has {list(self._modalities)}")
        tick = self._prepared(tuple(m for m in self._modalities if m in windows), len(presence))
        tick.submission.fill(
            {
                "presence": presence,
                **{f"window_{m}": w for m, w in windows.items()},
                **{f"evidence_{m}": e for m, e in evidence.items()},
            }
        )
        if tick.captured is None:
            tick.submission.run()
            tick.has_run = True
        else:
            tick.captured.launch(self._device.stream)
            self._device.stream.synchronize()
        return tick.submission.results()

    def close(self) -> None:
        """Destroy the CUDA graphs, then the contexts whose work they hold; idempotent."""
        for tick in self._ticks.values():
            if tick.captured is not None:
                tick.captured.close()
        self._ticks.clear()
        for context, _ in self._contexts.values():
            context.close()
        self._contexts.clear()

    def _prepared(self, due: tuple[str, ...], rows: int) -> _PreparedTick:
        """The tick of a set and batch size, captured if it has run before."""
        tick = self._tick(due, rows)
        if not tick.has_run or tick.captured is not None or self.submission != CAPTURED:
            return tick
        stream = self._device.stream
        try:
            for execution in tick.submission.executions:
                if not execution.context.capturable(stream):
                    raise EngineError(f"graph {execution.engine.name!r} cannot be captured")
            tick.captured = CapturedWork(stream, tick.submission.enqueue)
        except EngineError as e:
            _LOG.warning("ticks run without a CUDA graph, somewhat slower: capture failed: %s", str(e))
            self.submission = STREAM
            # A context that failed half-way through an execution must not run another.
            self.close()
            return self._tick(due, rows)
        return tick

    def _tick(self, due: tuple[str, ...], rows: int) -> _PreparedTick:
        """The tick of a set and batch size; within the bounds it is kept, beyond them it is made for this time only."""
        tick = self._ticks.get((due, rows))
        if tick is not None:
            return tick
        singles = sum(r == 1 for _, r in self._ticks)
        lasting = singles < SINGLE_TICKS if rows == 1 else len(self._ticks) - singles < LARGER_TICKS
        tick = _PreparedTick(self._compose(due, rows, lasting))
        if lasting:
            self._ticks[due, rows] = tick
        return tick

    def _compose(self, due: tuple[str, ...], rows: int, lasting: bool) -> Submission:
        layout = self._layouts.get(rows) or lay_out(self._tensors, rows)
        if lasting:
            self._layouts[rows] = layout
        encoded = [f"evidence_{m}" for m in due]
        given = [f"evidence_{m}" for m in self._modalities if m not in due]
        windows = [f"window_{m}" for m in due]
        outputs = [*self._engines["fuse"].signature.outputs, *encoded]
        graphs = [*(f"encode_{m}" for m in due), "fuse"]
        return Submission(
            self._device,
            layout,
            tuple(self._execution(g, layout, rows, lasting) for g in graphs),
            inputs=[*windows, "presence", *given],
            outputs=outputs,
            # The given evidence may have gaps that encoders overwrite later, so one copy across all of it is safe.
            uploads=(*layout.spans(windows), layout.cover(["presence", *given])),
            downloads=(layout.cover(outputs),),
        )

    def _execution(self, graph: str, layout: Layout, rows: int, lasting: bool) -> Execution:
        engine, device = self._engines[graph], self._device
        if not lasting:
            context = engine.shared_context(rows, device.scratch, device.stream)
            return Execution(engine, context, rows, self._addresses(graph, layout))
        if (graph, rows) not in self._contexts:
            context = engine.own_context(rows, device.scratch, device.stream)
            self._contexts[graph, rows] = context, self._addresses(graph, layout)
        return Execution(engine, self._contexts[graph, rows][0], rows, self._contexts[graph, rows][1])

    def _addresses(self, graph: str, layout: Layout) -> dict[str, int]:
        signature = self._engines[graph].signature
        places = {name: name for name in (*signature.inputs, *signature.outputs)}
        if graph != "fuse":
            modality = graph.removeprefix("encode_")
            places = {"window": f"window_{modality}", "evidence": f"evidence_{modality}"}
        return {name: self._device.tensors.address(layout.starts[p]) for name, p in places.items()}


def tick_tensors(engines: Mapping[str, Engine]) -> dict[str, tuple[int, ...]]:
    """The tensors of a tick in the order of their places: windows, presence, evidence, outputs of fuse."""
    fuse, modalities = engines["fuse"].signature, _modalities(engines)
    return {
        **{f"window_{m}": engines[f"encode_{m}"].signature.inputs["window"] for m in modalities},
        "presence": fuse.inputs["presence"],
        **{f"evidence_{m}": fuse.inputs[f"evidence_{m}"] for m in modalities},
        **fuse.outputs,
    }


def _modalities(engines: Mapping[str, Engine]) -> tuple[str, ...]:
    prefix = "evidence_"
    inputs = engines["fuse"].signature.inputs
    return tuple(n.removeprefix(prefix) for n in inputs if n.startswith(prefix))
