"""One table of faults of the transport, each over real sockets into a whole node: counted, told, and harmless."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faulty_sensors import FAULTY_MESSAGES, FaultySensors
from running_node import RunningNode

from benchmarks.virtual_node import stream_faults
from benchmarks.virtual_node.catalogue import Play, fault_named
from benchmarks.virtual_node.ledger import SensorLedger
from engines.opening import open_session
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, HealthEvent, Observation, Output


@dataclass(frozen=True)
class Row:
    """One fault: what is sent, and what must come of it.

    Attributes:
        fault: of the catalogue.
        states: pattern of the states RGB goes through from the fault on, a blank after each; it ends live.
        reason: of the first event after the fault; empty for any.
        ranges: counter -> (least, most), where it depends on when messages come.
    """

    fault: Play
    states: str
    reason: str = ""
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)


# What depends on real time and threads. Every fault, of every kind of sensor, is in the table in virtual time.
TABLE = {
    "drop-some": Row(fault_named("drop some").play, ""),
    "silence": Row(fault_named("drop all").play, "missing live ", "silence"),
    "delay": Row(partial(stream_faults.delay, seconds=0.6), "late live ", "capture_age"),
    # One of the first four may wait in the buffer when the fifth comes, and goes with it.
    "freeze": Row(fault_named("freeze").play, "frozen live ", "identical", {"frozen": (35, 39)}),
    # Two stamps are refused before the third proves a set clock; more where messages come unevenly. The fault may
    # begin and end between two ticks, and is then counted but not told: states are judged at ticks and windows.
    "clock-ahead-an-hour": Row(
        fault_named("clock an hour ahead").play,
        "(bad_clock live ){0,2}",
        "future",
        dict.fromkeys(("backward", "future", "restarts", "clock_reanchored"), (2, 20)),
    ),
    "refused-in-every-way": Row(fault_named("refused in every way").play, "missing live ", "refused"),
}


TOPICS = ("fused", "health", "best/rgb")


def all_live(message: Output) -> bool:
    return isinstance(message, Decision) and all(message.presence.values())


def rests_on_rgb_after(message: Output, moment_ns: int) -> bool:
    """Whether a decision stands on a picture captured after a moment."""
    if not isinstance(message, Decision) or not moment_ns or not message.presence["rgb"]:
        return False
    age_ms = message.modalities["rgb"].age_ms
    return age_ms is not None and message.published_ns - age_ms * 1e6 > moment_ns + 1e8


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_fault_of_the_transport_is_told_counted_and_costs_nobody_else(
    name: str, images_bundle: Path, cameras: Rig, endpoints: Endpoints
) -> None:
    row = TABLE[name]
    with (
        open_session(images_bundle) as session,
        RunningNode(Node(cameras, session, endpoints), TOPICS) as watched,
        FaultySensors(cameras, endpoints.frames, row.fault, seed=sorted(TABLE).index(name)) as sensors,
    ):
        watched.read_until(all_live, "all live")
        begin = len(watched.messages)
        sensors.begin_fault()
        watched.read_until(lambda m: rests_on_rgb_after(m, sensors.ended_ns), f"RGB live after {name}")
        statistics = watched.stop()
    # The start may be told after the first decision that rests on it.
    changes = [e for e in watched.of(HealthEvent, begin) if e.reason != "started"]
    events = [e for e in changes if e.modality == "rgb"]
    assert re.fullmatch(row.states, "".join(e.state + " " for e in events)), events
    assert not events or not row.reason or events[0].reason == row.reason
    assert events == changes, "depth had no part in it"
    check_published(watched)
    check_counted(statistics["messages"], sensors.rgb.ledger, row.ranges)
    assert statistics["errors"] == {}


def check_published(watched: RunningNode) -> None:
    """Decisions go on, say what they rest on, and nothing imputed is passed off as measured."""
    decisions = watched.of(Decision)
    ticks = [d.tick for d in decisions]
    assert ticks == sorted(set(ticks))
    counters = watched.statistics["messages"]["ticks"]
    assert ticks[-1] - ticks[0] + 1 - len(ticks) <= counters["missed"], "a gap in the ticks is a missed tick"
    for d in decisions:
        for modality, report in d.modalities.items():
            assert d.presence[modality] == report.weight == float(report.state == "live")
            assert report.imputed == (report.state != "live")
    by_tick = {d.tick: d for d in decisions}
    for o in watched.of(Observation):
        assert o.sources == (("rgb",) if not o.imputed else tuple(m for m in o.sources if m != "rgb"))
        if o.tick in by_tick:
            assert o.imputed == by_tick[o.tick].modalities["rgb"].imputed


def check_counted(counters: dict[str, Any], ledger: SensorLedger, ranges: dict[str, tuple[int, int]]) -> None:
    """Every injected fault is found again in its counter, and nothing else is counted."""
    assert counters["unaccounted"] == 0
    mine = counters["modalities"]["rgb"]
    found = mine["dropped"] | {k: mine[k] for k in ("lost", "restarts", "clock_reanchored")}
    injected = {reason.value: count for reason, count in ledger.dropped.items()} | {
        "lost": ledger.lost,
        "restarts": ledger.restarts,
        "clock_reanchored": ledger.reanchored,
    }
    for counter in (found.keys() | injected.keys() | ranges.keys()) - {"superseded"}:
        least, most = ranges.get(counter, (injected.get(counter, 0),) * 2)
        assert least <= found.get(counter, 0) <= most, (counter, found, injected)
    assert set(counters["modalities"]["depth"]["dropped"]) <= {"superseded"}
    assert counters["modalities"]["depth"]["lost"] == 0
    assert counters["unattributed"]["received"] == 0


def test_a_sensor_at_a_hundred_times_its_rate_starves_nobody(
    images_bundle: Path, cameras: Rig, endpoints: Endpoints
) -> None:
    with (
        open_session(images_bundle) as session,
        RunningNode(Node(cameras, session, endpoints), TOPICS) as watched,
        FaultySensors(cameras, endpoints.frames, partial(stream_faults.flood, times=100)) as sensors,
    ):
        watched.read_until(all_live, "all live")
        begin = len(watched.messages)
        sensors.begin_fault()
        watched.read_until(lambda m: rests_on_rgb_after(m, sensors.ended_ns), "RGB live after the flood")
        sensors.stop()
        received_before = -1
        while (received := watched.node.statistics()["messages"]["received"]) != received_before:
            received_before = received
            time.sleep(0.3)
        statistics = watched.stop()
    check_published(watched)
    counters = statistics["messages"]
    mine = counters["modalities"]["rgb"]
    assert counters["unaccounted"] == 0
    # A queue that is full drops the newest, and the numbers tell: each of the flood's is received or lost. What the
    # queues dropped after the last message that was accepted is known to nobody.
    sent = sensors.rgb.ledger.sent
    assert mine["received"] <= sent
    assert 0 <= sent - mine["received"] - mine["lost"] <= 512
    assert mine["received"] > 10 * FAULTY_MESSAGES
    depth = [e for e in watched.of(HealthEvent, begin) if e.modality == "depth" and e.reason != "started"]
    assert depth == [] or sensors.held_up_s > 0.1, depth
    assert counters["modalities"]["depth"]["lost"] == 0
    assert counters["ticks"]["missed"] <= 2 or sensors.held_up_s > 0.1
