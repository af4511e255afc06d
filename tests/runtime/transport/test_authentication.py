"""CURVE on real sockets on 127.0.0.1: who is heard, who is not, and what is logged about it."""

from __future__ import annotations

import socket as network
import threading
import time
from contextlib import suppress

import pytest
import zmq
from curve_peers import FRAME, KeyFolder, free_endpoint, heard, lines, read, refusing, until

from runtime.transport.authentication import guard_server
from runtime.transport.endpoints import EndpointError, Endpoints, check_endpoint
from runtime.transport.keys import Keys, KeysError, load_keys
from runtime.transport.sockets import DecisionReceiver, DecisionSender, FrameReceiver, FrameSender


def test_an_allowed_sensor_is_heard_whole_and_in_order(folder: KeyFolder, frames: FrameReceiver) -> None:
    with FrameSender(frames.endpoint, keys=folder.allow("camera", "sensor")) as sender:
        assert heard(frames, sender)
        while frames.receive() is not None:
            pass
        for i in range(200):
            sender.send([FRAME[0], str(i).encode(), b"x" * 10_000])
        got: list[bytes] = []

        def collect() -> bool:
            while (parts := frames.receive()) is not None:
                got.append(bytes(parts[1]))
            return len(got) >= 200

        assert until(collect)
    assert [g for g in got if g != FRAME[1]] == [str(i).encode() for i in range(200)]
    assert frames.refused() == {}


