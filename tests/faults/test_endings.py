"""Every command ended by SIGINT and SIGTERM: exit code 0, endpoints free at once, files whole, nobody left running."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from process_under_test import ProcessUnderTest, afterimage, node_command, run_to_end

from runtime.client import Client
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionSender, FrameReceiver

INT, TERM = signal.SIGINT, signal.SIGTERM
BOTH = pytest.mark.parametrize("number", [INT, TERM], ids=["SIGINT", "SIGTERM"])


def sensors_command(endpoint: str) -> list[str]:
    return afterimage(
        "sense", "--synthetic", "--modality", "rgb", "--modality", "depth", "--endpoint", endpoint
    )


@pytest.fixture(scope="module")
def served(images_bundle: Path, cameras_file: str) -> Iterator[Endpoints]:
    """A node with live sensors, for what reads."""
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        endpoints = Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")
        with (
            ProcessUnderTest(node_command(images_bundle, cameras_file, endpoints)) as node,
            ProcessUnderTest(sensors_command(endpoints.frames)) as sensors,
        ):
            node.wait_for("decisions ipc://")
            sensors.wait_for("playing")
            yield endpoints


def check_free(endpoints: Endpoints) -> None:
    """What the ended process listened on can be listened on again at once."""
    with FrameReceiver(endpoints.frames), DecisionSender(endpoints.decisions):
        pass


@BOTH
def test_a_node_ends(
    number: signal.Signals, images_bundle: Path, cameras_file: str, endpoints: Endpoints, tmp_path: Path
) -> None:
    statistics = tmp_path / "statistics.json"
    with ProcessUnderTest(node_command(images_bundle, cameras_file, endpoints, "--json", statistics)) as node:
        node.wait_for("decisions ipc://")
        with Client(cameras_file, endpoint=endpoints.decisions) as client:
            assert client.receive(20) is not None
        node.end(number, number)  # an impatient user who presses Ctrl-C twice still gets the statistics
    assert json.loads(statistics.read_text())["messages"]["ticks"]["published"] > 0
    check_free(endpoints)


def test_a_node_that_records_ends_with_its_recording_whole(
    images_bundle: Path, cameras_file: str, endpoints: Endpoints, tmp_path: Path
) -> None:
    path = tmp_path / "session.mcap"
    with ProcessUnderTest(node_command(images_bundle, cameras_file, endpoints, "--record", path)) as node:
        node.wait_for("decisions ipc://")
        with Client(cameras_file, endpoint=endpoints.decisions) as client:
            for _ in range(5):
                assert client.receive(20) is not None
        children = node.children()
        node.end(INT)
    assert children
    assert not any(psutil.pid_exists(child) for child in children), "the recorder ends with its node"
    check_whole(path)
    check_free(endpoints)


def check_whole(path: Path) -> Counter[str]:
    """A recording with its index and footer, whose messages all read."""
    from mcap.reader import make_reader

    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        topics = Counter(channel.topic for _, channel, _ in reader.iter_messages())
        summary = reader.get_summary()
    assert summary is not None
    assert summary.statistics is not None
    assert summary.statistics.message_count == sum(topics.values())
    assert topics["fused"] > 0
    return topics


def test_a_recorder_ends_with_its_file_whole(served: Endpoints, cameras_file: str, tmp_path: Path) -> None:
    path = tmp_path / "session.mcap"
    command = afterimage("record", path, "--rig", cameras_file, "--endpoint", served.decisions)
    with ProcessUnderTest(command) as recorder:
        recorder.wait_for_file(path, 300_000)
        recorder.end(TERM)
    assert check_whole(path)["frame/commands-4/rgb"] > 5


@pytest.mark.parametrize(
    ("kind", "number"),
    [("page", INT), ("page", TERM), ("json", TERM)],
    ids=["page-SIGINT", "page-SIGTERM", "json-SIGTERM"],
)
def test_what_watches_ends(kind: str, number: signal.Signals, served: Endpoints, cameras_file: str) -> None:
    options = ["--no-browser", "--port", "0"] if kind == "page" else [f"--{kind}"]
    command = afterimage("watch", "--rig", cameras_file, "--endpoint", served.decisions, *options)
    with ProcessUnderTest(command) as watcher:
        if kind == "page":
            watcher.wait_for("live page")
            time.sleep(0.5)  # it exits with 1 if no decision came; nothing outside tells of the first
        else:
            watcher.wait_for("rgb")
        watcher.end(number)


@pytest.mark.parametrize("number", [INT, TERM], ids=["SIGINT", "SIGTERM"])
def test_sensors_end_and_say_their_counts(number: signal.Signals, endpoints: Endpoints) -> None:
    with (
        FrameReceiver(endpoints.frames) as receiver,
        ProcessUnderTest(sensors_command(endpoints.frames)) as sensors,
    ):
        sensors.wait_for("playing")
        while receiver.receive() is None:
            time.sleep(0.01)
        children = sensors.children()
        ended = sensors.end(number)
        assert len(children) == 2
        assert ended.output.count("published") == 2
        assert not any(psutil.pid_exists(child) for child in children)


@BOTH
def test_a_node_ended_while_its_engine_opens_leaves_nothing(
    number: signal.Signals, images_bundle: Path, cameras_file: str, endpoints: Endpoints
) -> None:
    # The node's process says when its engine begins to open, and takes 0.3 s longer: the signal comes meanwhile.
    before = (
        "import engines.opening as o, time\nopening = o.open_session\n"
        "def slowly(*a, **k):\n    print('opening', flush=True); time.sleep(0.3); return opening(*a, **k)\n"
        "o.open_session = slowly"
    )
    with ProcessUnderTest(node_command(images_bundle, cameras_file, endpoints, before=before)) as node:
        node.wait_for("opening")
        node.end(number)
    check_free(endpoints)


def test_a_recorder_whose_disk_is_full_says_so_and_the_node_goes_on(
    served: Endpoints, cameras_file: str, tmp_path: Path
) -> None:
    """The limit on file sizes stands in for a full disk: the same error from the same system call."""
    path = tmp_path / "full.mcap"
    before = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))"
    )
    command = afterimage("record", path, "--rig", cameras_file, "--endpoint", served.decisions, before=before)
    with ProcessUnderTest(command) as recorder:
        recorder.wait_for_file(path, 400_000)
        # Ended by the signal, or by the disk a moment before: a full disk is an error, its file is kept.
        recorder.end(INT, codes=(0, 2))
    from runtime.record.reader import read_recording

    assert sum(m.topic.startswith("frame/") for m in read_recording(path)) > 5
    with Client(cameras_file, endpoint=served.decisions) as client:
        assert client.receive(20) is not None


def test_a_taken_port_is_one_line_and_costs_the_first_node_nothing(
    images_bundle: Path, cameras_file: str, served: Endpoints
) -> None:
    ended = run_to_end(node_command(images_bundle, cameras_file, served), codes=[2])
    assert "another node listens there" in ended.output
    assert len(ended.output.strip().splitlines()) == 1
    with Client(cameras_file, endpoint=served.decisions) as client:
        assert client.receive(20) is not None
