"""Windows: on the hop, newest first, never across a gap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.bundle import ModalitySpec
from runtime.core.windows import WindowBuffer


def spec(kind: str = "audio", *, window: int = 10, hop: int = 4, **changes: Any) -> ModalitySpec:
    fields: dict[str, Any] = {
        "name": "m", "kind": kind, "sample_shape": (), "dtype": "int16", "unit": "pcm16", "rate_hz": 1000,
        "window": window, "hop": hop, "observation_shape": (1,), "observation_unit": "x", "evidence_size": 1,
        "latent_size": 1,
    }  # fmt: skip
    return ModalitySpec(**(fields | changes))


def count(buffer: WindowBuffer, start: int, stop: int) -> None:
    """Append samples whose values are their own positions, captured one per millisecond."""
    buffer.append(np.arange(start, stop, dtype=np.int16), stop * 1_000_000)


def test_first_window_is_due_when_it_is_complete() -> None:
    buffer = WindowBuffer(spec(), 8)
    count(buffer, 0, 8)
    assert buffer.cut() is None
    count(buffer, 8, 10)
    cut = buffer.cut()
    assert cut is not None
    assert cut.window.tolist() == list(range(10))
    assert (cut.start, cut.end, cut.capture_ns) == (0, 10, 10_000_000)
    assert buffer.cut() is None


def test_the_next_window_is_due_one_hop_later_and_its_time_is_that_of_its_newest_sample() -> None:
    buffer = WindowBuffer(spec(), 8)
    count(buffer, 0, 8)
    count(buffer, 8, 13)
    assert buffer.cut() is not None
    count(buffer, 13, 16)
    cut = buffer.cut()
    assert cut is not None
    assert cut.window.tolist() == list(range(4, 14))
    # It ends inside the message captured at 16 ms, two samples before its end.
    assert cut.capture_ns == 14_000_000


def test_latest_wins_and_superseded_windows_are_counted() -> None:
    buffer = WindowBuffer(spec(), 8)
    for start in range(0, 24, 8):
        count(buffer, start, start + 8)
    cut = buffer.cut()
    assert cut is not None
    assert (cut.end, cut.superseded) == (22, 3)


def test_a_window_never_bridges_a_restart() -> None:
    buffer = WindowBuffer(spec(), 8)
    count(buffer, 0, 8)
    buffer.restart()
    count(buffer, 8, 16)
    assert buffer.cut() is None
    count(buffer, 16, 18)
    cut = buffer.cut()
    assert cut is not None
    assert cut.window.tolist() == list(range(8, 18))


def test_an_image_window_drops_its_time_axis() -> None:
    buffer = WindowBuffer(spec("depth", window=1, hop=1, sample_shape=(2, 3), dtype="uint16"), 4)
    buffer.append(np.arange(12, dtype=np.uint16).reshape(2, 2, 3), 5)
    cut = buffer.cut()
    assert cut is not None
    assert cut.window.tolist() == [[6, 7, 8], [9, 10, 11]]
    assert cut.superseded == 1


def test_a_cut_window_does_not_change_when_the_buffer_moves_on() -> None:
    buffer = WindowBuffer(spec(), 8)
    count(buffer, 0, 8)
    count(buffer, 8, 10)
    cut = buffer.cut()
    assert cut is not None
    for start in range(10, 100, 5):
        count(buffer, start, start + 5)
    assert cut.window.tolist() == list(range(10))


def test_a_message_longer_than_agreed_is_refused() -> None:
    with pytest.raises(ValueError, match="9 samples, the buffer takes 8"):
        count(WindowBuffer(spec(), 8), 0, 9)


@given(
    window=st.integers(1, 30),
    hop=st.integers(1, 40),
    steps=st.lists(st.tuples(st.integers(1, 12), st.sampled_from("acr")), max_size=120),
)
def test_every_window_is_the_contiguous_samples_that_its_positions_say(
    window: int, hop: int, steps: list[tuple[int, str]]
) -> None:
    buffer, run_start, ends = WindowBuffer(spec(window=window, hop=hop), 12), 0, []
    for size, action in steps:
        total = buffer.total
        count(buffer, total, total + size)
        if action == "r":
            buffer.restart()
            run_start = buffer.total
        if action == "c" and (cut := buffer.cut()) is not None:
            assert cut.window.tolist() == list(range(cut.start, cut.end))
            assert cut.end - cut.start == window
            assert cut.start >= run_start
            assert (cut.start - run_start) % hop == 0
            assert buffer.total - cut.end < hop
            assert cut.capture_ns == cut.end * 1_000_000
            ends.append(cut.end)
    assert ends == sorted(set(ends))
