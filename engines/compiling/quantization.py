"""int8: chosen products of a graph are quantised, written as QuantizeLinear and DequantizeLinear around them.

Weights are quantised symmetrically per output channel. Activations are quantised per tensor; their range is zero and
all values on the training windows of the bundle. The networks are small, so the whole range is used: clipping the
rarest values (by percentiles or least squared error) was measured to lose more on other windows than the finer steps
gain. ONNX Runtime's own quantiser writes the nodes; this package decides which products to quantise and checks the
result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.backends.interface import Array
from engines.compiling.weight_products import KINDS, activations, copied, inner_values, products


@dataclass(frozen=True)
class QuantisedForm:
    """The form in which a backend takes quantised products.

    Attributes:
        kinds: operators for which it has integer kernels.
        unsigned: activations are uint8 with a zero point, else int8 around zero.
        weight_bits: 8, or 7 if a sum of two products must fit into 16 bits.
        results: the results of convolutions are quantised too, with a following ReLU folded in, and so are biases.
    """

    kinds: tuple[str, ...]
    unsigned: bool
    weight_bits: int
    results: bool


# ONNX Runtime fuses a convolution into an integer kernel only if its result is quantised too, and has no such kernel
# for transposed convolutions. Without VNNI, x86 adds pairs of products in 16 bits, which saturate unless weights have
# only 7 bits: with 8 bits, the measured error of whole encoders was 3 to 6 % instead of 0.5 to 0.8 %.
ONNXRUNTIME_CPU = QuantisedForm(("Conv", "Gemm", "MatMul"), unsigned=True, weight_bits=7, results=True)
# TensorRT takes int8 around zero with float results and biases, and fuses the following operators itself.
TENSORRT = QuantisedForm(KINDS, unsigned=False, weight_bits=8, results=False)


class Quantisation:
    """Quantises products of one graph; see :class:`engines.compiling.product_choice.Rewriter`."""

    def __init__(self, model: Any, form: QuantisedForm, inputs: Mapping[str, Array]) -> None:
        """Find the ranges of all activations.

        Args:
            model: the graph.
            form: what the backend takes.
            inputs: windows or latents from which the ranges are taken, (B, ...) each.
        """
        self._model = model
        self._form = form
        nodes = products(model)
        self.products = len(nodes)
        self.candidates = [n.output[0] for n in nodes if n.op_type in form.kinds]
        self._rectifiers = {n.input[0]: n.name for n in model.graph.node if n.op_type == "Relu"}
        tensors = {t for n in nodes for t in activations(model, n)} | set(self._rectifiers.values())
        self._ranges = {t: _range(v) for t, v in inner_values(model, sorted(tensors), inputs).items()}

    def rewrite(self, chosen: Collection[str]) -> bytes:
        """The graph with the chosen products quantised; executed unoptimised, it rounds as integer kernels do."""
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

        form = self._form
        nodes = list(chosen)
        if form.results:
            nodes += [self._rectifiers[p] for p in chosen if p in self._rectifiers]
        if not nodes:
            return bytes(self._model.SerializeToString())
        quantiser = QDQQuantizer(
            copied(self._model),
            True,  # weights per channel
            form.weight_bits == 7,
            QuantType.QInt8,
            QuantType.QUInt8 if form.unsigned else QuantType.QInt8,
            TensorsData(CalibrationMethod.MinMax, dict(self._ranges)),
            nodes,
            [],
            [*form.kinds, "Relu"],
            {
                "WeightSymmetric": True,
                "ActivationSymmetric": not form.unsigned,
                "QuantizeBias": form.results,
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"] if form.results else list(KINDS),
            },
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()
        content: bytes = quantiser.model.model.SerializeToString()
        return content

    emulate = rewrite


def _range(values: Array) -> tuple[np.float32, np.float32]:
    """The smallest and largest value; always includes zero, which padding and ReLU need to be exact."""
    return np.float32(values.min(initial=0)), np.float32(values.max(initial=0))
