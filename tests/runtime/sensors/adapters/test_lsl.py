"""A real LSL outlet in another process, on loopback; it is killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from process_under_test import ProcessUnderTest, python
from sensor_bench import joined, read_samples, sensor_of

from runtime.sensors.capture import Capture, CapturePolicy
from runtime.sensors.sample_source import SampleBlock, SourceLostError, SourceRefusedError
from runtime.sensors.source_kinds import make_source
from runtime.sensors.transform import plan

pytest.importorskip("mne_lsl.lsl", reason="needs the lsl extra")

# One process has the library loaded and forks an outlet for every line it gets. Sample n of every channel is n.
FORK = """
import os, signal, sys, time
import numpy as np
from mne_lsl.lsl import StreamInfo, StreamOutlet, local_clock

def outlet(name, unit, source_id):
    info = StreamInfo(name, "EEG", 4, 250.0, "float32", source_id)
    info.set_channel_names(["O1", "Oz", "O2", "POz"])
    info.set_channel_units(unit)
    outlet = StreamOutlet(info, chunk_size=10)
    start, n = local_clock(), 0
    print(os.getpid(), flush=True)
    while True:
        block = np.repeat(np.arange(n, n + 10, dtype=np.float32)[:, None], 4, axis=1)
        n += 10
        time.sleep(max(0, start + n / 250 - local_clock()))
        outlet.push_chunk(block, timestamp=start + n / 250)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while line := sys.stdin.readline():
    if os.fork() == 0:
        outlet(*line.split())
"""


@pytest.fixture(scope="module", autouse=True)
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """liblsl keeps to this machine, here and in the outlets."""
    config = tmp_path_factory.mktemp("lsl") / "lsl_api.cfg"
    config.write_text(
        "[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n[log]\nlevel = -3\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSLAPICFG", str(config))
        yield


class Outlets:
    def __init__(self, process: ProcessUnderTest) -> None:
        self.process = process
        self.started = 0

    def start(self, name: str, unit: str = "microvolts", source_id: str = "") -> Outlet:
        self.process.write_line(f"{name} {unit} {source_id or name}")
        self.started += 1
        numbers = self.process.wait_until(
            lambda: (n := self.process.stdout.splitlines())[self.started - 1 :] and n, "an outlet started"
        )
        return Outlet(int(numbers[-1]))


class Outlet:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def outlets(loopback: None) -> Iterator[Outlets]:
    with ProcessUnderTest(python(FORK)) as process:
        yield Outlets(process)


@pytest.fixture
def name() -> str:
    return f"bench-{uuid4().hex[:8]}"


@pytest.fixture
def outlet(name: str, outlets: Outlets) -> Iterator[Outlet]:
    running = outlets.start(name)
    yield running
    running.kill()


def test_a_stream_is_read_with_lsl_stamps_and_correction(name: str, outlet: Outlet) -> None:
    sensor = sensor_of("eeg", {"kind": "lsl", "name": name, "type": "EEG"})
    source = make_source(sensor)
    delivery = source.open()
    assert (delivery.shape, delivery.dtype, delivery.unit, delivery.rate_hz) == ((4,), "float32", "uV", 250)
    assert delivery.channels == ("O1", "Oz", "O2", "POz")
    plan(sensor, delivery)
    taken = read_samples(source, 0.6)
    now_ns = time.monotonic_ns()
    source.close()
    numbers = joined(taken)[:, 0]
    np.testing.assert_array_equal(np.diff(numbers), 1)
    assert {s.clock.id for s in taken} == {"lsl"}
    last = taken[-1]
    assert 0 < last.clock.uncertainty_ns < 5_000_000
    assert -5_000_000 < now_ns - (last.capture_ns - last.clock.offset_ns) < 5_000_000_000
    # Sample n was captured n / rate after the outlet began, so stamps and numbers go together.
    ends = np.array([joined([s])[-1, 0] for s in taken])
    stamps = np.array([s.capture_ns for s in taken])
    np.testing.assert_allclose(stamps - stamps[0], (ends - ends[0]) * 4e6, atol=1000)


def test_a_killed_outlet_is_lost_and_found_again(name: str, outlet: Outlet, outlets: Outlets) -> None:
    sensor = sensor_of("eeg", {"kind": "lsl", "source_id": name, "resolve_s": 0.5, "stall_s": 1.0})
    messages: list[SampleBlock] = []
    capture = Capture(sensor, make_source(sensor), messages.append, policy=CapturePolicy(longest_pause_s=0.2))
    stop = threading.Event()
    thread = threading.Thread(target=capture.run, args=(stop,), daemon=True)
    thread.start()
    wait_for(lambda: len(messages) > 5)
    outlet.kill()
    wait_for(lambda: sum(capture.counts()["lost"].values()) > 0)
    before = len(messages)
    again = outlets.start(name)
    try:
        wait_for(lambda: len(messages) > before + 5)
    finally:
        stop.set()
        thread.join(10)
        again.kill()
    assert not thread.is_alive()
    counts = capture.counts()
    assert counts["opened"] == 2
    assert set(counts["lost"]) <= {"disconnected", "stalled", "cannot_open"}
    first_again = messages[before]
    assert first_again.gap, "what lies between is told as a gap"
    assert first_again.capture_ns - first_again.clock.offset_ns > messages[before - 1].capture_ns


def wait_for(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


def test_what_is_not_there_or_not_clear(name: str, outlet: Outlet, outlets: Outlets) -> None:
    with pytest.raises(SourceLostError, match=r"no LSL stream with .*'nobody'"):
        make_source(sensor_of("eeg", {"kind": "lsl", "name": "nobody", "resolve_s": 0.2})).open()
    twin = outlets.start(name, source_id="twin")
    try:
        with pytest.raises(SourceRefusedError, match=r"2 streams with .*give source_id"):
            make_source(sensor_of("eeg", {"kind": "lsl", "name": name, "resolve_s": 2.0})).open()
    finally:
        twin.kill()


def test_a_stream_in_volts_is_refused_until_that_is_declared(name: str, outlets: Outlets) -> None:
    outlet = outlets.start(name, "volts")
    try:
        sensor = sensor_of("eeg", {"kind": "lsl", "name": name})
        source = make_source(sensor)
        with pytest.raises(SourceRefusedError, match="unit is uV in the rig, its source gives V"):
            plan(sensor, source.open())
        source.close()
    finally:
        outlet.kill()


def test_a_source_names_what_it_looks_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one of name, type, source_id"):
        sensor_of("eeg", {"kind": "lsl"})
