"""Sensors without a source: real processes that play one plan from a common start, under the name of any rig."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from sensor_bench import receive_until, rig_of, sensor_of, write_plugin
from typer.testing import CliRunner

from afterimage.cli import app
from runtime.rig import Rig, load_rig
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.supervisor import SensorProcessError, Supervisor
from runtime.signals.faults import Fault, FaultError, FaultSchedule
from runtime.signals.opening import open_source
from runtime.signals.playback import Playback, plan_for
from runtime.transport.sockets import FrameReceiver
from runtime.wire import Frame

SLOW = """
import time
import numpy as np
from runtime.sensors.sample_source import Delivery, SampleBlock

class Slow:
    def __init__(self, options, sensor): ...
    def open(self):
        time.sleep(1.5)
        return Delivery((4,), "float32", "uV", 250.0, description="slow")
    def read(self, timeout_s):
        time.sleep(0.02)
        return SampleBlock(np.zeros((5, 4), np.float32), time.monotonic_ns())
    def close(self): ...
"""


@pytest.fixture(scope="module")
def commands() -> Rig:
    return load_rig("commands-4")


def playing(rig: Rig, receiver: FrameReceiver, *modalities: str, **options: Any) -> Supervisor:
    return Supervisor(rig, receiver.endpoint, modalities=modalities, together=True, **options)


def test_processes_play_the_plan_on_one_beat_at_native_rates(receiver: FrameReceiver, commands: Rig) -> None:
    rig = commands.with_source(SyntheticOptions(plan_seed=3))
    with playing(rig, receiver, "depth", "eeg") as sensors:
        start_ns = sensors.start()
        frames = receive_until(receiver, lambda f: bool(f) and f[-1].capture_ns > start_ns + 1_500_000_000)
        arrived_ns = time.monotonic_ns()
        counts = sensors.stop()
    source = open_source("synthetic")
    for modality, rate in (("depth", 30), ("eeg", 32)):
        mine = [f for f in frames if f.modality == modality]
        assert rate < len(mine) <= 1.6 * rate
        assert [f.sequence for f in mine] == list(range(mine[0].sequence, mine[0].sequence + len(mine)))
        playback = Playback(source, modality, plan_for(source, "test", 3))
        for f in mine[:: len(mine) // 4]:
            chunk = playback.read(f.sequence)
            assert f.capture_ns == start_ns + chunk.elapsed_ns
            assert f.capture_ns <= arrived_ns
            np.testing.assert_array_equal(f.samples, chunk.samples)
        (one,) = counts[modality]["processes"]
        assert one["published"] >= len(mine)
        assert one["age_ms"]["count"] == one["published"]
        assert one["silenced"] == 0


def test_nothing_is_published_until_every_source_is_open(
    receiver: FrameReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, "slow", "slow_sensors", SLOW, "Slow")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    quick = sensor_of("eeg", {"kind": "synthetic"}, sample_shape=(8,), rate_hz=256, chunk=8, modality="quick")
    with playing(rig_of(sensor_of("eeg", {"kind": "slow"}), quick), receiver, "eeg", "quick") as sensors:
        assert sensors.start_ns is None
        start_ns = sensors.start()
        frames = receive_until(receiver, lambda f: {x.modality for x in f} == {"eeg", "quick"})
        command = Path(f"/proc/{sensors.pid('quick')}/cmdline").read_bytes().split(b"\0")
    assert b"bench/quick" in command, "the list of processes names rig and modality"
    assert min(f.capture_ns for f in frames) >= start_ns - 1_000_000_000
    first = next(f for f in frames if f.modality == "quick")
    assert first.capture_ns == start_ns + (first.sequence + 1) * 31_250_000
    assert first.sequence < 8, "it did not begin before the slow one was open"


def test_a_fault_silences_and_the_gap_shows_in_the_numbers(receiver: FrameReceiver, commands: Rig) -> None:
    silence = Fault(kind="silence", modalities=("eeg",), start_s=0.5, end_s=1.0)
    schedule = FaultSchedule(faults=(silence,))
    with playing(commands, receiver, "eeg", faults=schedule) as sensors:
        start_ns = sensors.start()
        frames = receive_until(receiver, lambda f: bool(f) and f[-1].sequence >= 40)
        (counts,) = sensors.stop()["eeg"]["processes"]
    numbers = [f.sequence for f in frames]
    # 32 messages a second: those captured in (0.5, 1.0] are numbers 16 to 31.
    assert not set(numbers) & set(range(16, 32))
    assert {14, 15, 32, 33} <= set(numbers)
    assert counts["silenced"] == 16
    for f in frames:
        assert not 0.5 < (f.capture_ns - start_ns) / 1e9 <= 1.0
    wrong = FaultSchedule(faults=(silence.model_copy(update={"kind": "clip"}),))
    with pytest.raises(FaultError, match="'clip' happens to"):
        playing(commands, receiver, "eeg", faults=wrong)


def test_a_killed_process_restarted_joins_in_where_the_plan_is(
    receiver: FrameReceiver, commands: Rig
) -> None:
    with playing(commands, receiver, "audio", "eeg") as sensors:
        start_ns = sensors.start()
        receive_until(receiver, lambda f: len(f) > 20)
        sensors.kill("eeg")
        with pytest.raises(ProcessLookupError):
            os.kill(sensors.pid("eeg"), 0)
        sensors.check()  # killed on purpose: no error
        assert sensors.look()
        assert sensors.restarts("eeg") == 0, "what was killed on purpose stays dead"
        sensors.restart("eeg")
        while receiver.receive() is not None:
            pass
        frames = receive_until(receiver, lambda f: any(x.modality == "eeg" for x in f))
        again = next(f for f in reversed(frames) if f.modality == "eeg")
        late_s = (time.monotonic_ns() - again.capture_ns) / 1e9
        assert late_s < 1.0, "it plays what is due now, not what was missed"
        assert again.capture_ns == start_ns + round((again.sequence + 1) * 8e9 / 256)
        counts = sensors.stop()
    assert counts["audio"]["restarts"] == 0
    assert counts["eeg"]["restarts"] == 1
    assert [len(counts[m]["processes"]) for m in ("audio", "eeg")] == [1, 1], "the killed one left no counts"


def test_a_process_held_up_for_long_goes_on_and_drops_what_it_missed(
    receiver: FrameReceiver, commands: Rig
) -> None:
    with playing(commands, receiver, "eeg") as sensors:
        sensors.start()
        first = receive_until(receiver, lambda f: len(f) > 5)[0]
        os.kill(sensors.pid("eeg"), signal.SIGSTOP)
        time.sleep(6.0)  # longer than a read may take: the process was held up, its source does not hang
        os.kill(sensors.pid("eeg"), signal.SIGCONT)
        last = receive_until(
            receiver, lambda f: bool(f) and f[-1].capture_ns > time.monotonic_ns() - 200_000_000
        )[-1]
        time.sleep(1.0)
        sensors.check()
        (counts,) = sensors.stop()["eeg"]["processes"]
    assert counts["source"]["overrun"] > 100
    # Not from 0: on a busy machine a process begins late, with the message that is due then.
    assert counts["published"] + counts["source"]["overrun"] >= last.sequence - first.sequence


def test_a_source_that_cannot_be_opened_is_told_with_its_reason_and_nothing_is_left_running(
    receiver: FrameReceiver, commands: Rig, tmp_path: Path
) -> None:
    recorded = commands.with_source(SyntheticOptions(data="recorded", data_dir=tmp_path))
    with playing(recorded, receiver, "rgb", "eeg") as sensors:
        with pytest.raises(SensorProcessError, match=r"sensor '(rgb|eeg)': .*npz: no such pack"):
            sensors.start()
        for modality in ("rgb", "eeg"):
            assert not psutil.pid_exists(sensors.pid(modality))


def check_until(sensors: Supervisor, end_s: float) -> None:
    """Check again and again: the other threads of a process outlive the first for a moment."""
    while time.monotonic() < end_s:
        sensors.check()
        time.sleep(0.01)


def test_what_dies_by_itself_is_named(receiver: FrameReceiver, commands: Rig) -> None:
    with playing(commands, receiver, "eeg", restart=False) as sensors:
        # Not SIGQUIT: on a busy machine writing the core file takes longer than the wait.
        os.kill(sensors.pid("eeg"), signal.SIGUSR1)
        with pytest.raises(SensorProcessError, match="'eeg' died with code -10 before its source was open"):
            sensors.start()
    with playing(commands, receiver, "eeg") as sensors:
        sensors.start()
        sensors.check()
        os.kill(sensors.pid("eeg"), signal.SIGUSR1)
        with pytest.raises(SensorProcessError, match="sensor 'eeg' died with code -10"):
            check_until(sensors, time.monotonic() + 10)


def test_sensors_that_never_began_stop(receiver: FrameReceiver, commands: Rig) -> None:
    sensors = playing(commands, receiver, "eeg")
    with pytest.raises(ValueError, match="before the sensors began"):
        sensors.restart("eeg")
    counts = sensors.stop()
    assert sensors.stop() == counts
    assert not psutil.pid_exists(sensors.pid("eeg"))


def renamed(folder: Path) -> Path:
    """commands-4 as somebody's own rig: another name, and a camera that is called otherwise."""
    raw = load_rig("commands-4").model_dump(mode="json", exclude_defaults=True)
    raw["name"] = "left-arm"
    raw["sensors"][0]["modality"] = "wrist_rgb"
    path = folder / "left-arm.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_sense_plays_under_the_name_of_the_rig_and_starts_again_what_dies(
    receiver: FrameReceiver, tmp_path: Path
) -> None:
    """The whole command; a node refuses frames of a rig that is not its own."""
    before: list[Frame] = []
    after: list[Frame] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def watch() -> None:
        try:
            before.extend(receive_until(receiver, lambda f: {x.modality for x in f} == {"wrist_rgb", "eeg"}))
            (camera,) = (p for p in psutil.Process().children() if p.cmdline()[-1] == "left-arm/wrist_rgb")
            camera.kill()
            killed_ns = time.monotonic_ns()
            after.extend(
                receive_until(
                    receiver,
                    lambda f: any(x.modality == "wrist_rgb" and x.capture_ns > killed_ns + 1e9 for x in f),
                )
            )
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    command = ["sense", "--rig", str(renamed(tmp_path)), "--synthetic", "--endpoint", receiver.endpoint]
    try:
        result = CliRunner().invoke(app, [*command, "--modality", "wrist_rgb", "--modality", "eeg"])
    finally:
        thread.join(60)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert result.exit_code == 0, result.output
    assert "playing synthetic wrist_rgb, eeg for rig left-arm" in result.output
    assert "process started again 1 times" in result.output
    frames = [*before, *after]
    assert {f.rig for f in frames} == {"left-arm"}
    source = open_source("synthetic")
    playback = Playback(source, "rgb", plan_for(source, "test", 0))
    shown = next(f for f in after if f.modality == "wrist_rgb")
    np.testing.assert_array_equal(shown.samples, playback.read(shown.sequence).samples)
