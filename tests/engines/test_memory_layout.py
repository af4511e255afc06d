"""Layouts: every tensor has its place, and few byte ranges hold many of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engines.backends.memory_layout import ALIGNMENT, lay_out

SHAPES = st.dictionaries(st.text("abcdef", min_size=1), st.lists(st.integers(1, 40), max_size=3).map(tuple))


@given(SHAPES, st.integers(1, 9))
def test_places_are_aligned_large_enough_and_apart(tensors, rows):
    layout = lay_out(tensors, rows)
    end = 0
    for name, shape in tensors.items():
        count = rows
        for size in shape:
            count *= size
        assert layout.shapes[name] == (rows, *shape)
        assert layout.starts[name] % ALIGNMENT == 0
        assert layout.starts[name] >= end
        end = layout.stops[name]
        assert end == layout.starts[name] + 4 * count
    assert end <= layout.size < end + ALIGNMENT


@given(SHAPES, st.integers(1, 9), st.data())
def test_spans_hold_the_named_tensors_and_no_other(tensors, rows, data):
    layout = lay_out(tensors, rows)
    names = data.draw(st.sets(st.sampled_from(sorted(tensors))) if tensors else st.just(set()))
    spans = layout.spans(names)
    for name in tensors:
        inside = [a <= layout.starts[name] and layout.stops[name] <= b for a, b in spans]
        outside = [b <= layout.starts[name] or layout.stops[name] <= a for a, b in spans]
        assert sum(inside) == (name in names)
        assert all(a != b for a, b in zip(inside, outside, strict=True))
    if names:
        assert layout.cover(names) == (spans[0][0], spans[-1][1])


def test_neighbours_share_a_span():
    layout = lay_out({"a": (3,), "b": (64,), "c": (), "d": (1,)}, 1)
    assert layout.spans(["a", "b", "d"]) == ((0, 512), (768, 772))
    assert layout.spans([]) == ()
