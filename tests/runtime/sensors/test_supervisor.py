"""Real sensor processes under the supervisor: killed, hung, refused, ended; and a kind that a package adds."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from curve_peers import until
from process_under_test import ProcessUnderTest, python, run_to_end
from sensor_bench import receive_until, rig_of, sensor_of, write_plugin
from typer.testing import CliRunner

from runtime.rig import Rig, SensorSpec
from runtime.sensors.capture_process import HUNG, CaptureSpec, run_capture
from runtime.sensors.sample_source import SourceRefusedError
from runtime.sensors.source_kinds import make_source, plugin_kinds
from runtime.sensors.supervisor import SensorProcessError, Supervisor
from runtime.signals.faults import Fault, FaultError, FaultSchedule
from runtime.transport.sockets import FrameReceiver

GUIDE = Path(__file__).parents[3] / "docs" / "sensors.md"

# A kind whose `how` says what becomes of it after some samples.
PLUGIN = """
import threading, time
import numpy as np
from pydantic import BaseModel, ConfigDict
from runtime.sensors.sample_source import Delivery, SampleBlock, SourceLostError

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    how: str
    after: int = 20

class Counting:
    def __init__(self, options, sensor):
        self.options, self.sensor, self.n = Options(**options), sensor, 0
    def open(self):
        if self.options.how == "hang_open":
            threading.Event().wait()
        return Delivery((4,), "float32", "uV", 250.0, description="counting")
    def read(self, timeout_s):
        if self.n >= self.options.after:
            if self.options.how == "hang":
                threading.Event().wait()
            if self.options.how == "crash":
                raise ZeroDivisionError("a bug in a driver")
        time.sleep(0.02)
        self.n += 1
        return SampleBlock(np.full((5, 4), self.n, np.float32), time.monotonic_ns())
    def close(self):
        pass
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plugin(tmp_path, "counting", "counting_sensors", PLUGIN, "Counting")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def counting(how: str = "well", **options: Any) -> SensorSpec:
    return sensor_of("eeg", {"kind": "counting", "how": how, **options})


def look_until(supervisor: Supervisor, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        supervisor.look()
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.02)


