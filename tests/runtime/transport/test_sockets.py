from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from curve_peers import free_endpoint, until

from runtime.transport.bounded_socket import MAX_PARTS
from runtime.transport.endpoints import (
    EndpointError,
    Endpoints,
    check_endpoint,
    default_endpoints,
    prepare_directory,
)
from runtime.transport.sockets import (
    DecisionReceiver,
    DecisionSender,
    FrameReceiver,
    FrameSender,
)

GREETING = b"greeting"


def drain(receiver: FrameReceiver, count: int, seconds: float = 5.0) -> list[list[bytes]]:
    """Messages received, without the greetings of :func:`connect`."""
    got: list[list[bytes]] = []

    def receive() -> bool:
        while (parts := receiver.receive()) is not None:
            if parts[0] != GREETING:
                got.append([bytes(p) for p in parts])
        return len(got) >= count

    until(receive, seconds)
    return got


def connect(receiver: FrameReceiver) -> FrameSender:
    """A sender whose connection is known to stand."""
    sender = FrameSender(receiver.endpoint)
    name = str(id(sender)).encode()

    def greeted() -> bool:
        sender.send([GREETING, name])
        parts = receiver.receive()
        return parts is not None and parts[-1] == name

    assert until(greeted)
    return sender


@pytest.mark.parametrize(
    ("endpoint", "named"),
    [
        ("tcp://0.0.0.0:5555", "CURVE"),
        ("tcp://*:5555", "CURVE"),
        ("tcp://192.168.1.4:5555", "not a loopback address"),
        ("tcp://robot.local:5555", "not a loopback address"),
        ("tcp://[::]:5555", "not a loopback address"),
        ("tcp://127.0.0.1:0", "port from 1"),
        ("tcp://127.0.0.1:70000", "port from 1"),
        ("tcp://127.0.0.1", "expected ipc"),
        ("udp://127.0.0.1:5555", "expected ipc"),
        ("inproc://x", "expected ipc"),
        ("ipc://relative/path", "absolute path"),
        ("ipc:///" + "x" * 107, "107"),
        ("", "expected ipc"),
    ],
)
def test_an_address_beyond_this_machine_or_malformed_is_refused(endpoint: str, named: str) -> None:
    with pytest.raises(EndpointError, match=named):
        check_endpoint(endpoint)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:5555", "tcp://localhost:5555", "tcp://[::1]:5555", "ipc:///tmp/x/frames"]
)
def test_an_address_on_this_machine_is_accepted(endpoint: str) -> None:
    check_endpoint(endpoint)


def test_one_endpoint_for_both_is_refused() -> None:
    with pytest.raises(EndpointError, match="two endpoints"):
        Endpoints("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555")


def test_default_endpoints_are_private_to_the_user(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(socket_folder))
    endpoints = default_endpoints("commands-4")
    assert endpoints.frames == f"ipc://{socket_folder}/afterimage-{os.getuid()}/commands-4/frames"
    prepare_directory(endpoints.frames)
    private = socket_folder / f"afterimage-{os.getuid()}"
    for path in (private, private / "commands-4"):
        assert path.stat().st_mode & 0o777 == 0o700
    (private / "commands-4").chmod(0o755)
    with pytest.raises(EndpointError, match="chmod 700"):
        prepare_directory(endpoints.frames)
    (private / "commands-4").chmod(0o700)
    private.chmod(0o777)
    with pytest.raises(EndpointError, match="chmod 700"):
        prepare_directory(endpoints.frames)


def test_a_link_in_place_of_the_private_directory_is_refused(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(socket_folder))
    (socket_folder / "elsewhere" / "commands-4").mkdir(parents=True, mode=0o700)
    (socket_folder / f"afterimage-{os.getuid()}").symlink_to(socket_folder / "elsewhere")
    with pytest.raises(EndpointError, match="expected a directory"):
        prepare_directory(default_endpoints("commands-4").frames)


def test_messages_arrive_whole_and_in_order(socket_folder: Path) -> None:
    with FrameReceiver(f"ipc://{socket_folder}/frames") as receiver, connect(receiver) as sender:
        for i in range(100):
            sender.send([b"topic", str(i).encode(), b"x" * 10_000])
        got = drain(receiver, 100)
    assert [g[1] for g in got] == [str(i).encode() for i in range(100)]
    assert all(len(g) == 3 and len(g[2]) == 10_000 for g in got)


