"""Recording a rig without a node: real sockets, a user's sensor, labels from a program and from keys."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest

from runtime.core.health import State
from runtime.rig import Rig
from runtime.sensors.publisher import Sensor
from runtime.sessions.cues import CuePlan, CueSchedule
from runtime.sessions.labelling import KeyLabels, Labeller
from runtime.sessions.monitor import RecordingMonitor
from runtime.sessions.recording import SessionRecorder
from runtime.sessions.session import read_session
from runtime.transport.endpoints import EndpointError
from runtime.wire import encode_frame
from runtime.wire.labels import standing

S = 1_000_000_000


def rig() -> Rig:
    emg = {
        "modality": "emg", "kind": "eeg", "sample_shape": [2], "dtype": "float32", "unit": "uV", "rate_hz": 500,
        "chunk": 10,
    }  # fmt: skip
    return Rig.model_validate({"version": 1, "name": "arm", "sensors": [emg]})


def test_frames_and_labels_of_a_program_are_recorded(tmp_path):
    endpoint = f"ipc://{tmp_path}/frames"
    with SessionRecorder(rig(), tmp_path / "sessions", tags={"person": "ada"}, endpoint=endpoint) as recorder:
        with (
            Sensor(rig(), "emg", endpoint=endpoint) as sensor,
            Labeller(rig(), "experiment", endpoint=endpoint) as labeller,
        ):
            for k in range(40):
                if k == 10:
                    labeller.begin("fist")
                if k == 20:
                    labeller.begin("open")
                sensor.publish(np.full((10, 2), k, np.float32))
                recorder.turn()
                time.sleep(0.01)
        deadline = time.monotonic() + 5
        while len(recorder.progress.labels) < 4 and time.monotonic() < deadline:
            recorder.turn()
        assert recorder.progress.counts == {"fist": 1, "open": 1}
        assert recorder.progress.states == {"emg": "live"}
    found = read_session(recorder.progress.path)
    assert found.tags == {"person": "ada"}
    assert [x.name for x in found.labels] == ["fist", "open"]
    assert found.labels[0].end_ns == found.labels[1].onset_ns
    values = found.streams["emg"].samples[::10, 0]
    assert len(values) >= 35, "all but what was sent before the connection stood"
    assert [b - a for a, b in pairwise(values)] == [1.0] * (len(values) - 1)


def test_a_label_that_holds_when_the_recording_ends_ends_with_it(tmp_path):
    with SessionRecorder(rig(), tmp_path, endpoint=f"ipc://{tmp_path}/frames") as recorder:
        recorder.add_labels(KeyLabels("arm").press("fist", time.monotonic_ns()))
    (label,) = standing(recorder.progress.labels)
    assert label.end_ns is not None
    assert read_session(recorder.progress.path).labels == (label,)


def test_a_start_that_fails_leaves_nothing_and_blocks_nothing(tmp_path):
    endpoint = f"ipc://{tmp_path}/frames"
    with SessionRecorder(rig(), tmp_path / "a", endpoint=endpoint):
        with pytest.raises(EndpointError, match="another node listens"):
            SessionRecorder(rig(), tmp_path / "b", endpoint=endpoint)
        assert list((tmp_path / "b").iterdir()) == []
    with SessionRecorder(rig(), tmp_path / "b", endpoint=endpoint):
        pass
    assert list((tmp_path / "b").iterdir()) == [], "nothing came, so there is no file"


def test_cues_become_labels_of_the_session(tmp_path):
    now = [S]
    recorder = SessionRecorder(rig(), tmp_path, endpoint=f"ipc://{tmp_path}/frames", clock=lambda: now[0])
    with recorder:
        cues = CueSchedule(
            "arm", CuePlan(("a", "b"), trials=1, seconds=1.0, rest_s=1.0, settle_s=0.2), now[0]
        )
        for _ in range(60):
            recorder.follow(cues)
            now[0] += S // 10
        assert recorder.progress.cue is not None
        assert recorder.progress.cue.phase == "done"
    assert sorted(x.name for x in read_session(recorder.progress.path).labels) == ["a", "b"]


def frame(number: int, at_ns: int, samples: np.ndarray | None = None, name: str = "arm") -> list[bytes]:
    values = np.full((10, 2), number, np.float32) if samples is None else samples
    return encode_frame(name, "emg", number, values, capture_ns=at_ns, unit="uV")


def test_the_monitor_tells_rate_losses_refusals_and_silence():
    monitor = RecordingMonitor(rig(), 0)
    for k in range(100):
        if k != 50:
            monitor.receive(frame(k, k * S // 100), k * S // 100)
    monitor.receive(frame(0, S, np.zeros((10, 3), np.float32)), S)
    monitor.receive(frame(0, S, name="leg"), S)
    told = monitor.check(S)
    assert [(e.modality, e.state) for e in told] == [("emg", State.LIVE)]
    (digest,) = monitor.digest(S)
    assert (digest.samples, digest.lost, digest.refused) == (990, 1, 1)
    assert monitor.foreign == 1
    assert "refused" in digest.problem
    told = monitor.check(3 * S)
    assert [(e.state, e.reason) for e in told] == [(State.MISSING, "silence")]
    assert monitor.digest(3 * S)[0].problem == "missing: silence"


def test_frames_that_are_refused_are_counted_and_belong_to_no_sensor():
    monitor = RecordingMonitor(rig(), 0)
    spoilt = np.full((10, 2), np.nan, np.float32)
    frames = [
        frame(0, S),
        frame(1, S + 1, np.zeros((10, 3), np.float32)),
        frame(2, S + 2, spoilt),
        frame(0, S),
    ]
    assert [monitor.receive(parts, S + 3) for parts in frames] == ["emg", "", "", ""]
    (digest,) = monitor.digest(2 * S)
    assert (digest.samples, digest.refused) == (10, 3)


def test_the_monitor_says_when_a_rate_is_not_the_promised_one():
    monitor = RecordingMonitor(rig(), 0)
    for k in range(26):
        monitor.receive(frame(k, k * S // 25), k * S // 25)
        monitor.check(k * S // 25)
    assert monitor.digest(S)[0].problem == "260 Hz where the rig promises 500 Hz"


def test_a_key_switches_its_class_on_and_off():
    keys = KeyLabels("arm")
    told = keys.press("a", 1) + keys.press("b", 2) + keys.press("b", 3) + keys.press("a", 4)
    assert [(x.name, x.onset_ns, x.end_ns) for x in standing(told)] == [
        ("a", 1, 2),
        ("b", 2, 3),
        ("a", 4, None),
    ]
    assert keys.holding == "a"
