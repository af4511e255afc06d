"""The choice of a graph's products for a precision below fp32, by measured error instead of the names of layers.

Only products (convolutions and matrix products with weights) of encoders and decoders change precision; everything else
(spectra, logarithms, covariances, fusion) stays in float32. A product is chosen if the graph's outputs stay within a
tolerance on example inputs, both with its own rounding and with that of all chosen products together. The rounding is
measured on the CPU, so the choice needs no GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from engines.backends.interface import Array
from engines.compiling.half_precision import BF16, FP16, HalfPrecision
from engines.compiling.parity import THRESHOLDS, relative_error
from engines.compiling.quantization import ONNXRUNTIME_CPU, TENSORRT, Quantisation
from engines.compiling.weight_products import onnx_module, parsed, run
from engines.errors import CompileError
from engines.targets import Target


class Rewriter(Protocol):
    """Rewrites one graph for one precision."""

    products: int
    candidates: list[str]

    def rewrite(self, chosen: Collection[str]) -> bytes:
        """The graph for the backend, with these products in the precision."""
        ...

    def emulate(self, chosen: Collection[str]) -> bytes:
        """The same rounding, as a graph that ONNX Runtime executes on the CPU as it is written."""
        ...


@dataclass(frozen=True)
class GraphExamples:
    """Example inputs of a graph and their outputs, by which its products are chosen.

    Attributes:
        inputs: input -> (B, ...); int8 also takes its ranges from them.
        expected: output -> (B, ...), in float32.
    """

    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class ReducedGraph:
    """A rewritten graph; its inputs and outputs are still float32.

    Attributes:
        model: serialized ONNX for the backend.
        emulation: serialized ONNX that rounds in the same way when ONNX Runtime executes it unoptimised on the CPU.
        products: convolutions and matrix products with weights in the graph.
        reduced: how many of them are in the precision.
        error: max|a - b| / max|b| of the outputs on the examples, measured with the emulation.
    """

    model: bytes
    emulation: bytes
    products: int
    reduced: int
    error: float


def tolerance(target: Target) -> float:
    """Largest error that the chosen products may cause in a graph's outputs: half of what parity allows.

    The other half is for the device, which adds in another order than the CPU.
    """
    return THRESHOLDS[target.precision] / 2


class ProductChoice:
    """Which products of a graph go into a target's precision, for any tolerance."""

    def __init__(self, graph: str, source: bytes, target: Target, examples: GraphExamples) -> None:
        """Measure the error of every product alone.

        Args:
            graph: its name, for messages.
            source: serialized ONNX.
            target: precision and backend.
            examples: inputs and outputs to measure with.

        Raises:
            BackendUnavailableError: onnx is not installed.
            CompileError: the graph cannot be read or run.
        """
        self._graph = graph
        self._examples = examples
        onnx_module()
        from google.protobuf.message import DecodeError

        from engines.backends.onnxruntime import FAILURES, first_line

        try:
            self._rewriter = _rewriter(source, target, examples.inputs)
            self._alone = {p: self._error(self._rewriter.emulate([p])) for p in self._rewriter.candidates}
        except (DecodeError, *FAILURES) as e:
            raise CompileError(
                f"graph {graph!r}: cannot be put into {target.precision}: {first_line(e)}"
            ) from e

    def within(self, tolerance: float) -> ReducedGraph:
        """The graph with as many products reduced as a tolerance allows."""
        alone = self._alone
        chosen = sorted((p for p in alone if alone[p] <= tolerance), key=lambda p: alone[p])
        emulation = self._rewriter.emulate(chosen)
        while not (error := self._error(emulation)) <= tolerance and chosen:
            chosen.pop()  # the product with the largest error of its own
            emulation = self._rewriter.emulate(chosen)
        model = self._rewriter.rewrite(chosen)
        return ReducedGraph(model, emulation, self._rewriter.products, len(chosen), error)

    def _error(self, model: bytes) -> float:
        expected = self._examples.expected
        values = run(model, self._examples.inputs, list(expected))
        return max(relative_error(values[name], value) for name, value in expected.items())


def _rewriter(source: bytes, target: Target, inputs: Mapping[str, Array]) -> Rewriter:
    model = parsed(source)
    if target.precision == "int8":
        form = ONNXRUNTIME_CPU if target.backend == "onnxruntime" else TENSORRT
        return Quantisation(model, form, inputs)
    return HalfPrecision(model, FP16 if target.precision == "fp16" else BF16, inputs)