def test_loopback_tcp_works_as_well() -> None:
    with FrameReceiver(free_endpoint()) as receiver, connect(receiver) as sender:
        sender.send([b"topic", b"header", b"payload"])
        assert drain(receiver, 1) == [[b"topic", b"header", b"payload"]]


def test_a_message_of_too_many_parts_is_cut_and_the_next_one_is_whole(socket_folder: Path) -> None:
    with FrameReceiver(f"ipc://{socket_folder}/frames") as receiver, connect(receiver) as sender:
        sender.send([b"p"] * 5000)
        sender.send([b"topic", b"header", b"payload"])
        got = drain(receiver, 2)
    assert [len(g) for g in got] == [MAX_PARTS + 1, 3]


def test_a_sensor_that_floods_does_not_starve_another(socket_folder: Path) -> None:
    with (
        FrameReceiver(f"ipc://{socket_folder}/frames", high_water_mark=50) as receiver,
        connect(receiver) as flooding,
        connect(receiver) as quiet,
    ):
        for _ in range(20_000):
            flooding.send([b"flood"])
        for _ in range(10):
            quiet.send([b"quiet"])
        time.sleep(0.2)
        first = [bytes(p[0]) for p in (receiver.receive() for _ in range(100)) if p is not None]
    assert first.count(b"quiet") == 10


def test_sending_to_nobody_never_waits_and_memory_is_bounded(socket_folder: Path) -> None:
    with FrameSender(f"ipc://{socket_folder}/frames") as sender:
        begin = time.monotonic()
        for _ in range(2000):
            sender.send([b"topic", b"h", b"x" * 100_000])
        assert time.monotonic() - begin < 5


def test_a_second_node_on_the_same_address_is_refused_and_the_first_goes_on(socket_folder: Path) -> None:
    endpoint = f"ipc://{socket_folder}/frames"
    with FrameReceiver(endpoint) as receiver, connect(receiver) as sender:
        with pytest.raises(EndpointError, match="another node listens"):
            FrameReceiver(endpoint)
        sender.send([b"still"])
        assert drain(receiver, 1) == [[b"still"]]
    with FrameReceiver(endpoint):  # the socket file left behind is no obstacle
        pass


def test_a_second_node_on_the_same_port_is_refused() -> None:
    with (
        FrameReceiver(free_endpoint()) as receiver,
        pytest.raises(EndpointError, match=r"cannot listen there: Address already in use"),
    ):
        FrameReceiver(receiver.endpoint)


def test_a_sensor_finds_a_node_that_comes_back(socket_folder: Path) -> None:
    endpoint = f"ipc://{socket_folder}/frames"
    with FrameReceiver(endpoint) as receiver:
        sender = connect(receiver)
    with sender, FrameReceiver(endpoint) as receiver:

        def found() -> bool:
            sender.send([b"again"])
            return receiver.receive() is not None

        assert until(found)


def test_the_node_knows_what_is_read_and_what_no_more(socket_folder: Path) -> None:
    endpoint = f"ipc://{socket_folder}/decisions"
    with DecisionSender(endpoint) as sender:

        def subscribed(topic: bytes) -> bool:
            sender.update_subscriptions()
            return sender.subscribed(topic)

        assert not subscribed(b"imputed/rgb")
        with DecisionReceiver(endpoint, [b"fused", b"imputed/"]) as receiver:
            assert until(lambda: subscribed(b"imputed/rgb"))
            assert subscribed(b"fused")
            assert not subscribed(b"best/rgb")
            sender.send([b"best/rgb", b"not wanted"])
            sender.send([b"imputed/rgb", b"wanted"])
            got = receiver.receive(5000)
            assert got is not None
            assert bytes(got[1]) == b"wanted"
            assert receiver.receive(0) is None
        assert until(lambda: not subscribed(b"imputed/rgb"))


def test_closing_twice_and_with_messages_unsent_returns_at_once(socket_folder: Path) -> None:
    sender = FrameSender(f"ipc://{socket_folder}/frames")
    sender.send([b"never delivered"])
    begin = time.monotonic()
    sender.close()
    sender.close()
    assert time.monotonic() - begin < 2
