"""The microphone adapter on a PulseAudio null source, where one can be started; its callback logic everywhere."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curve_peers import until
from process_under_test import ProcessUnderTest, python, run_to_end
from sensor_bench import rig_of, sensor_of

from runtime.sensors.adapters.microphone import MicrophoneSource
from runtime.sensors.inspection import SensorReport, inspect_rig
from runtime.sensors.sample_source import SourceLostError
from runtime.sensors.source_kinds import make_source


@pytest.fixture
def pulse() -> Iterator[None]:
    """A sound server of our own with a source that is always silent, and ALSA's default on top of it."""
    if shutil.which("pulseaudio") is None:
        pytest.skip("needs pulseaudio (Debian: pulseaudio, libasound2-plugins)")
    probe = run_to_end(python("import sounddevice"), codes=(0, 1))
    if probe.code:
        pytest.skip("needs sounddevice and libportaudio2: " + probe.stderr.strip().splitlines()[-1])
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, pytest.MonkeyPatch.context() as patch:
        os.chmod(folder, 0o700)
        socket = Path(folder) / "native"
        asound = Path(folder) / "asound.conf"
        asound.write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
        for name, value in (
            ("HOME", folder),
            ("XDG_RUNTIME_DIR", folder),
            ("PULSE_RUNTIME_PATH", folder),
            ("PULSE_SERVER", f"unix:{socket}"),
            ("ALSA_CONFIG_PATH", str(asound)),
        ):
            patch.setenv(name, value)
        command = [
            "pulseaudio", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "-n",
            f"--load=module-native-protocol-unix socket={socket} auth-anonymous=1",
            "--load=module-null-sink rate=48000",
        ]  # fmt: skip
        with ProcessUnderTest(command, environment={"XDG_RUNTIME_DIR": folder}) as server:
            if not until(lambda: socket.exists() or server.code is not None, 10) or not socket.exists():
                pytest.skip("pulseaudio does not start here")
            yield


def microphone(**options: Any) -> MicrophoneSource:
    """Not opened; past its first second."""
    source = make_source(sensor_of("audio", {"kind": "microphone", **options}))
    assert isinstance(source, MicrophoneSource)
    source._settled_ns = 0
    return source


def test_a_silent_source_of_a_sound_server_is_read_at_its_rate(pulse: None) -> None:
    rig = rig_of(sensor_of("audio", {"kind": "microphone"}))
    report: SensorReport = inspect_rig(rig, seconds=1.0)[0]
    assert "silent" in report.problems, report
    assert report.rate_hz is not None
    assert abs(report.rate_hz - 16000) < 1600, report
    assert (report.shape, report.dtype) == ((), "int16")
    assert report.clock == "portaudio", "PortAudio says when its samples were converted"
    assert -1 < report.age_ms["p50"] < 5000


class Times:
    def __init__(self, now: float, adc: float) -> None:
        self.currentTime, self.inputBufferAdcTime = now, adc


def called(source: MicrophoneSource, times: Times, overflow: bool = False, value: int = 1) -> None:
    block = np.full((320, 1), value, np.int16)
    source._called(block, 320, times, types.SimpleNamespace(input_overflow=overflow))


def test_blocks_are_stamped_with_the_conversion_of_their_newest_sample() -> None:
    source = microphone()
    called(source, Times(1795625987.9, 1795625987.85))  # 50 ms ago the first of 20 ms was converted
    now_ns = time.monotonic_ns()
    samples = source.read(0.1)
    assert samples is not None
    assert samples.clock.id == "portaudio"
    assert 30e6 <= now_ns - samples.capture_ns < 30e6 + 1e9
    called(source, Times(0.0, 0.0))  # a system that does not say
    samples = source.read(0.1)
    assert samples is not None
    assert samples.clock.id == "arrival"


def test_overflows_and_blocks_that_nobody_took_are_gaps() -> None:
    source = microphone()
    called(source, Times(0, 0))
    called(source, Times(0, 0), overflow=True)
    read: Callable[[], Any] = lambda: source.read(0.01)  # noqa: E731
    assert [read().gap, read().gap] == [False, True]
    for value in range(70):
        called(source, Times(0, 0), value=value)
    for _ in range(64):
        assert not read().gap
    called(source, Times(0, 0))
    assert read().gap
    assert source.counts == {"overflowed": 1, "dropped_blocks": 6}


def test_callbacks_that_stop_are_a_microphone_that_was_pulled() -> None:
    source = microphone()
    called(source, Times(0, 0))
    assert source.read(0.01) is not None
    assert source.read(0.01) is None, "not yet"
    source._called_ns = time.monotonic_ns() - 600_000_000
    with pytest.raises(SourceLostError, match=r"no callback for 0\.6 s") as lost:
        source.read(0.01)
    assert lost.value.reason == "disconnected"
