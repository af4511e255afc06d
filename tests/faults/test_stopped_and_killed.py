"""SIGKILL, and SIGSTOP for a while, of every process: sensor, node, recorder, reader and page; and a slow engine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_sensors import FaultySensors
from process_under_test import ProcessUnderTest, afterimage, node_command
from running_node import Reading, RunningNode

from engines.errors import EngineError
from engines.opening import open_session
from runtime.client import Client
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.sensors.supervisor import Supervisor
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, HealthEvent

BOTH = {"rgb", "depth"}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["SIGSTOP", "SIGKILL"])
def test_a_sensor_that_is_held_up_or_killed_is_missing_until_it_is_back(
    number: signal.Signals, images_bundle: Path, cameras: Rig, endpoints: Endpoints
) -> None:
    with (
        open_session(images_bundle) as session,
        Supervisor(cameras, endpoints.frames, together=True) as sensors,
        RunningNode(Node(cameras, session, endpoints)) as reading,
    ):
        sensors.start()
        reading.read_live(BOTH)
        begin = len(reading.messages)
        pid = sensors.pid("rgb")
        if number == signal.SIGKILL:
            sensors.kill("rgb")
        else:
            os.kill(pid, number)
        reading.read_live({"depth"})
        if number == signal.SIGKILL:
            sensors.restart("rgb")
        else:
            os.kill(pid, signal.SIGCONT)
        back = reading.read_live(BOTH)
        reading.read_live(BOTH, after_tick=back.tick)
        states = reading.changes("rgb", begin)
    # What a stopped sensor captured before it was stopped may come late when it goes on.
    assert states[0] == ("missing", "silence")
    assert states[-1] == ("live", "recovered")
    assert {s for s, _ in states} <= {"missing", "late", "live"}
    # Late on a starved machine, and told; never missing.
    assert "missing" not in dict(reading.changes("depth", begin))
    counters = reading.statistics["messages"]
    assert counters["unaccounted"] == 0
    # A sensor held up for less than a second sends what it missed; a killed one begins where the plan is.
    assert number == signal.SIGSTOP or counters["modalities"]["rgb"]["lost"] > 0
    assert counters["modalities"]["depth"]["lost"] == 0


def test_a_node_that_is_held_up_misses_its_ticks_and_finds_sensors_whose_messages_wait_live(
    images_bundle: Path, cameras: Rig, cameras_file: str, endpoints: Endpoints
) -> None:
    with (
        ProcessUnderTest(node_command(images_bundle, cameras_file, endpoints)) as node,
        FaultySensors(cameras, endpoints.frames) as sensors,
        Reading(cameras, endpoints.decisions) as reading,
    ):
        before = reading.read_live(BOTH)
        begin = len(reading.messages)
        sensors.held_up_s = 0.0
        stopped_ns = time.monotonic_ns()
        node.hold_up(2.0)
        first = reading.read_live(BOTH, after_tick=before.tick + 30)
        reading.read_live(BOTH, after_tick=first.tick + 20)
        states = {m: reading.changes(m, begin) for m in ("rgb", "depth")}
        decisions = reading.of(Decision, begin)
    assert [d.tick for d in decisions] == sorted({d.tick for d in decisions})
    assert reading.client.lost >= 30, "missed ticks leave gaps, they are not caught up"
    assert not any(state == "missing" for each in states.values() for state, _ in each), states
    # A tick that was under way when the node was stopped is still published, and of the time before.
    first = next(d for d in decisions if d.deadline_ns > stopped_ns + 1e9)
    absent = {m: report for m, report in first.modalities.items() if report.state != "live"}
    print("after SIGCONT of the node:", states, absent, f"held up {sensors.held_up_s:.3f} s")
    # Sockets hold less than 2 s of pictures, the rest waits in the sensors' process, and the node gives them all 20 ms
    # to come. Where a thread that is due waits half as long for a core, they may not be there in time: late, and told.
    assert not absent or sensors.held_up_s > 0.01
    assert {report.reason for report in absent.values()} <= {"capture_age"}


@pytest.mark.parametrize("where", ["before it asks its sockets", "after it asked them", "while it waits"])
def test_wherever_in_its_loop_a_node_is_held_up_its_sensors_stay_live(
    where: str, images_bundle: Path, cameras: Rig, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed = threading.Event()

    def held_up(name: str) -> None:
        if name == where and armed.is_set():
            armed.clear()
            time.sleep(2)

    with (
        open_session(images_bundle) as session,
        RunningNode(Node(cameras, session, endpoints)) as running,
        FaultySensors(cameras, endpoints.frames) as sensors,
    ):
        sockets = running.node._sockets
        poll, wait = sockets.poll, sockets.wait

        def slow_poll(clock: Any) -> Any:
            held_up("before it asks its sockets")
            found = poll(clock)
            held_up("after it asked them")
            return found

        def slow_wait(remaining_ns: int) -> None:
            wait(remaining_ns)
            held_up("while it waits")

        monkeypatch.setattr(sockets, "poll", slow_poll)
        monkeypatch.setattr(sockets, "wait", slow_wait)
        before = running.read_states(rgb="live", depth="live")
        begin = len(running.messages)
        armed.set()
        running.read_until(lambda m: isinstance(m, Decision) and m.tick > before.tick + 60)
    assert running.statistics["messages"]["ticks"]["missed"] >= 35
    events = [e for e in running.of(HealthEvent, begin) if e.reason != "started"]
    # Where the sensors' own thread waits for a core, what they held back may not be there in time.
    assert not events or sensors.held_up_s > 0.1, events


def test_a_killed_node_that_is_started_again_goes_on_with_the_sensors_that_never_stopped(
    images_bundle: Path, cameras: Rig, cameras_file: str, endpoints: Endpoints, tmp_path: Path
) -> None:
    path = tmp_path / "statistics.json"
    command = node_command(images_bundle, cameras_file, endpoints, "--json", path)
    with (
        Supervisor(cameras, endpoints.frames, together=True) as sensors,
        Reading(cameras, endpoints.decisions) as reading,
    ):
        with ProcessUnderTest(command) as killed:
            killed.wait_for("decisions ipc://")
            start_ns = sensors.start()
            # So far that a decision of the next node is known by its number.
            reading.read_live(BOTH, after_tick=60)
            killed.end(signal.SIGKILL, codes=[-signal.SIGKILL])
            killed_ns = time.monotonic_ns()
        # What it sent before is still on its way.
        reading.read_what_waits(1.0)
        last = max(reading.of(Decision), key=lambda d: d.published_ns)
        assert last.published_ns < killed_ns
        lost = reading.client.lost
        begin = len(reading.messages)
        assert not path.exists()
        for endpoint in (endpoints.frames, endpoints.decisions):
            assert Path(endpoint.removeprefix("ipc://")).is_socket(), "left by the killed one"
        with ProcessUnderTest(command) as again:
            again.wait_for("decisions ipc://")
            away_s = (time.monotonic_ns() - killed_ns) / 1e9
            reading.read_live(BOTH)
            reading.read_live(BOTH, after_tick=20)
            lost = reading.client.lost - lost
            again.end(signal.SIGINT)
        sensors.check()
        ended_ns = time.monotonic_ns()
        published = sensors.stop()
    decisions = reading.of(Decision, begin)
    assert decisions[0].tick < last.tick, "it counts its ticks anew"
    statistics = json.loads(path.read_text())
    counters = statistics["messages"]
    assert counters["unaccounted"] == 0
    assert counters["ticks"]["published"] + counters["ticks"]["missed"] <= 20 * statistics["seconds"] + 1
    assert lost <= counters["ticks"]["missed"]
    for modality in BOTH:
        # One process that played to the end, and never waited for a node that was not there.
        (counts,) = published[modality]["processes"]
        assert counts["source"]["overrun"] == 0
        assert counts["published"] >= (ended_ns - start_ns) / 1e9 * 30 - 10
        mine = counters["modalities"][modality]
        # Numbers that went on are no loss. While no node is there a sensor keeps 256 messages, 8.5 s of them.
        assert mine["lost"] == 0 or away_s > 8
        assert mine["restarts"] == 0
        assert set(mine["dropped"]) <= {"superseded"}
        # It counts anew: what was sent since, and at most a second's worth that was on its way to the killed one.
        assert 0 < mine["received"] <= (ended_ns - killed_ns) / 1e9 * 30 + 30


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["SIGSTOP", "SIGKILL"])
@pytest.mark.parametrize("reader", ["recorder", "terminal", "page"])
def test_what_reads_may_hang_or_die_and_the_node_does_not_notice(
    reader: str,
    number: signal.Signals,
    images_bundle: Path,
    cameras: Rig,
    cameras_file: str,
    endpoints: Endpoints,
    tmp_path: Path,
) -> None:
    path = tmp_path / "session.mcap"
    options = ["--rig", cameras_file, "--endpoint", endpoints.decisions]
    command = {
        "recorder": afterimage("record", path, *options),
        "terminal": afterimage("watch", "--json", *options),
        "page": afterimage("watch", "--no-browser", "--port", 0, *options),
    }[reader]
    with (
        open_session(images_bundle) as session,
        FaultySensors(cameras, endpoints.frames) as sensors,
        RunningNode(Node(cameras, session, endpoints)) as reading,
        ProcessUnderTest(command) as process,
    ):
        if reader == "recorder":
            process.wait_for_file(path, 300_000)
        else:
            process.wait_for("live page" if reader == "page" else '"decision"')
        reading.read_what_waits()
        before = reading.read_live(BOTH)
        begin = len(reading.messages)
        lost = reading.client.lost
        process.send_signal(number)
        reading.read_live(BOTH, after_tick=before.tick + 30)
        lost = reading.client.lost - lost
        if number == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.1)
            assert process.code is None
        states = {m: reading.changes(m, begin) for m in ("rgb", "depth")}
    # A starved machine makes sensors late by itself, and it is told; otherwise nothing may be.
    assert states == {"rgb": [], "depth": []} or sensors.held_up_s > 0.1, states
    assert reading.statistics["messages"]["unaccounted"] == 0
    assert lost <= reading.statistics["messages"]["ticks"]["missed"]
    if reader == "recorder" and number == signal.SIGKILL:
        from runtime.record.reader import read_recording

        assert sum(m.topic.startswith("frame/") for m in read_recording(path)) > 5


def test_a_reader_that_never_reads_costs_itself_alone(
    images_bundle: Path, cameras: Rig, endpoints: Endpoints
) -> None:
    with (
        open_session(images_bundle) as session,
        FaultySensors(cameras, endpoints.frames),
        Client(cameras, ("fused", "best/", "imputed/"), endpoint=endpoints.decisions, queue=1) as slow,
        RunningNode(Node(cameras, session, endpoints)) as reading,
    ):
        before = reading.read_live(BOTH)
        reading.read_live(BOTH, after_tick=before.tick + 60)
        assert slow.receive(5) is not None, "it reads on when it wants to"
    assert reading.client.lost <= reading.statistics["messages"]["ticks"]["missed"]
    assert reading.statistics["messages"]["unaccounted"] == 0


@pytest.mark.parametrize("call", ["encode", "fuse"])
@pytest.mark.parametrize("fault", ["raises", "takes-2-s"])
def test_an_engine_call_that_raises_or_hangs(
    call: str,
    fault: str,
    images_bundle: Path,
    cameras: Rig,
    endpoints: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    armed = threading.Event()
    with open_session(images_bundle) as session:
        original = getattr(session, call)

        def once(*arguments: Any) -> np.ndarray[Any, Any]:
            if armed.is_set() and (call == "fuse" or arguments[0] == "rgb"):
                armed.clear()
                if fault == "raises":
                    raise EngineError(f"graph {call!r} failed: out of memory")
                time.sleep(2.0)
            result: np.ndarray[Any, Any] = original(*arguments)
            return result

        monkeypatch.setattr(session, call, once)
        with (
            FaultySensors(cameras, endpoints.frames) as sensors,
            RunningNode(Node(cameras, session, endpoints)) as reading,
        ):
            before = reading.read_live(BOTH)
            begin = len(reading.messages)
            armed.set()
            after = reading.read_live(BOTH, after_tick=before.tick + 50)
            reading.read_live(BOTH, after_tick=after.tick + 5)
    assert not armed.is_set()
    states = {m: reading.changes(m, begin) for m in ("rgb", "depth")}
    print(call, fault, states, "missed", reading.statistics["messages"]["ticks"]["missed"])
    assert reading.statistics["messages"]["unaccounted"] == 0
    assert reading.statistics["errors"].get("encode_rgb" if call == "encode" else "fuse", {}).get(
        "count", 0
    ) == (fault == "raises")
    assert not any(
        state == "missing" and reason == "silence" for each in states.values() for state, reason in each
    )
    if fault == "raises":
        assert states["depth"] == []
        assert states["rgb"] in ([], [("missing", "encode_failed"), ("live", "recovered")])
        assert call == "encode" or states["rgb"] == []
    else:
        assert reading.statistics["messages"]["ticks"]["missed"] >= 30
        # What came meanwhile was taken in before anybody was judged.
        assert states == {"rgb": [], "depth": []} or sensors.held_up_s > 0.1, states
