"""A live node on TCP with keys: sensors and clients by key, refusals in its statistics, a recorder beside it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curve_peers import KeyFolder, free_endpoint, until

from engines.opening import open_session
from runtime.client import Client
from runtime.node.node import Node
from runtime.rig import Rig, load_rig
from runtime.sensors.capture_process import RemoteNode
from runtime.sensors.publisher import Sensor
from runtime.sensors.supervisor import Supervisor
from runtime.transport.endpoints import Endpoints


def test_a_node_hears_and_tells_those_with_keys_alone(
    images_bundle: Path, images_rig: Rig, tmp_path: Path
) -> None:
    folder, rig = KeyFolder(tmp_path / "keys"), images_rig
    endpoints = Endpoints(free_endpoint(), free_endpoint(), folder.node)
    stop = threading.Event()
    result: dict[str, Any] = {}
    camera, desk = folder.allow("camera", "sensor", "rgb"), folder.allow("desk", "reader")
    stranger = folder.peer("stranger")
    rng = np.random.default_rng(0)
    with (
        open_session(images_bundle) as session,
        Node(rig, session, endpoints) as node,
        Sensor(rig, "rgb", endpoint=endpoints.frames, keys=camera) as rgb,
        Sensor(rig, "depth", endpoint=endpoints.frames, keys=camera) as depth_not_allowed,
        Sensor(rig, "depth", endpoint=endpoints.frames, keys=stranger) as depth_unknown,
        Client(rig, endpoint=endpoints.decisions, keys=desk) as client,
        Client(rig, endpoint=endpoints.decisions, keys=stranger) as nosy,
    ):
        thread = threading.Thread(target=lambda: result.update(node.run(stop)))
        thread.start()
        try:

            def rgb_is_live() -> bool:
                rgb.publish(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
                for sensor in (depth_not_allowed, depth_unknown):
                    sensor.publish(rng.integers(500, 1500, (64, 64)).astype(np.uint16))
                decision = next(client.decisions(timeout_s=0.02), None)
                assert nosy.receive(0) is None
                refused = depth_unknown._sender.refused() and nosy._receiver.refused()
                return bool(refused) and decision is not None and decision.modalities["rgb"].state == "live"

            assert until(rgb_is_live, 20)
        finally:
            stop.set()
            thread.join(10)
    assert result["messages"]["modalities"]["depth"]["received"] == 0
    assert result["messages"]["unaccounted"] == 0
    assert result["refused"]["frames"]["wrong_modality"] > 0
    assert result["refused"]["frames"]["unknown_key"] > 0
    assert set(result["refused"]["decisions"]) == {"unknown_key"}


def test_run_records_itself_with_its_own_keys(
    images_bundle: Path, images_rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mcap", reason="recordings need mcap, which is not installed")
    from afterimage.recording import recording
    from runtime.record.reader import read_recording

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = KeyFolder(tmp_path / "afterimage" / "keys")
    endpoints = Endpoints(free_endpoint(), free_endpoint(), folder.node)
    rig = tmp_path / "images.yaml"
    rig.write_text(images_rig.model_dump_json())  # JSON is YAML
    path = tmp_path / "session.mcap"
    with (
        open_session(images_bundle) as session,
        Node(load_rig(rig), session, endpoints) as node,
        recording(node, str(rig), path, "node"),
    ):
        node.run(until_ns=time.monotonic_ns() + 3_000_000_000)
        assert node.statistics()["refused"] == {"frames": {}, "decisions": {}, "control": {}}
    assert read_recording(path) is not None
    assert path.stat().st_size > 1000


def test_sense_reaches_a_node_by_keys_and_on_its_clock(
    images_bundle: Path, images_rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from another machine: frames and probes over CURVE, stamps moved onto the node's clock."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = KeyFolder(tmp_path / "afterimage" / "keys")
    endpoints, control = Endpoints(free_endpoint(), free_endpoint(), folder.node), free_endpoint()
    folder.allow("camera", "sensor", "rgb")
    reader = folder.allow("desk", "reader")
    plain = images_rig
    remote = RemoteNode(control=control, keys="camera", server_key="node")
    stop, ahead_ns = threading.Event(), 3_600_000_000_000
    with (
        open_session(images_bundle) as session,
        Node(
            plain, session, endpoints, control=control, clock=lambda: time.monotonic_ns() + ahead_ns
        ) as node,
        Client(plain, endpoint=endpoints.decisions, keys=reader) as client,
        Supervisor(plain, endpoints.frames, together=True, modalities=["rgb"], remote=remote) as supervisor,
    ):
        running = threading.Thread(target=node.run, args=(stop,))
        running.start()
        try:

            def rgb_is_live() -> bool:
                supervisor.look()
                decision = next(client.decisions(timeout_s=0.1), None)
                return decision is not None and decision.modalities["rgb"].state == "live"

            assert until(rgb_is_live, 30)
        finally:
            stop.set()
            running.join(10)
    counters = node.statistics()["messages"]["modalities"]["rgb"]
    assert counters["used"] > 0
    # A better probe may move the offset back past a message; an hour of skew would show as all of them in the future.
    assert counters["dropped"].get("backward", 0) <= 2
    assert "future" not in counters["dropped"]
