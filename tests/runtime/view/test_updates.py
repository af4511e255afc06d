"""Updates: a browser gets what it does not have yet, once, and the newest of everything else."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from published import MS, NAMES, decision, observation, statistics

from runtime.rig import load_rig
from runtime.view.panes import PaneMaker
from runtime.view.state import ViewState
from runtime.view.updates import HISTOGRAM_EDGES_MS, UpdateMaker, latency_summary
from runtime.wire import HealthEvent

RIG = load_rig("commands-4")
KINDS = {s.modality: s.kind for s in RIG.sensors}


def read(message: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<I", message[:4])
    body: dict[str, Any] = json.loads(message[4 : 4 + length])
    assert len(message) == 4 + length + sum(p["bytes"] for p in body["panes"])
    return body


class Switches:
    def states(self) -> Mapping[str, str]:
        return {"rgb": "playing", "depth": "dropped"}

    def drop(self, modality: str) -> None: ...

    def restore(self, modality: str) -> None: ...


def test_nothing_known_is_said_plainly() -> None:
    body = read(UpdateMaker(RIG, PaneMaker(KINDS)).update(ViewState(RIG).snapshot(0)))
    assert (body["status"], body["silent_s"], body["now_s"]) == ("absent", None, None)
    assert "decision" not in body
    assert "switches" not in body


def test_history_is_sent_once_and_a_browser_that_was_away_gets_all_it_missed() -> None:
    state, updates = ViewState(RIG), UpdateMaker(RIG, PaneMaker(KINDS))
    state.add(decision(0, 0), 0)
    state.add(HealthEvent("commands-4", "depth", 0, "live", "missing", "silence", ""), 0)
    first = read(updates.update(state.snapshot(0)))
    assert first["rig"]["classes"] == ["stop", "go", "left", "right"]
    assert (len(first["points"]), len(first["events"])) == (1, 1)
    for tick in range(1, 400):
        state.add(decision(tick, tick * 50 * MS), tick * 50 * MS)
    second = read(updates.update(state.snapshot(20_000 * MS)))
    assert "rig" not in second
    assert (len(second["points"]), len(second["events"])) == (399, 0)
    assert second["points"][0][0] == 0.05
    assert read(updates.update(state.snapshot(20_000 * MS)))["points"] == []
    other = read(UpdateMaker(RIG, PaneMaker(KINDS)).update(state.snapshot(20_000 * MS)))
    assert len(other["points"]) == 400, "another browser has all of it from the start"


def test_panes_are_sent_when_they_changed_and_say_what_they_stand_on() -> None:
    state, updates = ViewState(RIG), UpdateMaker(RIG, PaneMaker(KINDS))
    state.add(decision(0, 0, ("depth",)), 0)
    for m in NAMES:
        state.add(observation(m, "best", imputed=m == "depth"), 0)
        state.add(observation(m, "imputed", imputed=True), 0)
    body = read(updates.update(state.snapshot(0)))
    assert len(body["panes"]) == 8
    imputed = {(p["modality"], p["stream"]) for p in body["panes"] if p["imputed"]}
    assert imputed == {("depth", "best"), *((m, "imputed") for m in NAMES)}
    assert body["sensors"]["depth"]["imputed"]
    assert not body["sensors"]["rgb"]["imputed"]
    assert read(updates.update(state.snapshot(0)))["panes"] == []
    state.add(observation("rgb", "best", at_ns=5), 5)
    assert [p["modality"] for p in read(updates.update(state.snapshot(5)))["panes"]] == ["rgb"]


def test_numbers_come_with_new_statistics_and_sums_twice_a_second() -> None:
    state, updates = ViewState(RIG), UpdateMaker(RIG, PaneMaker(KINDS))
    state.add(decision(0, 0), 0)
    state.add(statistics(1), 0)
    first = read(updates.update(state.snapshot(0)))
    assert first["numbers"]["total"]["unaccounted"] == 0
    assert first["numbers"]["stages_ms"]["fuse"]["p99"] == 4.0
    assert first["latency"]["lateness"]["p50"] == 1.0
    assert first["latency"]["frame_to_decision"]["p99"] == 20.0
    state.add(decision(1, 50 * MS), 50 * MS)
    second = read(updates.update(state.snapshot(50 * MS)))
    assert "numbers" not in second
    assert "latency" not in second
    state.add(decision(2, 600 * MS), 600 * MS)
    assert read(updates.update(state.snapshot(600 * MS)))["latency"]["lateness"]["count"] == 3


def test_a_node_started_again_is_introduced_again() -> None:
    state, updates = ViewState(RIG), UpdateMaker(RIG, PaneMaker(KINDS))
    state.add(decision(10, 0), 0)
    assert "rig" in read(updates.update(state.snapshot(0)))
    state.add(decision(0, 100 * MS), 100 * MS)
    again = read(updates.update(state.snapshot(100 * MS)))
    assert "rig" in again
    assert len(again["points"]) == 2


def test_switches_and_the_commentary_of_a_demo_are_passed_on() -> None:
    class Commentary:
        def at(self, node_ns: int) -> Mapping[str, str]:
            return {"truth": "go" if node_ns == MS else "stop"}

    state = ViewState(RIG)
    state.add(decision(0, 0), 0)
    body = read(UpdateMaker(RIG, PaneMaker(KINDS), Switches(), Commentary()).update(state.snapshot(0)))
    assert body["switches"] == {"rgb": "playing", "depth": "dropped"}
    assert body["commentary"] == {"truth": "go"}


def test_an_update_is_small_whatever_the_minute_held() -> None:
    state, updates = ViewState(RIG), UpdateMaker(RIG, PaneMaker(KINDS))
    for tick in range(2000):
        state.add(decision(tick, tick * 25 * MS), tick * 25 * MS)
    for m in NAMES:
        state.add(observation(m), 0)
        state.add(observation(m, "imputed", imputed=True), 0)
    assert len(updates.update(state.snapshot(50_000 * MS))) < 400_000
    state.add(decision(2000, 50_000 * MS), 50_000 * MS)
    for m in NAMES:
        state.add(observation(m, at_ns=1), 0)
        state.add(observation(m, "imputed", at_ns=1, imputed=True), 0)
    assert len(updates.update(state.snapshot(50_025 * MS))) < 64_000


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_latency_histogram_holds_every_value(count: int) -> None:
    values = np.abs(np.random.default_rng(0).normal(0, 300, count))
    summary = latency_summary(values)
    assert sum(summary["counts"]) == summary["count"] == count
    assert len(summary["counts"]) == len(HISTOGRAM_EDGES_MS)
    assert (summary["p50"] is None) == (count == 0)
