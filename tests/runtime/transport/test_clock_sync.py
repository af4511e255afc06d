"""Clocks measured over real sockets: two sensor processes on skewed, drifting clocks are aligned within 2 ms."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq
from curve_peers import until
from process_under_test import ProcessUnderTest, python
from running_node import RunningNode

from engines.opening import open_session
from runtime.core.clock import node_time
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.transport.clock_sync import ClockSync
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionReceiver
from runtime.wire import JOURNAL_PREFIX, decode_entry, decode_frame
from runtime.wire.control import CONTROL_BYTES, error_answer, probe_request, read_request

MS = 1_000_000
SENSOR = """
import sys, time
import numpy as np
from runtime.rig import load_rig
from runtime.sensors.publisher import Sensor
from runtime.transport.clock_sync import ClockSync
from runtime.wire import encode_frame

modality, frames, control, skew, drift = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
began = time.monotonic_ns()

def now(true=None):
    true = time.monotonic_ns() if true is None else true
    return true + skew + round(drift * (true - began))

rig = load_rig("commands-4")
rng = np.random.default_rng(0)
with ClockSync(control, f"{modality} device", now) as sync, Sensor(rig, modality, endpoint=frames) as sensor:
    while sync.clock() is None:
        time.sleep(0.01)
    while True:
        time.sleep(1 / 30)
        true = time.monotonic_ns()
        shape = (1, *sensor.spec.sample_shape)
        image = rng.integers(500, 900, shape).astype(sensor.spec.dtype)
        image.reshape(-1).view(np.uint8)[:8] = np.frombuffer(true.to_bytes(8, "little"), np.uint8)
        sensor._sender.send(encode_frame(rig.name, modality, sensor.sequence, image, capture_ns=now(true),
                                         unit=sensor.spec.unit, clock=sync.clock()))
        sensor.sequence += 1
"""


def test_sensors_on_skewed_drifting_clocks_are_aligned_within_two_milliseconds(
    images_bundle: Path, images_rig: Rig, endpoints: Endpoints
) -> None:
    """Each frame carries its true time in its first pixels; the journal has what the node made of its stamp."""
    control = endpoints.frames.replace("frames", "control")
    clocks = {"rgb": (7 * 3600 * 10**9, 120e-6), "depth": (-11 * 10**9, -90e-6)}
    errors: dict[str, list[float]] = {m: [] for m in clocks}
    uncertainties = []
    with ExitStack() as stack:
        session = stack.enter_context(open_session(images_bundle))
        node = Node(images_rig, session, endpoints, control=control)
        journal = stack.enter_context(DecisionReceiver(endpoints.decisions, [JOURNAL_PREFIX]))
        stack.enter_context(RunningNode(node))
        for modality, (skew, drift) in clocks.items():
            command = python(SENSOR, modality, endpoints.frames, control, skew, drift)
            stack.enter_context(ProcessUnderTest(command))
        end = time.monotonic() + 60
        while time.monotonic() < end and min(map(len, errors.values())) < 150:
            parts = journal.receive(1000)
            entry = None if parts is None else decode_entry(parts)
            if entry is None or entry.call != "frame":
                continue
            frame = decode_frame(entry.parts)
            true = int.from_bytes(frame.samples.reshape(-1).view(np.uint8)[:8].tobytes(), "little")
            errors[entry.modality].append((node_time(frame.capture_ns, frame.clock) - true) / MS)
            uncertainties.append(frame.clock.uncertainty_ns / MS)
            assert abs(errors[entry.modality][-1]) <= uncertainties[-1] + 0.001, "the claim must hold"
    assert min(map(len, errors.values())) >= 150
    worst = {m: max(map(abs, of)) for m, of in errors.items()}
    assert max(worst.values()) <= 2.0, worst
    states = node.statistics()["messages"]["modalities"]
    assert all(not states[m]["dropped"].get("future") for m in clocks)


def test_a_node_that_comes_later_is_found(images_bundle: Path, images_rig: Rig, endpoints: Endpoints) -> None:
    control = endpoints.frames.replace("frames", "control")
    with ClockSync(control, "device", lambda: time.monotonic_ns() + 5_000 * MS) as sync:
        assert not until(lambda: sync.clock() is not None, 0.3)
        with (
            open_session(images_bundle) as session,
            RunningNode(Node(images_rig, session, endpoints, control=control)),
        ):
            assert until(lambda: sync.clock() is not None, 20)
            clock = sync.clock()
    assert clock is not None
    assert abs(clock.offset_ns - 5_000 * MS) <= clock.uncertainty_ns


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\xc1",
        b"x" * (CONTROL_BYTES + 1),
        msgpack.packb([1]),
        msgpack.packb({"version": 1, "op": "probe"}),
    ],
)
def test_a_request_that_cannot_be_answered_is_dropped(request_: bytes) -> None:
    assert read_request(request_) is None


@pytest.mark.parametrize(
    "change",
    [{"op": "format"}, {"version": 9}, {"sent_ns": "now"}, {"op": "swap"}, {"op": "swap", "path": 1}],
)
def test_a_request_that_is_wrong_is_told_so(change: dict[str, object]) -> None:
    request = read_request(msgpack.packb(msgpack.unpackb(probe_request(7, 0)) | change))
    assert request is not None
    reply = msgpack.unpackb(error_answer(request, request.fault))
    assert (reply["op"], reply["id"]) == ("error", 7)
    assert reply["detail"]


def test_strangers_on_the_control_socket_do_not_stop_it(
    images_bundle: Path, images_rig: Rig, endpoints: Endpoints
) -> None:
    control, stop = endpoints.frames.replace("frames", "control"), threading.Event()
    with (
        open_session(images_bundle) as session,
        Node(images_rig, session, endpoints, control=control) as node,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as stranger,
    ):
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(control)
        running = threading.Thread(target=node.run, args=(stop,))
        running.start()
        for _ in range(500):
            stranger.send_multipart([b"one", b"two", b"three"])
            stranger.send(b"garbage")
            stranger.send(probe_request(1, 0))  # and never reads an answer
        with ClockSync(control, "device") as sync:
            assert until(lambda: sync.clock() is not None, 20)
        stop.set()
        running.join(10)
        assert not running.is_alive()
