"""int8: chosen products of a graph as quantised ones, written as QuantizeLinear and DequantizeLinear around them.

Weights are symmetric per output channel, activations per tensor, from zero to the smallest and largest value that the
training windows of the bundle give. The whole range, because the networks are small: cutting off the rarest values
(percentiles, or the least squared error) was measured to cost more on other windows than finer steps gain.
ONNX Runtime's own quantiser writes the nodes; which products, and whether the result holds, is decided here.
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
    """What a backend wants of quantised products.

    Attributes:
        kinds: operators that it has integer kernels for.
        unsigned: activations as uint8 with a zero point, else int8 around zero.
        weight_bits: 8, or 7 where a sum of two products must fit 16 bits.
        results: whether the results of convolutions are quantised too, with a ReLU behind them folded in, and biases.
    """

    kinds: tuple[str, ...]
    unsigned: bool
    weight_bits: int
    results: bool


# ONNX Runtime fuses a convolution into an integer kernel only if its result is quantised too; it has none for
# transposed convolutions. Without VNNI, x86 adds pairs of products in 16 bits, which saturate unless weights keep to 7
# bits: measured, with 8 the error of whole encoders grew from 0.5 to 0.8 % to 3 to 6 %.
ONNXRUNTIME_CPU = QuantisedForm(("Conv", "Gemm", "MatMul"), unsigned=True, weight_bits=7, results=True)
# TensorRT wants int8 around zero, and float results and biases: it fuses what follows by itself.
TENSORRT = QuantisedForm(KINDS, unsigned=False, weight_bits=8, results=False)


class Quantisation:
    """Quantises products of one graph; see :class:`engines.compiling.product_choice.Rewriter`."""

    def __init__(self, model: Any, form: QuantisedForm, inputs: Mapping[str, Array]) -> None:
        """Find the ranges of all activations.

        Args:
            model: the graph.
            form: what the backend wants.
            inputs: windows or latents that the ranges are taken from, (B, ...) each.
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
        """The graph with the chosen products quantised; executed as it is written, it rounds as integers would."""
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
    """The smallest and largest value, widened to hold zero, which padding and ReLU need exactly."""
    return np.float32(values.min(initial=0)), np.float32(values.max(initial=0))
