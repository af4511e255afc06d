"""A rig of real sources, live: steady for a while, then every source killed and restarted, one after the other.

RGB from a video file, depth from a folder of 16-bit PNG, audio from a wav file, EEG from an LSL outlet on loopback, all
made from the synthetic rig; the node is `afterimage run` in a process of its own. Expected: all sensors are live, no
message is unaccounted for, no tick is missed; each killed source is flagged, imputed and live again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
import yaml

from engines.measuring.process import BenchmarkProcess, ProcessError
from runtime.client import Client
from runtime.rig import load_rig
from runtime.sensors.supervisor import Supervisor
from runtime.signals.playback import Playback, plan_for
from runtime.signals.synthetic import SyntheticSource
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, HealthEvent

FILE_S = 20.0
KILLS = 3
STREAM = f"afterimage-{os.getpid()}"
OUTLET = """
import sys, time
import numpy as np
from mne_lsl.lsl import StreamInfo, StreamOutlet, local_clock
samples, rate, chunk = np.load(sys.argv[1]), 256.0, 8
info = StreamInfo(sys.argv[2], "EEG", samples.shape[1], rate, "float32", "afterimage-benchmark-" + sys.argv[2])
info.set_channel_names([str(n) for n in range(samples.shape[1])])
info.set_channel_units("microvolts")
outlet, sent, began = StreamOutlet(info, chunk), 0, local_clock()
while True:
    at = sent % (len(samples) - chunk)
    sent += chunk
    time.sleep(max(0.0, began + sent / rate - local_clock()))
    outlet.push_chunk(np.ascontiguousarray(samples[at : at + chunk]), began + sent / rate)
