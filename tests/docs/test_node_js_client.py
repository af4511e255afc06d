"""The Node.js client of docs/clients/node, as its README says: against a live node, and with keys."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curve_peers import KeyFolder, free_endpoint, until
from process_under_test import ProcessUnderTest, run_to_end
from running_node import RunningNode

from engines.opening import open_session
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.sensors.publisher import Sensor
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionSender, FrameReceiver
from runtime.wire import Decision, decode_frame, encode_output

CLIENT = Path(__file__).parents[2] / "docs" / "clients" / "node"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with its packages, in a folder of its own."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("client") / "node"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules", "package-lock.json"))
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--prefer-offline"]
    command += ["--fetch-retries=0", "--fetch-timeout=30000"]
    ended = run_to_end(command, codes=range(256), folder=folder)
    if ended.code != 0:
        pytest.skip(f"npm cannot install the client's packages here: {ended.stderr[-300:]}")
    return folder


def started(folder: Path, script: str, *arguments: object) -> ProcessUnderTest:
    return ProcessUnderTest(["node", script, *map(str, arguments)], folder=folder)


def play_rgb(rig: Rig, endpoint: str, stop: threading.Event) -> None:
    rng = np.random.default_rng(0)
    with Sensor(rig, "rgb", endpoint=endpoint) as sensor:
        while not stop.wait(0.033):
            sensor.publish(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))


def test_it_reads_decisions_and_feeds_a_live_node(
    client: Path, images_bundle: Path, images_rig: Rig, endpoints: Endpoints
) -> None:
    rig, stop = images_rig, threading.Event()
    player = threading.Thread(target=play_rgb, args=(rig, endpoints.frames, stop))
    reading = ("--endpoint", endpoints.decisions, "--count", 100)
    publishing = ("--endpoint", endpoints.frames, "--seconds", 3)
    with (
        open_session(images_bundle) as session,
        RunningNode(Node(rig, session, endpoints)) as running,
        started(client, "decisions.mjs", *reading) as reader,
        started(client, "sensor.mjs", *publishing) as publisher,
    ):
        player.start()
        try:
            assert publisher.end().output == ""
            decisions = [json.loads(line) for line in reader.end().stdout.splitlines()]
        finally:
            stop.set()
            player.join(10)
        statistics = running.node.statistics()
    assert len(decisions) == 100
    ticks = [d["tick"] for d in decisions]
    assert ticks == sorted(set(ticks))
    live = [d for d in decisions if d["states"]["depth"] == "live"]
    assert len(live) > 20, "frames from Node.js are as good as any"
    assert all("depth" not in d["imputed"] for d in live)
    assert decisions[-1]["states"]["depth"] == "missing", "it stopped, and the reader is told"
    assert "depth" in decisions[-1]["imputed"]
    assert all(0 <= d["probability"] <= 1 for d in decisions)
    depth = statistics["messages"]["modalities"]["depth"]
    assert depth["received"] > 60
    assert depth["lost"] == 0
    refusals = {
        "bad_header",
        "wrong_shape",
        "payload_length",
        "future",
        "out_of_order",
        "duplicate",
        "bad_topic",
    }
    assert not refusals & set(depth["dropped"])


def test_it_speaks_with_keys(client: Path, tmp_path: Path) -> None:
    folder = KeyFolder(tmp_path / "keys")
    folder.allow("js", "sensor")
    folder.allow("js", "reader")
    keys = (
        "--keys",
        str(folder.folder / "js.key_secret"),
        "--server-key",
        str(folder.folder / "node.key"),
    )
    with (
        FrameReceiver(free_endpoint(), keys=folder.node) as frames,
        DecisionSender(free_endpoint(), keys=folder.node) as decisions,
        started(client, "sensor.mjs", "--endpoint", frames.endpoint, "--seconds", 2, *keys) as publisher,
        started(client, "decisions.mjs", "--endpoint", decisions.endpoint, "--count", 3, *keys) as reader,
    ):
        got: list[Any] = []

        def served() -> bool:
            decisions.update_subscriptions()
            decisions.send(encode_output(_decision(2**40 + len(got))))
            parts = frames.receive()
            if parts is not None:
                got.append(decode_frame(parts))
            return bool(got) and reader.code is not None

        assert until(served, 15)
        assert len(reader.end().stdout.splitlines()) == 3
        assert publisher.end().output == ""
        assert frames.refused() == decisions.refused() == {}
    assert got[0].modality == "depth"
    assert abs(got[0].capture_ns - time.monotonic_ns()) < 60e9, "Node.js stamps with the same clock"


def _decision(deadline_ns: int) -> Decision:
    return Decision(
        rig="commands-4",
        bundle="b",
        tick=1,
        deadline_ns=deadline_ns,
        published_ns=deadline_ns,
        capture_ns=None,
        label="stop",
        probabilities={"stop": 0.75, "go": 0.25},
        entropy=0.56,
        presence={"rgb": 0},
        fill="impute",
        modalities={},
    )
