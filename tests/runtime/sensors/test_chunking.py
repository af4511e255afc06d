from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sensor_bench import sensor_of

from runtime.sensors.chunking import Chunker
from runtime.sensors.sample_source import ARRIVAL, SampleBlock

SENSOR = sensor_of("eeg", {"kind": "synthetic"}, sample_shape=(1,), rate_hz=1000, chunk=8)


def samples(first: int, count: int, gap: bool = False) -> SampleBlock:
    """Samples numbered from ``first``; number n was captured at n + 1 milliseconds."""
    array = np.arange(first, first + count, dtype=np.float32)[:, None]
    return SampleBlock(array, (first + count) * 1_000_000, ARRIVAL, gap)


@given(st.lists(st.integers(1, 40), max_size=30))
def test_messages_hold_the_samples_in_order_each_with_the_time_of_its_newest(sizes: list[int]) -> None:
    chunker, n, messages = Chunker(SENSOR), 0, []
    for size in sizes:
        messages += list(chunker.cut(samples(n, size)))
        n += size
    assert len(messages) == n // 8
    for number, message in enumerate(messages):
        assert message.array.ravel().tolist() == list(range(8 * number, 8 * number + 8))
        assert message.capture_ns == 8 * (number + 1) * 1_000_000
        assert not message.gap
    assert chunker.discarded == 0


def test_what_is_left_over_when_samples_were_lost_is_thrown_away_and_told() -> None:
    chunker = Chunker(SENSOR)
    assert list(chunker.cut(samples(0, 5))) == []
    first, second = chunker.cut(samples(100, 18, gap=True))
    assert first.array[0, 0] == 100
    assert (first.gap, second.gap) == (True, False)
    assert chunker.discarded == 5
    chunker.reset()
    assert chunker.discarded == 7
    (third,) = chunker.cut(samples(200, 8))
    assert third.gap


def test_only_a_block_that_is_one_message_keeps_its_number() -> None:
    chunker = Chunker(SENSOR)
    whole, half = replace(samples(0, 8), number=5), replace(samples(8, 4), number=6)
    assert [m.number for m in chunker.cut(whole)] == [5]
    assert [m.number for m in chunker.cut(replace(samples(8, 16), number=6))] == [None, None]
    assert list(chunker.cut(half)) == []
    assert [m.number for m in chunker.cut(replace(samples(12, 8), number=7))] == [None]