def heeds_sigterm(pid: int) -> bool:
    """Whether a process has got as far as handling SIGTERM; before that the signal ends it without a word."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_every_sensor_runs_in_a_process_and_a_killed_one_is_started_again(
    receiver: FrameReceiver, plugin: None
) -> None:
    form: dict[str, Any] = {"sample_shape": (8,), "rate_hz": 256, "chunk": 8, "modality": "other"}
    rig = rig_of(counting(), sensor_of("eeg", {"kind": "synthetic"}, **form))
    with Supervisor(rig, receiver.endpoint) as supervisor:
        both = receive_until(receiver, lambda f: {x.modality for x in f} == {"eeg", "other"})
        assert {f.rig for f in both} == {"bench"}
        assert {f.clock.id for f in both} == {"arrival", "playback"}
        first = supervisor.pid("eeg")
        assert first != supervisor.pid("other")
        os.kill(first, signal.SIGKILL)
        look_until(supervisor, lambda: supervisor.restarts("eeg") == 1)
        killed_ns = time.monotonic_ns()
        again = receive_until(
            receiver, lambda f: any(x.modality == "eeg" and x.capture_ns > killed_ns for x in f)
        )
        assert any(f.modality == "other" for f in again), "the others went on"
        assert supervisor.pid("eeg") != first
        counts = supervisor.stop()
    assert counts["eeg"]["restarts"] == 1
    assert counts["other"]["restarts"] == 0
    (second,) = counts["eeg"]["processes"]
    assert second["published"] > 0
    assert second["age_ms"]["count"] == second["published"]
    assert supervisor.stop() == counts, "it may be called again"


@pytest.mark.parametrize("how", ["hang", "hang_open"])
def test_a_source_that_never_returns_does_not_hold_its_process_from_ending(
    receiver: FrameReceiver, plugin: None, how: str
) -> None:
    with Supervisor(rig_of(counting(how, after=5)), receiver.endpoint) as supervisor:
        if how == "hang":
            receive_until(receiver, lambda f: bool(f))
        else:
            time.sleep(1.5)
        time.sleep(0.5)
        os.kill(supervisor.pid("eeg"), 0)  # it runs, stuck in its source
        begin = time.monotonic()
        counts = supervisor.stop()
        took_s = time.monotonic() - begin
    (one,) = counts["eeg"]["processes"]
    assert one["left_in_source"], "it ended by itself, with its counts, before the supervisor lost patience"
    assert took_s < 20


def test_a_source_that_never_returns_ends_its_process_which_is_started_again(
    receiver: FrameReceiver, plugin: None, caplog: pytest.LogCaptureFixture
) -> None:
    sensor = counting("hang_open", open_s=0.2)
    with Supervisor(rig_of(sensor), receiver.endpoint) as supervisor:
        look_until(supervisor, lambda: supervisor.restarts("eeg") >= 2)
        supervisor.stop()
    assert f"eeg: died with code {HUNG}; starts again in 0.1 s" in caplog.messages
    assert f"eeg: died with code {HUNG}; starts again in 0.2 s" in caplog.messages, "the pause grows"


def test_a_bug_in_a_driver_is_a_death_like_any_other(
    receiver: FrameReceiver, plugin: None, caplog: pytest.LogCaptureFixture
) -> None:
    with Supervisor(rig_of(counting("crash", after=3)), receiver.endpoint) as supervisor:
        look_until(supervisor, lambda: supervisor.restarts("eeg") == 1)
    caplog.clear()
    with Supervisor(rig_of(counting("crash", after=3)), receiver.endpoint, restart=False) as supervisor:
        end = time.monotonic() + 20
        while supervisor.look() and time.monotonic() < end:
            time.sleep(0.02)
        assert not supervisor.look()
    assert caplog.messages == ["eeg: ended with code 1"]


def test_what_cannot_feed_the_rig_ends_the_group_with_the_reason(
    receiver: FrameReceiver, plugin: None
) -> None:
    wrong = sensor_of("eeg", {"kind": "counting", "how": "well"}, sample_shape=(3,), modality="wrong")
    with (
        Supervisor(rig_of(counting(), wrong), receiver.endpoint) as supervisor,
        pytest.raises(
            SensorProcessError, match=r"sensor 'wrong': sample_shape is \(3,\) .* gives \(4,\); add"
        ),
    ):
        look_until(supervisor, lambda: False)
    assert not supervisor.look()


def test_a_file_that_was_played_is_not_played_again(
    receiver: FrameReceiver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "afterimage")
    for n in range(5):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((48, 64), 100 + n, np.uint16))
    sensor = sensor_of("depth", {"kind": "depth-images", "folder": str(tmp_path)}, {"from_unit": "mm"})
    with Supervisor(rig_of(sensor), receiver.endpoint) as supervisor:
        frames = receive_until(receiver, lambda f: bool(f) and f[-1].samples.max() == 104)
        end = time.monotonic() + 20
        while supervisor.look() and time.monotonic() < end:
            time.sleep(0.02)
        counts = supervisor.stop()
    assert counts["depth"]["restarts"] == 0
    assert counts["depth"]["processes"][0]["published"] == 5
    assert caplog.messages == ["depth: ended"]
    assert [f.sequence for f in frames] == list(range(5 - len(frames), 5))


def test_faults_spoil_real_sensors_too(receiver: FrameReceiver, plugin: None) -> None:
    silence = Fault(kind="silence", modalities=("eeg",), start_s=0.0, end_s=3600.0)
    rig = rig_of(counting(after=10**6))
    with Supervisor(rig, receiver.endpoint, faults=FaultSchedule(faults=(silence,))) as supervisor:
        look_until(supervisor, lambda: heeds_sigterm(supervisor.pid("eeg")))
        time.sleep(1.0)
        assert receiver.receive() is None
        counts = supervisor.stop()["eeg"]["processes"][0]
    assert counts["published"] == 0
    other = FaultSchedule(faults=(silence.model_copy(update={"modalities": ("rgb",)}),))
    with pytest.raises(FaultError, match="'rgb' is not in rig"):
        Supervisor(rig, receiver.endpoint, faults=other)


def test_passwords_do_not_reach_the_command_line_or_a_dumped_rig(receiver: FrameReceiver) -> None:
    address = "rtsp://user:secret@127.0.0.1:1/stream"
    rig = rig_of(sensor_of("rgb", {"kind": "camera", "device": address}))
    assert "secret" not in rig.model_dump_json()
    assert Rig.model_validate(rig.model_dump()).sensors[0].source is None
    spec = CaptureSpec.of(rig, "rgb", 0, endpoint=receiver.endpoint)
    assert CaptureSpec.model_validate_json(spec.model_dump_json()).sensor == rig.sensors[0]
    with Supervisor(rig, receiver.endpoint) as supervisor:
        command = Path(f"/proc/{supervisor.pid('rgb')}/cmdline").read_bytes()
        assert b"secret" not in command


def test_a_kind_that_nobody_knows_and_options_that_a_package_refuses(plugin: None) -> None:
    assert "counting" in plugin_kinds()
    with pytest.raises(
        SourceRefusedError, match=r"no kind of source 'camara'; built in are .*installed .*counting"
    ):
        make_source(sensor_of("rgb", {"kind": "camara", "device": 0}))
    with pytest.raises(SourceRefusedError, match=r"options of 'counting' refused: .*wrong.*not permitted"):
        make_source(counting(wrong=1))


def test_the_example_of_the_guide_is_a_kind_that_works(
    receiver: FrameReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = GUIDE.read_text()
    code = next(c for c in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "class " in c)
    declared = re.search(r'\[project\.entry-points\."afterimage\.sensors"\]\n(\S+) = "(\S+):(\S+)"', guide)
    assert declared is not None
    kind, module, name = declared.groups()
    write_plugin(tmp_path, kind, module, code, name)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sensor = sensor_of("eeg", {"kind": kind, "level": 3.0}, rate_hz=250, chunk=10)
    with Supervisor(rig_of(sensor), receiver.endpoint) as supervisor:
        frames = receive_until(receiver, lambda f: len(f) >= 3)
        supervisor.stop()
    assert frames[0].samples.shape == (10, 4)
    assert np.abs(frames[0].samples).max() > 0


def test_a_camera_whose_read_blocks_does_not_hold_up_its_process(
    receiver: FrameReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    class Blocked:
        def __init__(self, *arguments: Any) -> None: ...

        def isOpened(self) -> bool:
            return True

        def set(self, key: int, value: float) -> bool:
            return True

        def read(self) -> tuple[bool, Any]:
            release.wait(30)
            return False, None

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoCapture", Blocked)
    rig = rig_of(sensor_of("rgb", {"kind": "camera", "open_s": 0.2}))
    code, counts = run_capture(CaptureSpec.of(rig, "rgb", 0, endpoint=receiver.endpoint), threading.Event())
    release.set()
    assert code == HUNG
    assert counts["left_in_source"]
    assert counts["published"] == 0


def test_a_sensor_ends_with_the_process_that_started_it(receiver: FrameReceiver) -> None:
    form: dict[str, Any] = {"sample_shape": (8,), "rate_hz": 256, "chunk": 8}
    spec = CaptureSpec.of(
        rig_of(sensor_of("eeg", {"kind": "synthetic"}, **form)), "eeg", 0, endpoint=receiver.endpoint
    )
    code = (
        "import os, subprocess, sys;"
        f"spec = {spec.model_dump_json()!r}.replace('\"parent\":null', '\"parent\":%d' % os.getpid());"
        "p = subprocess.Popen([sys.executable, '-m', 'runtime.sensors.capture_process'], stdin=subprocess.PIPE,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "p.stdin.write(spec.encode() + b'\\n'); p.stdin.flush(); print(p.pid, flush=True); sys.stdin.read()"
    )
    with ProcessUnderTest(python(code)) as parent:
        orphan = int(parent.wait_for(r"^\d+$").group())
        receive_until(receiver, lambda f: len(f) > 3)
        parent.end(signal.SIGKILL, codes=[-signal.SIGKILL])

        def ended() -> bool:
            status = Path(f"/proc/{orphan}/stat")
            # Gone, or ended and nobody has collected it.
            return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"

        assert until(ended, 10), "the sensor process outlived its parent"


def test_a_process_without_a_spec_is_one_clear_refusal() -> None:
    ran = run_to_end([sys.executable, "-m", "runtime.sensors.capture_process"], text="{}", codes=[2])
    assert ran.stderr.startswith("sensor spec: ")
    assert "Traceback" not in ran.stderr


def test_sense_reads_the_sources_of_a_rig_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from afterimage.cli import app

    for n in range(3):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((4, 4), 100 + n, np.uint16))
    rig = tmp_path / "mine.yaml"
    rig.write_text(
        "version: 1\nname: mine\nsensors:\n"
        "  - {modality: depth, kind: depth, sample_shape: [4, 4], dtype: uint16, unit: mm, rate_hz: 30, chunk: 1,\n"
        f"     source: {{kind: depth-images, folder: '{tmp_path}'}}, transform: {{from_unit: mm}}}}\n"
    )
    result = CliRunner().invoke(app, ["sense", "--rig", str(rig)])
    assert result.exit_code == 0, result.output
    assert "depth: published 3, silenced 0, lost 0 times, process started again 0 times" in result.output
    result = CliRunner().invoke(app, ["sense", "--rig", str(rig), "--synthetic"])
    assert result.exit_code == 2
    rig.write_text(rig.read_text().replace("from_unit: mm", "resize: [8, 8]"))
    result = CliRunner().invoke(app, ["sense", "--rig", str(rig)])
    assert isinstance(result.exception, SensorProcessError)
    assert "sample_shape is (4, 4) in the rig, its source gives (8, 8)" in str(result.exception)
