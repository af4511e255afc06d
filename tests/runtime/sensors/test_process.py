from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.rig import load_rig
from runtime.sensors.process import (
    SampleError,
    Sensor,
    SensorGroup,
    SensorProcessError,
    SensorSpec,
    spawn_sensors,
)
from runtime.signals.faults import Fault, FaultSchedule
from runtime.signals.playback import Playback, plan_for
from runtime.signals.sources import open_source
from runtime.transport.sockets import FrameReceiver
from runtime.wire import Frame, decode_frame


@pytest.fixture
def receiver() -> Iterator[FrameReceiver]:
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, FrameReceiver(f"ipc://{folder}/frames") as r:
        yield r


def collect(
    receiver: FrameReceiver, enough: Callable[[list[Frame]], bool], seconds: float = 20.0
) -> list[Frame]:
    frames: list[Frame] = []
    end = time.monotonic() + seconds
    while not enough(frames) and time.monotonic() < end:
        parts = receiver.receive()
        if parts is None:
            time.sleep(0.002)
        else:
            frames.append(decode_frame(parts))
    assert enough(frames), f"only {len(frames)} frames in {seconds} s"
    return frames


def test_processes_play_the_plan_on_one_beat_at_native_rates(receiver: FrameReceiver) -> None:
    with spawn_sensors(("depth", "eeg"), receiver.endpoint, data="synthetic", plan_seed=3) as group:
        start_ns = group.start()
        frames = collect(receiver, lambda f: bool(f) and f[-1].capture_ns > start_ns + 1_500_000_000)
        arrived_ns = time.monotonic_ns()
        counts = group.stop()
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
        assert counts[modality][0]["published"] >= len(mine)
        assert counts[modality][0]["silenced"] == 0


def test_a_fault_silences_and_the_gap_shows_in_the_numbers(receiver: FrameReceiver) -> None:
    silence = Fault(kind="silence", modalities=("eeg",), start_s=0.5, end_s=1.0)
    schedule = FaultSchedule(faults=(silence,))
    with spawn_sensors(("eeg",), receiver.endpoint, data="synthetic", faults=schedule) as group:
        start_ns = group.start()
        frames = collect(receiver, lambda f: bool(f) and f[-1].sequence >= 40)
        counts = group.stop()["eeg"][0]
    numbers = [f.sequence for f in frames]
    # 32 messages a second: those captured in (0.5, 1.0] are numbers 16 to 31.
    assert not set(numbers) & set(range(16, 32))
    assert {14, 15, 32, 33} <= set(numbers)
    assert counts["silenced"] == 16
    for f in frames:
        assert not 0.5 < (f.capture_ns - start_ns) / 1e9 <= 1.0


def test_a_killed_process_restarted_joins_in_where_the_plan_is(receiver: FrameReceiver) -> None:
    with spawn_sensors(("audio", "eeg"), receiver.endpoint, data="synthetic") as group:
        start_ns = group.start()
        collect(receiver, lambda f: len(f) > 20)
        group.kill("eeg")
        assert not group.alive("eeg")
        assert group.alive("audio")
        group.check()  # killed on purpose: no error
        group.restart("eeg")
        while receiver.receive() is not None:
            pass
        again = next(
            f
            for f in reversed(collect(receiver, lambda f: any(x.modality == "eeg" for x in f)))
            if f.modality == "eeg"
        )
        late_s = (time.monotonic_ns() - again.capture_ns) / 1e9
        assert late_s < 1.0, "it plays what is due now, not what was missed"
        assert again.capture_ns == start_ns + round((again.sequence + 1) * 8e9 / 256)
        counts = group.stop()
    assert len(counts["audio"]) == 1
    assert len(counts["eeg"]) == 1, "the killed one could not say what it did"


def test_a_process_held_up_for_long_drops_what_it_missed(receiver: FrameReceiver) -> None:
    with spawn_sensors(("eeg",), receiver.endpoint, data="synthetic") as group:
        group.start()
        first = collect(receiver, lambda f: len(f) > 5)[0]
        process = group._processes["eeg"].popen
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.6)
        process.send_signal(signal.SIGCONT)
        last = collect(receiver, lambda f: bool(f) and f[-1].capture_ns > time.monotonic_ns() - 200_000_000)[
            -1
        ]
        counts = group.stop()["eeg"][0]
    assert counts["overrun"] > 10
    # Not from 0: on a busy machine a process begins late, with the message that is due then.
    assert counts["published"] + counts["overrun"] >= last.sequence - first.sequence


