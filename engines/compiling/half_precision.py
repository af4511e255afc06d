"""fp16 and bf16: chosen products of a graph get operands and results of 16 bits, written as plain ONNX with casts.

Any strongly typed backend follows casts. The rounding is emulated on the CPU, so choosing products needs no GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.interface import Array
from engines.compiling.weight_products import (
    KINDS,
    activations,
    copied,
    inner_values,
    onnx_module,
    products,
    replace_nodes,
    weights,
)

_FLOAT32_BITS = 24


@dataclass(frozen=True)
class HalfFormat:
    """A floating-point format of 16 bits.

    Attributes:
        name: the precision.
        onnx_type: name of its type in ``onnx.TensorProto``.
        significand_bits: bits of its significand, with the hidden one.
        largest: limit for operands and results on the example inputs, far below the format's largest number.
        kinds: operators that backends have kernels for.
    """

    name: str
    onnx_type: str
    significand_bits: int
    largest: float
    kinds: tuple[str, ...]

    @property
    def splitter(self) -> float:
        """Veltkamp's constant: multiplying by it and subtracting twice leaves ``significand_bits``."""
        return 2.0 ** (_FLOAT32_BITS - self.significand_bits) + 1.0


# fp16 ends at 65504. The example inputs are only a sample, so operands stay a factor of 32 below that. bf16 has the
# range of float32; there only the splitter of the emulation must not overflow. TensorRT-RTX 1.7 builds no transposed
# convolution in bf16.
FP16 = HalfFormat("fp16", "FLOAT16", 11, 2048.0, KINDS)
BF16 = HalfFormat("bf16", "BFLOAT16", 8, 2.0**100, ("Conv", "Gemm", "MatMul"))


class HalfPrecision:
    """Puts products of one graph into a format of 16 bits; see :class:`engines.compiling.product_choice.Rewriter`."""

    def __init__(self, model: Any, half: HalfFormat, inputs: Mapping[str, Array]) -> None:
        """Find the products whose operands and results stay far from the format's largest number.

        Args:
            model: the graph.
            half: the format.
            inputs: example inputs, (B, ...) each.
        """
        self._model = model
        self._half = half
        nodes = {n.output[0]: n for n in products(model)}
        constant = weights(model)
        tensors = {p: activations(model, n) for p, n in nodes.items()}
        values = inner_values(model, (t for of in tensors.values() for t in of), inputs)
        operands = {
            p: [*(values[t] for t in tensors[p]), *(constant[i] for i in n.input if i in constant)]
            for p, n in nodes.items()
        }
        self.products = len(nodes)
        self.candidates = [
            p
            for p, of in operands.items()
            if nodes[p].op_type in half.kinds and all(np.abs(v).max(initial=0) <= half.largest for v in of)
        ]

    def rewrite(self, chosen: Collection[str]) -> bytes:
        """The graph for the backend: casts around the chosen products, their weights stored in 16 bits."""
        onnx = onnx_module()
        to, back = getattr(onnx.TensorProto, self._half.onnx_type), onnx.TensorProto.FLOAT

        def cast(source: str, target: str, kind: int) -> list[Any]:
            return [onnx.helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=kind)]

        return self._with(
            chosen,
            before=lambda source, target: cast(source, target, to),
            after=lambda source, target: cast(source, target, back),
            weight=self._stored,
        )

    def emulate(self, chosen: Collection[str]) -> bytes:
        """The graph in float32, rounded as the format would, for ONNX Runtime on the CPU.

        Casts would not do: ONNX Runtime has no 16-bit kernels there and removes pairs of casts from a graph, and the
        rounding with them.
        """
        onnx = onnx_module()

        def rounding(source: str, target: str) -> list[Any]:
            node, large, rest = onnx.helper.make_node, f"{target}/large", f"{target}/rest"
            return [
                node("Mul", [source, "half/splitter"], [large], name=large),
                node("Sub", [large, source], [rest], name=rest),
                node("Sub", [large, rest], [target], name=f"{target}/rounded"),
            ]

        splitter = onnx.numpy_helper.from_array(np.float32(self._half.splitter), "half/splitter")
        return self._with(
            chosen,
            before=rounding,
            after=rounding,
            weight=lambda name, value: onnx.numpy_helper.from_array(self._rounded(value), name),
            extra=[splitter],
        )

    def _with(
        self, chosen: Collection[str], *, before: Any, after: Any, weight: Any, extra: Collection[Any] = ()
    ) -> bytes:
        """The graph with nodes before and after the chosen products, and their weights replaced."""
        result = copied(self._model)
        constant = weights(self._model)
        result.graph.initializer.extend(extra)
        converted: set[str] = set()
        nodes = []
        for node in result.graph.node:
            if node.output[0] not in chosen:
                nodes.append(node)
                continue
            for position, name in enumerate(node.input):
                if not name:
                    continue
                replaced = node.input[position] = f"{name}/half"
                if replaced in converted:
                    continue
                converted.add(replaced)
                if name in constant:
                    result.graph.initializer.append(weight(replaced, constant[name]))
                else:
                    nodes.extend(before(name, replaced))
            output = node.output[0]
            node.output[0] = f"{output}/half_result"
            nodes.append(node)
            nodes.extend(after(node.output[0], output))
        replace_nodes(result, nodes)
        content: bytes = result.SerializeToString()
        return content

    def _rounded(self, value: Array) -> Array:
        """Float32 numbers rounded to the format."""
        if self._half is FP16:
            return value.astype(np.float16).astype(np.float32)
        return (bfloat16_bits(value).astype(np.uint32) << 16).view(np.float32)

    def _stored(self, name: str, value: Array) -> Any:
        """A tensor of the format."""
        onnx = onnx_module()
        if self._half is FP16:
            return onnx.numpy_helper.from_array(value.astype(np.float16), name)
        kind = onnx.TensorProto.BFLOAT16
        return onnx.helper.make_tensor(
            name, kind, value.shape, bfloat16_bits(value).astype("<u2").tobytes(), raw=True
        )


def bfloat16_bits(value: Array) -> npt.NDArray[np.uint16]:
    """Finite float32 numbers as bfloat16, rounded to the nearest, ties to even; numpy has no such type."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    half: npt.NDArray[np.uint16] = (rounded >> 16).astype(np.uint16)
    return half.reshape(np.shape(value))
