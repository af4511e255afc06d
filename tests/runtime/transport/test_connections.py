"""CURVE connections that go wrong: too large, not introduced, gone, changed by a third party; ipc and IPv6."""

from __future__ import annotations

import socket as network
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq
from curve_peers import FRAME, KeyFolder, free_endpoint, heard, until

import runtime.transport.authentication as authentication
import runtime.transport.bounded_socket as bounded_socket
from runtime.transport.sockets import FrameReceiver, FrameSender


@pytest.fixture
def test_a_message_beyond_the_limit_costs_the_sender_its_connection_also_with_keys(
    folder: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_socket, "MAX_MESSAGE_BYTES", 100_000)
    with (
        FrameReceiver(free_endpoint(), keys=folder.node) as frames,
        FrameSender(frames.endpoint, keys=folder.allow("camera", "sensor")) as sender,
    ):
        assert heard(frames, sender)
        while frames.receive() is not None:
            pass
        sender.send([FRAME[0], b"", b"x" * 200_000])
        got: list[int] = []

        def receive() -> bool:
            sender.send(FRAME)
            parts = frames.receive()
            if parts is not None:
                got.append(len(parts[2]))
            return len(got) > 3

        assert until(receive), "it comes back by itself"
        assert max(got) == len(FRAME[2])


def test_every_socket_gives_up_on_peers_that_are_gone(folder: KeyFolder, frames: FrameReceiver) -> None:
    with FrameSender(frames.endpoint, keys=folder.allow("camera", "sensor")) as sender:
        for socket in (frames.socket, sender.socket):
            assert 0 < socket.getsockopt(zmq.HANDSHAKE_IVL) <= 5000
            assert 0 < socket.getsockopt(zmq.HEARTBEAT_IVL) < socket.getsockopt(zmq.HEARTBEAT_TIMEOUT)
            assert socket.getsockopt(zmq.MAXMSGSIZE) == bounded_socket.MAX_MESSAGE_BYTES
            assert socket.getsockopt(zmq.LINGER) == 0


def test_a_peer_that_never_says_who_it_is_is_dropped(
    folder: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_socket, "HANDSHAKE_MS", 200)
    with FrameReceiver(free_endpoint(), keys=folder.node) as frames:
        port = int(frames.endpoint.rpartition(":")[2])
        with network.create_connection(("127.0.0.1", port)) as mute:
            mute.settimeout(5)
            assert until(lambda: mute.recv(1000) == b"")


class Wire(threading.Thread):
    """Somebody on the line between a sensor and a node, who may change what passes."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(daemon=True)
        self._node = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._listener = network.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.change: Callable[[bytes], bytes] | None = None
        self.changed = threading.Event()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                sensor, _ = self._listener.accept()
                node = network.create_connection(self._node)
                threading.Thread(target=self._carry, args=(node, sensor, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(sensor, node, True), daemon=True).start()

    def _carry(self, source: network.socket, sink: network.socket, up: bool) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65536):
                if up and self.change is not None and len(data) > 500:
                    data, self.change = self.change(data), None
                    self.changed.set()
                sink.sendall(data)
            sink.shutdown(network.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(
    "change",
    [lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:], lambda data: data + data],
    ids=["altered", "repeated"],
)
def test_what_was_changed_on_the_way_is_not_heard(
    folder: KeyFolder, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(authentication, "HEARTBEAT_TIMEOUT_MS", 400)
    with (
        FrameReceiver(free_endpoint(), keys=folder.node) as frames,
        closing(Wire(frames.endpoint)) as wire,
        FrameSender(wire.endpoint, keys=folder.allow("camera", "sensor")) as sender,
    ):
        wire.start()
        assert heard(frames, sender)
        while frames.receive() is not None:
            pass
        wire.change = change
        payload = bytes(range(256)) * 4
        got: list[tuple[bytes, bytes]] = []
        number = 0

        def receive() -> bool:
            nonlocal number
            sender.send([FRAME[0], str(number).encode(), payload])
            number += 1
            while (parts := frames.receive()) is not None:
                got.append((bytes(parts[1]), bytes(parts[2])))
            return wire.changed.is_set() and len(got) > 5

        assert until(receive, 10), "the connection ends and comes back"
        assert set(frames.refused()) <= {"wrong_server_key", "repeated"}
    news = [(head, body) for head, body in got if head != FRAME[1]]
    assert all(body == payload for _, body in news)
    assert len({head for head, _ in news}) == len(news), "no message is heard twice"


def test_ipc_stays_plain_and_open_to_the_user(folder: KeyFolder, tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ai-") as short:
        endpoint = f"ipc://{short}/frames"
        with FrameReceiver(endpoint, keys=folder.node) as frames, FrameSender(endpoint) as sender:
            assert heard(frames, sender)
            assert frames.refused() == {}


def test_ipv6_loopback_works_with_and_without_keys(folder: KeyFolder) -> None:
    try:
        with network.socket(network.AF_INET6) as probe:
            probe.bind(("::1", 0))
            endpoint = f"tcp://[::1]:{probe.getsockname()[1]}"
    except OSError as e:
        pytest.skip(f"this machine has no IPv6: {e}")
    for node, sensor in ((None, None), (folder.node, folder.allow("camera", "sensor"))):
        with FrameReceiver(endpoint, keys=node) as frames, FrameSender(endpoint, keys=sensor) as sender:
            assert heard(frames, sender)