def test_a_source_that_cannot_be_opened_is_told_with_its_reason_and_nothing_is_left_running(
    receiver: FrameReceiver, tmp_path: Path
) -> None:
    with pytest.raises(SensorProcessError, match=r"sensor 'rgb' did not start .*asl_rgbd\.npz: no such pack"):
        spawn_sensors(("rgb",), receiver.endpoint, data="recorded", data_dir=tmp_path)


def test_a_process_that_dies_is_named_with_its_last_words(receiver: FrameReceiver) -> None:
    wrong = FaultSchedule(faults=(Fault(kind="clip", modalities=("eeg",), start_s=0, end_s=1),))
    with pytest.raises(SensorProcessError, match="'clip' happens to"):
        spawn_sensors(("eeg",), receiver.endpoint, data="synthetic", faults=wrong)
    with spawn_sensors(("eeg",), receiver.endpoint, data="synthetic") as group:
        group.start()
        # Not SIGQUIT: on a busy machine writing the core file takes longer than the wait.
        group._processes["eeg"].popen.send_signal(signal.SIGUSR1)
        group._processes["eeg"].popen.wait(10)
        with pytest.raises(SensorProcessError, match="sensor 'eeg' died with code"):
            group.check()


@pytest.mark.parametrize("arguments", [[], ["{"], ['{"modality": "eeg", "endpoint": "ipc:///x", "dota": 1}']])
def test_a_wrong_command_line_is_one_clear_refusal(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "runtime.sensors.process", *arguments], capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "usage" in ran.stderr or "sensor spec" in ran.stderr


def test_a_sensor_ends_with_the_process_that_started_it(receiver: FrameReceiver) -> None:
    spec = SensorSpec(
        modality="eeg", endpoint=receiver.endpoint, data="synthetic", start_ns=time.monotonic_ns()
    )
    code = (
        "import os, subprocess, sys;"
        f"spec = {spec.model_dump_json()!r}.replace('\"parent\":null', '\"parent\":%d' % os.getpid());"
        "p = subprocess.Popen([sys.executable, '-m', 'runtime.sensors.process', spec], stdout=subprocess.DEVNULL);"
        "print(p.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    collect(receiver, lambda f: len(f) > 3)
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(orphan, 0)
        except ProcessLookupError:
            return
        status = Path(f"/proc/{orphan}/stat")
        if status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return  # ended; nobody has collected it
        time.sleep(0.05)
    pytest.fail("the sensor process outlived its parent")


def test_a_group_that_was_never_started_stops(receiver: FrameReceiver) -> None:
    group = spawn_sensors(("eeg",), receiver.endpoint, data="synthetic")
    assert isinstance(group, SensorGroup)
    with pytest.raises(ValueError, match="been started"):
        group.restart("eeg")
    assert group.stop() == {}
    assert group.stop() == {}


def test_sensors_import_no_engine_and_no_camera_library() -> None:
    code = (
        "import sys, runtime.sensors.process, runtime.signals.synthetic, runtime.signals.recorded;"
        "print([m for m in ('cv2', 'onnxruntime', 'torch', 'tensorrt', 'matplotlib') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.replace("'", '"')) == []


def test_a_sensor_of_anybodys_own_publishes_what_fits_the_rig(receiver: FrameReceiver) -> None:
    rig = load_rig("commands-4")
    with Sensor(rig, "rgb", endpoint=receiver.endpoint) as sensor:
        image = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
        frames: list[Frame] = []
        end = time.monotonic() + 5
        while not frames and time.monotonic() < end:
            sensor.publish(image)
            time.sleep(0.01)
            if (parts := receiver.receive()) is not None:
                frames.append(decode_frame(parts))
        assert frames
        assert frames[0].samples.shape == (1, 64, 64, 3)
        np.testing.assert_array_equal(frames[0].samples[0], image)
        assert abs(time.monotonic_ns() - frames[0].capture_ns) < 5e9
        number = sensor.publish(np.stack([image, image]), capture_ns=7)
        assert number == sensor.sequence - 1
        for wrong, named in (
            (image.astype(np.float32), "expected uint8 samples in intensity, got float32"),
            (image[:32], r"expected shape \(n >= 1, 64, 64, 3\), got \(32, 64, 3\)"),
            (np.zeros((0, 64, 64, 3), np.uint8), "n >= 1"),
        ):
            with pytest.raises(SampleError, match=named):
                sensor.publish(wrong)
        assert sensor.sequence == number + 1, "what was refused took no number"
