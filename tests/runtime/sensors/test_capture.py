"""Capture on sources that fail in every way that was reported of real ones."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from sensor_bench import sensor_of

from runtime.sensors.capture import Capture, CapturePolicy
from runtime.sensors.sample_source import (
    ARRIVAL,
    Delivery,
    EndOfSource,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
)

CAMERA = sensor_of("depth", {"kind": "plugin", "stall_s": 0.05}, sample_shape=(2, 2), rate_hz=100)
QUICK = CapturePolicy(read_s=0.01, hung_s=0.1, frozen_s=0.1, first_pause_s=0.001, longest_pause_s=0.01)


class Scripted:
    """A source whose every opening plays one script of reads, and ends after the last."""

    def __init__(self, *scripts: Iterator[Callable[[], SampleBlock | None]]) -> None:
        self.opened = self.closed = 0
        self._scripts = list(scripts)
        self._script: Iterator[Callable[[], SampleBlock | None]] = iter(())

    def open(self) -> Delivery:
        self.opened += 1
        if not self._scripts:
            raise EndOfSource
        self._script = self._scripts.pop(0)
        return Delivery((2, 2), "uint16", "mm", 100.0, description="script")

    def read(self, timeout_s: float) -> SampleBlock | None:
        for act in self._script:
            return act()
        raise EndOfSource

    def close(self) -> None:
        self.closed += 1


def image(level: int, gap: bool = False, shape: tuple[int, ...] = (2, 2)) -> Callable[[], SampleBlock]:
    def act() -> SampleBlock:
        time.sleep(0.004)
        return SampleBlock(np.full((1, *shape), level, np.uint16), time.monotonic_ns(), ARRIVAL, gap)

    return act


def nothing() -> None:
    time.sleep(0.01)


def lose(reason: str) -> Callable[[], None]:
    def act() -> None:
        raise SourceLostError(reason, f"because of {reason}")

    return act


@contextmanager
def logged() -> Iterator[list[str]]:
    """What is logged of sensors."""
    said: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("afterimage.sensors")
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def captured(
    *scripts: Iterator[Callable[[], SampleBlock | None]],
) -> tuple[list[SampleBlock], dict[str, Any], list[str]]:
    messages: list[SampleBlock] = []
    source = Scripted(*scripts)
    capture = Capture(CAMERA, source, messages.append, policy=QUICK)
    with logged() as said:
        capture.run(threading.Event())
    assert source.opened == source.closed
    return messages, capture.counts(), said


def images(start: int, count: int) -> Iterator[Callable[[], SampleBlock | None]]:
    return (image(n) for n in range(start, start + count))


def test_a_source_that_is_lost_is_opened_again_and_the_break_is_told() -> None:
    messages, counts, said = captured(
        itertools.chain(images(0, 3), [lose("disconnected")]),
        iter([lose("cannot_open")]),
        images(10, 2),
    )
    assert [int(m.array[0, 0, 0]) for m in messages] == [0, 1, 2, 10, 11]
    assert [m.gap for m in messages] == [False, False, False, True, False]
    assert counts["lost"] == {"disconnected": 1, "cannot_open": 1}
    assert counts["opened"] == 3
    assert counts["messages"] == 5
    assert said[0] == "depth: reads script, stamped by clock 'arrival'"
    assert said[1] == "depth: disconnected: because of disconnected; trying again"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda: itertools.chain(images(0, 3), itertools.repeat(nothing)), "stalled"),
        (lambda: itertools.chain(images(0, 3), itertools.repeat(image(7))), "frozen"),
        (lambda: iter([image(1), image(2, shape=(3, 3))]), "changed"),
    ],
)
def test_silence_old_images_and_other_images_are_noticed(script: Any, reason: str) -> None:
    messages, counts, _ = captured(script(), images(20, 1))
    assert counts["lost"] == {reason: 1}
    assert int(messages[-1].array[0, 0, 0]) == 20
    assert messages[-1].gap


def test_reads_that_return_at_once_with_old_buffers_are_noticed() -> None:
    at_once = (
        lambda n=n: SampleBlock(np.full((1, 2, 2), n % 1000, np.uint16), time.monotonic_ns())
        for n in range(2_000)
    )
    _, counts, _ = captured(at_once, images(0, 1))
    assert counts["lost"] == {"runaway": 1}


def test_a_gap_of_the_source_is_counted_and_handed_on() -> None:
    messages, counts, _ = captured(iter([image(0), image(1, gap=True), image(2)]))
    assert [m.gap for m in messages] == [False, True, False]
    assert counts["gaps"] == 1


def test_the_same_complaint_is_not_repeated_with_every_attempt() -> None:
    _, counts, said = captured(*[iter([lose("cannot_open")]) for _ in range(8)], images(0, 1))
    assert counts["lost"] == {"cannot_open": 8}
    assert len([s for s in said if "because" in s]) == 1


class Wrong:
    def open(self) -> Delivery:
        return Delivery((9, 9), "uint16", "mm", 100.0)

    def read(self, timeout_s: float) -> SampleBlock | None:
        raise AssertionError("read although refused")

    def close(self) -> None: ...


def test_a_source_that_cannot_feed_the_sensor_is_refused_at_once() -> None:
    with pytest.raises(SourceRefusedError, match="sample_shape"):
        Capture(CAMERA, Wrong(), lambda _: None).run(threading.Event())


def test_a_call_that_never_returns_is_overdue_for_the_watching_thread() -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait(20)

    stop = threading.Event()
    capture = Capture(CAMERA, Scripted(iter([image(0), hang])), lambda _: None, policy=QUICK)
    thread = threading.Thread(target=capture.run, args=(stop,), daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not capture.overdue and time.monotonic() < end:
        time.sleep(0.01)
    assert capture.overdue
    assert capture.counts()["messages"] == 1, "counts can be asked for while it hangs"
    stop.set()
    release.set()
    thread.join(5)
    assert not thread.is_alive()