"""


def write_sources(folder: Path) -> dict[str, dict[str, Any]]:
    """Files of every sensor of commands-4 from the synthetic rig; modality -> `source` and `transform`."""
    source = SyntheticSource()
    plan = plan_for(source, "test", 0)

    def played(modality: str) -> np.ndarray[Any, Any]:
        playback = Playback(source, modality, plan)
        count = int(FILE_S * playback.rate_hz / playback.chunk)
        return np.concatenate([playback.read(i).samples for i in range(count)])

    video = cv2.VideoWriter(str(folder / "rgb.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 30, (64, 64))
    for image in played("rgb"):
        video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    video.release()
    (folder / "depth").mkdir()
    for number, image in enumerate(played("depth")):
        cv2.imwrite(str(folder / "depth" / f"{number:05d}.png"), image)
    soundfile.write(folder / "audio.wav", played("audio"), 16000, subtype="PCM_16")
    np.save(folder / "eeg.npy", played("eeg"))
    return {
        "rgb": {"source": {"kind": "camera", "device": str(folder / "rgb.avi"), "loop": True}},
        "depth": {
            "source": {"kind": "depth-images", "folder": str(folder / "depth"), "loop": True},
            "transform": {"from_unit": "mm"},
        },
        "audio": {"source": {"kind": "audio-file", "file": str(folder / "audio.wav"), "loop": True}},
        "eeg": {"source": {"kind": "lsl", "name": STREAM}},
    }


def write_rig(folder: Path, sources: dict[str, dict[str, Any]]) -> Path:
    """A rig file with these sources."""
    raw = load_rig("commands-4").model_dump(mode="json")
    for sensor in raw["sensors"]:
        sensor |= sources[sensor["modality"]]
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


class Outlet:
    """The process that plays EEG into an LSL stream."""

    def __init__(self, samples: Path) -> None:
        """Start it.

        Args:
            samples: file of the (samples, channels) that it plays.
        """
        self._command = [sys.executable, "-c", OUTLET, str(samples), STREAM]
        self._process = BenchmarkProcess(self._command, talks=False)

    def replace(self) -> None:
        """Kill it, and start another."""
        self._process.send_signal(signal.SIGKILL)
        self._process.close()
        self._process = BenchmarkProcess(self._command, talks=False)

    def close(self) -> None:
        """End it."""
        self._process.close()


class Watch:
    """What a client sees of the node; it reads while it waits."""

    def __init__(self, client: Client, supervisor: Supervisor) -> None:
        self.client, self.supervisor = client, supervisor
        self.changes: list[HealthEvent] = []
        self.last: Decision | None = None
        self.decisions = 0

    def until(self, condition: Callable[[], bool], seconds: float) -> float | None:
        """Seconds until a condition holds; None if it does not in time."""
        began = time.monotonic()
        while (past := time.monotonic() - began) < seconds:
            if condition():
                return past
            self.supervisor.look()
            message = self.client.receive(0.02)
            if isinstance(message, Decision):
                self.last, self.decisions = message, self.decisions + 1
            elif isinstance(message, HealthEvent):
                self.changes.append(message)
        return None

    def state(self, modality: str) -> tuple[str, bool]:
        """State of a modality, and whether it was imputed, in the last decision."""
        if self.last is None:
            return "waiting", False
        report = self.last.modalities[modality]
        return report.state, report.imputed

    def all_live(self) -> bool:
        """Whether every sensor is."""
        return self.last is not None and all(r.state == "live" for r in self.last.modalities.values())


def kill_and_recover(watch: Watch, modality: str, kill: Callable[[], None]) -> dict[str, Any]:
    """Kill one source; how long until its modality is missing and imputed, and until it is live again."""
    kill()
    missing_s = watch.until(lambda: watch.state(modality) == ("missing", True), 20)
    live_s = watch.until(lambda: watch.state(modality)[0] == "live", 60)
    return {
        "missing_after_ms": None if missing_s is None else round(1000 * missing_s),
        "live_after_s": None if live_s is None else round(live_s + (missing_s or 0), 2),
    }


def _kill_process(supervisor: Supervisor, modality: str) -> None:
    os.kill(supervisor.pid(modality), signal.SIGKILL)


def run_live_sensors(bundle: Path, seconds: float) -> dict[str, Any]:
    """The whole run.

    Args:
        bundle: of commands-4.
        seconds: of steady running before the first kill.

    Returns:
        ``all_live_after_s``, ``false_alarms``, ``kills`` (source -> how soon it was missing and live again, each time)
        and what the node counted; ready for JSON.

    Raises:
        ProcessError: the node or the LSL outlet failed.
    """
    with tempfile.TemporaryDirectory(prefix="ai-live-") as name, ExitStack() as opened:
        folder = Path(name)
        rig_file = write_rig(folder, write_sources(folder))
        rig, statistics = load_rig(rig_file), folder / "statistics.json"
        endpoints = Endpoints(f"ipc://{folder}/f", f"ipc://{folder}/d")
        outlet = Outlet(folder / "eeg.npy")
        opened.callback(outlet.close)
        command = [sys.executable, "-m", "afterimage", "run", str(bundle), "--rig", str(rig_file)]
        command += ["--frames", endpoints.frames, "--decisions", endpoints.decisions]
        command += ["--control", f"ipc://{folder}/c", "--json", str(statistics)]
        node = opened.enter_context(BenchmarkProcess(command, talks=False))
        client = opened.enter_context(Client(rig, endpoint=endpoints.decisions))
        supervisor = opened.enter_context(Supervisor(rig, endpoints.frames))
        watch = Watch(client, supervisor)
        started = watch.until(watch.all_live, 60)
        watch.changes.clear()
        watch.until(lambda: False, seconds)
        report: dict[str, Any] = {
            "all_live_after_s": started,
            "steady_s": seconds,
            "false_alarms": [
                f"{c.modality}: {c.state} ({c.reason})" for c in watch.changes if c.state != "live"
            ],
            "kills": {
                modality: [
                    kill_and_recover(watch, modality, partial(_kill_process, supervisor, modality))
                    for _ in range(KILLS)
                ]
                for modality in rig.modality_names
            },
        }
        report["kills"]["eeg outlet"] = [kill_and_recover(watch, "eeg", outlet.replace) for _ in range(KILLS)]
        report["decisions"], report["lost_by_reader"] = watch.decisions, client.lost
        report["node_restarts"] = int(node.has_ended)
        if node.has_ended:
            raise ProcessError(f"the node ended; the last that it wrote: {node.written}")
        node.send_signal(signal.SIGTERM)
        node.wait(10)
        counters = json.loads(statistics.read_text())
    messages = counters["messages"]
    report |= {k: messages[k] for k in ("received", "used", "pending", "dropped", "unaccounted", "ticks")}
    report["tick_lateness_ms"] = counters["latency_ms"]["tick_lateness"]
    return report
