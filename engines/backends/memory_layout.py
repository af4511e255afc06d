"""The layout of a submission's tensors in one block of memory, so that few copies move many tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

# TensorRT requires every tensor's address to be a multiple of this.
ALIGNMENT = 256
_ITEM_SIZE = 4


@dataclass(frozen=True)
class Layout:
    """The places of float32 tensors with a given number of rows, one after another in the order they were named.

    Attributes:
        shapes: tensor -> (rows, *shape).
        starts: tensor -> first byte, a multiple of :data:`ALIGNMENT`.
        stops: tensor -> one past its last byte.
        size: bytes that all of them take.
    """

    shapes: Mapping[str, tuple[int, ...]]
    starts: Mapping[str, int]
    stops: Mapping[str, int]
    size: int

    def spans(self, names: Collection[str]) -> tuple[tuple[int, int], ...]:
        """The fewest byte ranges that hold the named tensors and no other tensor."""
        spans: list[tuple[int, int]] = []
        adjacent = False
        for name, start in self.starts.items():
            if name in names:
                first = spans.pop()[0] if adjacent else start
                spans.append((first, self.stops[name]))
            adjacent = name in names
        return tuple(spans)

    def cover(self, names: Collection[str]) -> tuple[int, int]:
        """The byte range from the first of the named tensors to the last, including all that lies between them."""
        return min(self.starts[n] for n in names), max(self.stops[n] for n in names)


def lay_out(tensors: Mapping[str, tuple[int, ...]], rows: int) -> Layout:
    """Give every tensor its place.

    Args:
        tensors: name -> shape without the batch axis.
        rows: batch size.
    """
    starts: dict[str, int] = {}
    stops: dict[str, int] = {}
    end = 0
    for name, shape in tensors.items():
        starts[name] = end
        stops[name] = end + rows * math.prod(shape) * _ITEM_SIZE
        end = -(-stops[name] // ALIGNMENT) * ALIGNMENT
    return Layout({n: (rows, *s) for n, s in tensors.items()}, starts, stops, end)
