"""Properties of the pipeline that hold whatever happens to it, in whatever order, while its clock does not run back.

:class:`~checked_pipeline.CheckedPipeline` is a pipeline that checks them after every call; :mod:`pipeline_stories`
generates the calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from checked_pipeline import ALL, plain
from hypothesis import given, settings
from pipeline_bench import EVIDENCE_SIZE, SECOND, START, bench_manifest
from pipeline_stories import COMPARED, REPEATABLE, RIGS, STORIES, tell

from runtime.core.pipeline import Pipeline, Received, TickPlan


@pytest.mark.parametrize("rig", RIGS)
@REPEATABLE
@given(actions=STORIES)
def test_whatever_happens_every_call_keeps_the_promises_of_the_pipeline(
    rig: str, actions: list[tuple[str, str, int]]
) -> None:
    story = tell(RIGS[rig], actions)
    for queue in deques_in(story.pipeline):
        assert len(queue) <= 1024 if queue is story.pipeline._events else 400


@pytest.mark.parametrize("rig", RIGS)
@settings(REPEATABLE, max_examples=6)
@given(actions=STORIES)
def test_the_same_calls_give_the_same_answers_again(rig: str, actions: list[tuple[str, str, int]]) -> None:
    checked = tell(RIGS[rig], actions).pipeline
    again = Pipeline(RIGS[rig], bench_manifest(), START, compare=COMPARED)
    for name in ALL:
        again.set_blank_evidence(name, np.full(EVIDENCE_SIZE, -1, np.float32))
    for (call, given_before), before in zip(checked.calls, checked.results, strict=True):
        now = getattr(again, call)(*given_before)
        if isinstance(now, TickPlan):
            now = plain(now)
        elif isinstance(now, Received):
            now = "received"
        elif call == "due_windows":
            now = [(d.modality, d.capture_ns, d.window.tobytes()) for d in now]
        assert now == before, call
    assert again.counters() == checked.counters()


@pytest.mark.parametrize("rig", RIGS)
@settings(REPEATABLE, max_examples=6)
@given(actions=STORIES)
def test_after_anything_good_sensors_are_live_again(rig: str, actions: list[tuple[str, str, int]]) -> None:
    """No fault is for ever: with steady sensors, honest clocks and a working engine, everything comes back."""
    story = tell(RIGS[rig], actions)
    story.silent, story.spoil, story.encode = set(), {}, True
    story.pipeline.contrary = False
    story.offset.clear()
    story.delay_ns = dict.fromkeys(ALL, 0)
    story.now += 4000 * SECOND  # beyond any stamp that was accepted meanwhile
    story.catch_up()
    story.sequence = {m: n + 10 for m, n in story.sequence.items()}
    story.run(4.0)
    assert story.pipeline.states == dict.fromkeys(ALL, "live")


def deques_in(value: Any, seen: set[int] | None = None) -> Iterator[deque[Any]]:
    """Every deque that an object of the core holds, at any depth."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, str | bytes | int | float | type | None | np.ndarray):
        return
    seen.add(id(value))
    if isinstance(value, deque):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from deques_in(v, seen)
    elif type(value).__module__.startswith("runtime.core") or isinstance(value, Pipeline):
        for name in (*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())):
            yield from deques_in(getattr(value, name), seen)