def test_an_unknown_key_is_not_heard_and_said_once(
    folder: KeyFolder, frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with FrameSender(frames.endpoint, keys=folder.peer("stranger")) as sender:
        assert not heard(frames, sender, 1.5)
        assert frames.refused()["unknown_key"] >= 2, "it knocks again and again"
        logged = lines(caplog, "is not in the allow-list")
        assert len(logged) == 1
        assert f"afterimage keys allow '{folder.peer('stranger').public}' --role sensor" in logged[0]
        assert len(lines(caplog, "the node does not admit key 'stranger'")) == 1, "the sensor is told too"
        folder.allow("stranger", "sensor")
        assert heard(frames, sender), "allowing it takes no restart on either side"


def test_a_plain_peer_is_not_heard_and_said_once(
    frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with FrameSender(frames.endpoint) as sender:
        assert not heard(frames, sender, 1.0)
    # Who hangs up first is a race; ZeroMQ tells more if it is the node, and the address if it is still connected.
    assert set(frames.refused()) <= {"no_keys", "unfinished"}
    logged = lines(caplog, "without CURVE keys")
    assert len(logged) == len(set(logged)) > 0


def test_what_does_not_speak_zeromq_is_hung_up_on(folder: KeyFolder, frames: FrameReceiver) -> None:
    port = int(frames.endpoint.rpartition(":")[2])
    with network.create_connection(("127.0.0.1", port)) as scanner:
        scanner.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\r\n" * 100)
        scanner.settimeout(5)
        with suppress(ConnectionResetError):
            while scanner.recv(1000):
                pass
    with FrameSender(frames.endpoint, keys=folder.allow("camera", "sensor")) as sender:
        assert heard(frames, sender)


def test_a_peer_with_another_nodes_key_talks_to_nobody(
    folder: KeyFolder, frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    camera = folder.allow("camera", "sensor")
    elsewhere = Keys("camera", camera.public, camera.secret, folder.peer("other-node").public)
    with FrameSender(frames.endpoint, keys=elsewhere) as sender:
        assert until(refusing(frames, "wrong_server_key"))
        assert not heard(frames, sender, 0.3)
        assert until(lambda: bool(sender.refused()))
    assert "is --server-key the node's key?" in caplog.text


def test_roles_are_not_exchanged(
    folder: KeyFolder,
    frames: FrameReceiver,
    decisions: DecisionSender,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sensor, reader = folder.allow("camera", "sensor"), folder.allow("desk", "reader")
    with (
        FrameSender(frames.endpoint, keys=reader) as publishing_reader,
        DecisionReceiver(decisions.endpoint, [b""], keys=sensor) as reading_sensor,
    ):
        assert until(refusing(frames, "wrong_role"))
        assert until(refusing(decisions, "wrong_role"))
        assert not heard(frames, publishing_reader, 0.3)
        assert not read(decisions, reading_sensor, 0.3)
    with (
        FrameSender(frames.endpoint, keys=sensor) as good_sensor,
        DecisionReceiver(decisions.endpoint, [b""], keys=reader) as good_reader,
    ):
        assert heard(frames, good_sensor)
        assert read(decisions, good_reader)
    assert len(lines(caplog, "is allowed, but not as sensor")) == 1
    assert len(lines(caplog, "is allowed, but not as reader")) == 1


def test_a_sensor_publishes_only_the_modalities_it_is_allowed(
    folder: KeyFolder, frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with FrameSender(frames.endpoint, keys=folder.allow("camera", "sensor", "rgb")) as sender:
        assert heard(frames, sender)
        while frames.receive() is not None:
            pass
        for topic in (
            b"frame/commands-4/eeg",
            b"frame/commands-4/x/rgb",
            b"rgbx",
            b"frame/commands-4/rgb\xff",
        ):
            for _ in range(40):
                sender.send([topic, b"", b""])
        sender.send([FRAME[0], b"last", b""])
        got: list[list[memoryview]] = []

        def receive() -> bool:
            parts = frames.receive()
            if parts is not None:
                got.append(parts)
            return bool(got) and bytes(got[-1][1]) == b"last"

        assert until(receive)
    assert len([g for g in got if bytes(g[1]) != FRAME[1]]) == 1
    assert frames.refused() == {"wrong_modality": 160}
    assert len(lines(caplog, "may not publish")) == 1


def test_a_revoked_sensor_is_cut_off_while_others_go_on(
    folder: KeyFolder, frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        FrameSender(frames.endpoint, keys=folder.allow("lost", "sensor")) as lost,
        FrameSender(frames.endpoint, keys=folder.allow("kept", "sensor")) as kept,
    ):
        assert heard(frames, lost)
        assert heard(frames, kept)
        folder.revoke("lost")

        def cut_off() -> bool:
            lost.send([b"frame/commands-4/eeg", b"", b""])
            while frames.receive() is not None:
                pass
            return frames.refused().get("revoked_key", 0) > 0 and frames.refused().get("unknown_key", 0) > 0

        assert until(cut_off), "its messages are thrown away, its connection ends, and it does not come back"
        assert not heard(frames, lost, 0.3)
        assert heard(frames, kept)
        assert len(lines(caplog, "was revoked")) == 1
        folder.allow("lost", "sensor")
        assert heard(frames, lost)


def test_a_revoked_reader_is_cut_off_while_others_go_on(folder: KeyFolder, decisions: DecisionSender) -> None:
    with (
        DecisionReceiver(decisions.endpoint, [b"fused"], keys=folder.allow("lost", "reader")) as lost,
        DecisionReceiver(decisions.endpoint, [b"fused"], keys=folder.allow("kept", "reader")) as kept,
    ):
        assert read(decisions, lost)
        assert read(decisions, kept)
        folder.revoke("lost")
        numbers: list[int] = []
        sent = 0

        def cut_off() -> bool:
            nonlocal sent
            decisions.update_subscriptions()
            decisions.send([b"fused", str(sent).encode(), b""])
            sent += 1
            while (parts := kept.receive(0)) is not None:
                if bytes(parts[1]) != b"decision":
                    numbers.append(int(bytes(parts[1])))
            return decisions.refused().get("unknown_key", 0) > 0

        assert until(cut_off)
        while lost.receive(0) is not None:
            pass
        assert not read(decisions, lost, 0.3)
        assert numbers == list(range(len(numbers))), "the other reader missed nothing"
        assert read(decisions, kept)
        assert decisions.refused()["revoked_key"] == 1


def test_the_holder_of_the_nodes_own_key_may_do_everything(
    folder: KeyFolder, frames: FrameReceiver, decisions: DecisionSender
) -> None:
    own = load_keys("node", "node", folder=folder.folder)
    with FrameSender(frames.endpoint, keys=own) as sender:
        assert heard(frames, sender)
    with DecisionReceiver(decisions.endpoint, [b""], keys=own) as reader:
        assert read(decisions, reader)


def test_without_its_guard_a_socket_lets_nobody_in(folder: KeyFolder, frames: FrameReceiver) -> None:
    assert frames._server_guard is not None
    frames._server_guard.close()
    with FrameSender(frames.endpoint, keys=folder.allow("camera", "sensor")) as sender:
        assert not heard(frames, sender, 0.5)


def test_addresses_beyond_this_machine_need_keys_and_keys_need_their_other_half(folder: KeyFolder) -> None:
    with pytest.raises(EndpointError, match="afterimage keys new"):
        check_endpoint("tcp://10.1.2.3:5555")
    node, half = folder.node, load_keys("node", folder=folder.folder)
    check_endpoint("tcp://10.1.2.3:5555", node)
    check_endpoint("tcp://robot.local:5555", node)
    check_endpoint("tcp://[::]:5555", node)
    with pytest.raises(EndpointError, match=r"tcp://0\.0\.0\.0:PORT"):
        check_endpoint("tcp://*:5555", node)
    assert Endpoints("tcp://0.0.0.0:5555", "tcp://0.0.0.0:5556", node).keys == node
    assert node.secret not in repr(Endpoints("tcp://0.0.0.0:5555", "tcp://0.0.0.0:5556", node))
    with pytest.raises(KeysError, match="--server-key"):
        FrameSender("tcp://127.0.0.1:5555", keys=half)
    with pytest.raises(KeysError, match="without an allow-list"):
        FrameReceiver("tcp://127.0.0.1:5555", keys=Keys("node", node.public, node.secret))
    with pytest.raises(EndpointError, match="cannot listen there"):
        FrameReceiver("tcp://203.0.113.7:5555", keys=node)


def test_a_bad_allow_list_stops_the_start_and_not_the_run(
    folder: KeyFolder, frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    camera = folder.allow("camera", "sensor")
    with FrameSender(frames.endpoint, keys=camera) as sender:
        assert heard(frames, sender)
        folder.allow_list.write_text("keys: [")
        assert until(lambda: "the allow-list stays as it was" in caplog.text)
        assert heard(frames, sender)
    with pytest.raises(KeysError, match="not YAML"):
        FrameReceiver(free_endpoint(), keys=folder.node)


def test_no_secret_is_in_any_log(
    folder: KeyFolder, frames: FrameReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    stranger = folder.peer("stranger")
    with FrameSender(frames.endpoint, keys=stranger), FrameSender(frames.endpoint):
        assert until(lambda: len(frames.refused()) >= 2)
    for secret in (stranger.secret, folder.node.secret):
        assert secret not in caplog.text


def test_closing_waits_for_nobody_and_leaves_no_thread(folder: KeyFolder) -> None:
    before = threading.active_count()
    begin = time.monotonic()
    for _ in range(10):
        frames = FrameReceiver(free_endpoint(), keys=folder.node)
        sender = FrameSender(frames.endpoint, keys=folder.peer("camera"))
        frames.close()
        frames.close()
        sender.close()
    assert time.monotonic() - begin < 10
    assert threading.active_count() == before


def test_two_guards_in_one_context_are_refused(folder: KeyFolder) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as one, context.socket(zmq.SUB) as two:
        first = guard_server(one, context, free_endpoint(), folder.node, "frames")
        with pytest.raises(KeysError, match="context of its own"):
            guard_server(two, context, free_endpoint(), folder.node, "frames")
        assert first is not None
        first.close()
        one.close(0)
        two.close(0)
