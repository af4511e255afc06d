"""A node on one machine, sensors and readers on another: two network namespaces with a cable between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from curve_peers import KeyFolder, heard, read, until
from network_namespaces import Host, NamespacesMissingError, two_hosts

import runtime.transport.authentication as authentication
from runtime.transport.endpoints import EndpointError
from runtime.transport.keys import Keys
from runtime.transport.sockets import DecisionReceiver, DecisionSender, FrameReceiver, FrameSender

FRAME = [b"frame/commands-4/rgb", b"header", b"x" * 12_288]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(two_hosts())
        except NamespacesMissingError as e:
            pytest.skip(str(e))
        yield pair


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def robot(hosts: tuple[Host, Host], folder: KeyFolder) -> Iterator[tuple[FrameReceiver, DecisionSender]]:
    """The sockets of a node, on the first host."""
    node = hosts[0]
    frames = node.inside(lambda: FrameReceiver(f"tcp://{node.address}:5555", keys=folder.node))
    decisions = node.inside(lambda: DecisionSender(f"tcp://{node.address}:5556", keys=folder.node))
    with frames, decisions:
        yield frames, decisions


def sensor(host: Host, frames: FrameReceiver, keys: Keys) -> FrameSender:
    return host.inside(lambda: FrameSender(frames.endpoint, keys=keys))


def test_another_machine_is_let_in_by_key_and_role(
    hosts: tuple[Host, Host], folder: KeyFolder, robot: tuple[FrameReceiver, DecisionSender]
) -> None:
    frames, decisions = robot
    other = hosts[1]
    with (
        sensor(other, frames, folder.allow("camera", "sensor")) as camera,
        sensor(other, frames, folder.allow("desk", "reader")) as publishing_reader,
        other.inside(
            lambda: DecisionReceiver(decisions.endpoint, [b""], keys=folder.allow("desk", "reader"))
        ) as desk,
    ):
        assert heard(frames, camera)
        assert read(decisions, desk)
        camera.send([FRAME[0], b"last", b""])
        # Until then more of the camera's messages may be on their way.
        assert until(lambda: (parts := frames.receive()) is not None and bytes(parts[1]) == b"last")
        assert not heard(frames, publishing_reader, 0.5)
        assert set(frames.refused()) == {"wrong_role"}
        assert decisions.refused() == {}


def test_strangers_from_another_machine_get_nothing_and_are_named_once(
    hosts: tuple[Host, Host],
    folder: KeyFolder,
    robot: tuple[FrameReceiver, DecisionSender],
    caplog: pytest.LogCaptureFixture,
) -> None:
    frames, decisions = robot
    other = hosts[1]
    with pytest.raises(EndpointError, match="CURVE keys are needed"):
        FrameSender(frames.endpoint)
    with (
        sensor(other, frames, folder.peer("stranger")) as stranger,
        other.inside(
            lambda: DecisionReceiver(decisions.endpoint, [b""], keys=folder.peer("stranger"))
        ) as listener,
    ):
        assert not heard(frames, stranger, 1.5)
        assert not read(decisions, listener, 1.5)
        assert frames.refused()["unknown_key"] >= 2
        assert decisions.refused()["unknown_key"] >= 2
    logged = [r.getMessage() for r in caplog.records if "is not in the allow-list" in r.getMessage()]
    assert len(logged) == 2, "once on each socket"
    assert all(f"from {other.address} " in line for line in logged)


def test_a_plain_peer_from_another_machine_gets_nothing(
    hosts: tuple[Host, Host],
    robot: tuple[FrameReceiver, DecisionSender],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runtime.transport.bounded_socket as bounded_socket

    frames, _ = robot
    monkeypatch.setattr(
        bounded_socket, "check_endpoint", lambda endpoint, keys=None: None
    )  # what others' programs do
    with hosts[1].inside(lambda: FrameSender(frames.endpoint)) as plain:
        assert not heard(frames, plain, 1.0)
    assert set(frames.refused()) <= {"no_keys", "unfinished"}
    logged = [r.getMessage() for r in caplog.records if "without CURVE keys" in r.getMessage()]
    assert len(logged) == len(set(logged)) > 0, "each once"


def test_a_revoked_key_loses_access_on_another_machine(
    hosts: tuple[Host, Host], folder: KeyFolder, robot: tuple[FrameReceiver, DecisionSender]
) -> None:
    frames, decisions = robot
    other = hosts[1]
    with (
        sensor(other, frames, folder.allow("camera", "sensor")) as camera,
        other.inside(
            lambda: DecisionReceiver(decisions.endpoint, [b""], keys=folder.allow("desk", "reader"))
        ) as desk,
    ):
        assert heard(frames, camera)
        assert read(decisions, desk)
        folder.revoke("camera")
        folder.revoke("desk")

        def both_cut() -> bool:
            camera.send(FRAME)
            frames.receive()
            decisions.update_subscriptions()
            desk.receive(0)
            return all("unknown_key" in socket.refused() for socket in (frames, decisions))

        assert until(both_cut)
        while frames.receive() is not None or desk.receive(0) is not None:
            pass
        assert not heard(frames, camera, 0.3)
        assert not read(decisions, desk, 0.3)


def test_a_pulled_cable_ends_the_connection_and_a_plugged_one_brings_it_back(
    hosts: tuple[Host, Host], folder: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(authentication, "HEARTBEAT_TIMEOUT_MS", 400)
    node, other = hosts
    frames = node.inside(lambda: FrameReceiver(f"tcp://{node.address}:5557", keys=folder.node))
    with frames, sensor(other, frames, folder.allow("camera", "sensor")) as camera:
        assert heard(frames, camera)
        guard = frames._admission
        assert guard is not None
        assert len(guard._addresses) == 1
        other.plug(False)
        try:
            assert until(lambda: not guard._addresses), "a half-open connection would stay for hours"
        finally:
            other.plug(True)
        while frames.receive() is not None:
            pass
        assert heard(frames, camera, 10)
