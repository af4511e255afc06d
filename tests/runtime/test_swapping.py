"""A running node goes on with another bundle: nothing is missed, and every decision says which bundle made it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from afterimage.replaying import replay_recording
from engines.opening import open_session
from runtime.client import Client
from runtime.node import Node
from runtime.record.recorder import record
from runtime.record.writer import RecordingError
from runtime.rig import Rig, load_rig
from runtime.sensors.process import spawn_sensors
from runtime.transport.control import ControlError, swap_bundle
from runtime.transport.endpoints import Endpoints
from runtime.wire import JOURNAL_PREFIX, Decision, HealthEvent, Output

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def rig() -> Rig:
    rig = load_rig("commands-4")
    return rig.model_copy(update={"sensors": rig.sensors[:2]})


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_bundle import build_tiny_bundle

    folder = tmp_path_factory.mktemp("other") / "bundle"
    build_tiny_bundle(folder, ("rgb", "depth"), seed=1)
    return folder


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ai-") as name:
        yield name


class Served:
    """A node in a thread with real sensor processes, and a client that keeps all it says."""

    def __init__(self, rig: Rig, bundle: Path, folder: str, *, control: str | None = None) -> None:
        self.endpoints = Endpoints(f"ipc://{folder}/f", f"ipc://{folder}/d")
        self.control = control or f"ipc://{folder}/c"
        self.session = open_session(bundle)
        self.node = Node(rig, self.session, self.endpoints, control=self.control)
        self.client = Client(rig, ("fused", "health"), endpoint=self.endpoints.decisions)
        self.messages: list[Output] = []
        self._rig = rig
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.node.run, args=(self._stop,))

    def __enter__(self) -> Served:
        self._sensors = spawn_sensors(self._rig.modality_names, self.endpoints.frames, data="synthetic")
        self._thread.start()
        self._sensors.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sensors.stop()
        self._stop.set()
        self._thread.join(10)
        self.client.close()
        self.node.close()
        self.session.close()

    def read_until_live(self, bundle: str) -> None:
        """Read until a decision of a bundle with every sensor live."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            message = self.client.receive(1.0)
            if message is not None:
                self.messages.append(message)
            if (
                isinstance(message, Decision)
                and message.bundle == bundle
                and all(m.state == "live" for m in message.modalities.values())
            ):
                return
        raise AssertionError(f"no decision of bundle {bundle} with all sensors live in {PATIENCE_S} s")

    @property
    def decisions(self) -> list[Decision]:
        return [m for m in self.messages if isinstance(m, Decision)]


def test_under_load_nothing_is_missed_and_no_sensor_is_lost(
    rig: Rig, images_bundle: Path, other_bundle: Path, folder: str
) -> None:
    with Served(rig, images_bundle, folder) as served:
        first = served.session.bundle_hash
        served.read_until_live(first)
        came = len(served.messages)
        second = swap_bundle(served.control, str(other_bundle))
        assert second != first
        served.read_until_live(second)
        back = swap_bundle(served.control, str(images_bundle))
        assert back == first
        served.read_until_live(first)
    after = served.messages[came:]
    assert not [m for m in after if isinstance(m, HealthEvent)], "no sensor changed its state"
    ticks = [d.tick for d in served.decisions]
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks))), "no tick was missed"
    bundles = [d.bundle for d in served.decisions]
    changes = [b for a, b in pairwise(bundles) if a != b]
    assert changes == [second, first]
    assert all(d.presence == {"rgb": 1, "depth": 1} for d in after if isinstance(d, Decision))


def test_what_cannot_take_over_is_refused_and_the_node_goes_on(
    rig: Rig, images_bundle: Path, tiny_bundle: Path, folder: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(images_bundle, broken)
    (broken / "fuse.onnx").write_bytes(b"no graph")
    with Served(rig, images_bundle, folder) as served:
        with pytest.raises(ControlError, match="manifest"):
            swap_bundle(served.control, str(tmp_path / "nowhere"))
        with pytest.raises(ControlError, match="needs"):
            swap_bundle(served.control, str(tiny_bundle))
        with pytest.raises(ControlError, match=r"fuse\.onnx"):
            swap_bundle(served.control, str(broken))
        served.read_until_live(served.session.bundle_hash)
    assert {d.bundle for d in served.decisions} == {served.session.bundle_hash}
    assert served.node.statistics()["errors"]["swap"]["count"] == 3


def test_a_plain_tcp_port_takes_no_commands(
    rig: Rig, images_bundle: Path, other_bundle: Path, folder: str
) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        control = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with (
        Served(rig, images_bundle, folder, control=control),
        pytest.raises(ControlError, match="over ipc or with an operator's key"),
    ):
        swap_bundle(control, str(other_bundle))


def test_without_a_node_the_asker_is_told_so(folder: str) -> None:
    with pytest.raises(ControlError, match="is the node running"):
        swap_bundle(f"ipc://{folder}/nobody", "bundle", timeout_s=0.3)


def test_a_recording_across_a_swap_replays_exactly_with_both_bundles(
    rig: Rig, images_bundle: Path, other_bundle: Path, folder: str, tmp_path: Path
) -> None:
    path = tmp_path / "swapped.mcap"
    stop = threading.Event()
    served = Served(rig, images_bundle, folder)
    recorder = threading.Thread(
        target=record, args=(rig, path, stop), kwargs={"endpoint": served.endpoints.decisions}
    )
    recorder.start()
    try:
        assert served.node.await_subscriber(JOURNAL_PREFIX, PATIENCE_S)
        with served:
            served.read_until_live(served.session.bundle_hash)
            served.read_until_live(swap_bundle(served.control, str(other_bundle)))
    finally:
        time.sleep(0.5)  # what was published last is still on its way
        stop.set()
        recorder.join(10)
    with open_session(images_bundle) as session, open_session(other_bundle) as other:
        summary = replay_recording(path, session, others=[other])
        assert summary["lost"] == {}
        assert summary["compared"] > 10
        assert summary["different"] == 0, summary["first_difference"]
        with pytest.raises(RecordingError, match="went on with bundle"):
            replay_recording(path, session)
