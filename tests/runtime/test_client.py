from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Client, TopicError
from runtime.transport.endpoints import EndpointError
from runtime.transport.sockets import DecisionSender
from runtime.wire import Decision, HealthEvent, Observation, Output, encode_output


@pytest.fixture
def endpoint() -> Iterator[str]:
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        yield f"ipc://{folder}/decisions"


def decision(tick: int) -> Decision:
    return Decision(
        rig="commands-4",
        bundle="b",
        tick=tick,
        deadline_ns=tick,
        published_ns=tick,
        capture_ns=None,
        label="stop",
        probabilities={"stop": 0.75, "go": 0.25},
        entropy=0.56,
        presence={"rgb": 0},
        fill="impute",
        modalities={},
    )


def observation(modality: str, stream: str = "imputed") -> Observation:
    return Observation(
        "commands-4", "b", modality, stream, 1, 2, True, ("audio",), "mm", np.ones((2, 2), np.float32)
    )


def connect(sender: DecisionSender, topics: list[bytes]) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        sender.update_subscriptions()
        if all(sender.subscribed(t) for t in topics):
            return
        time.sleep(0.01)
    raise AssertionError("nobody subscribed")


def test_messages_come_typed_and_only_those_asked_for(endpoint: str) -> None:
    event = HealthEvent("commands-4", "rgb", 5, "live", "missing", "silence", "0.2 s")
    with (
        DecisionSender(endpoint) as sender,
        Client("commands-4", ("fused", "health", "imputed/rgb", "best/"), endpoint=endpoint) as client,
    ):
        connect(sender, [b"fused", b"health", b"imputed/rgb", b"best/"])
        sent: list[Output] = [
            decision(0),
            event,
            observation("rgb"),
            observation("depth"),
            observation("rgb2"),  # matches the subscription to imputed/rgb by its prefix
            observation("eeg", "best"),
            decision(1),
        ]
        for message in sent:
            sender.send(encode_output(message))
        got = list(client.messages(timeout_s=0.3))
    assert [type(m) for m in got] == [Decision, HealthEvent, Observation, Observation, Decision]
    assert got[0] == decision(0)
    assert got[1] == event
    assert isinstance(got[2], Observation)
    assert (got[2].modality, got[2].imputed, got[2].sources) == ("rgb", True, ("audio",))
    np.testing.assert_array_equal(got[2].values, np.ones((2, 2)))
    assert isinstance(got[3], Observation)
    assert got[3].modality == "eeg"
    assert (client.lost, client.refused) == (0, 0)


def test_decisions_alone_are_easy_to_read_and_lost_ones_are_counted(endpoint: str) -> None:
    with DecisionSender(endpoint) as sender, Client("commands-4", endpoint=endpoint) as client:
        connect(sender, [b"fused"])
        for tick in (3, 4, 8, 9, 0, 1):  # 5 to 7 lost; then the node was started again
            sender.send(encode_output(decision(tick)))
        assert [d.tick for d in client.decisions(timeout_s=0.3)] == [3, 4, 8, 9, 0, 1]
        assert client.lost == 3


def test_garbage_is_counted_and_logged_and_what_follows_is_read(
    endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    with DecisionSender(endpoint) as sender, Client("commands-4", endpoint=endpoint) as client:
        connect(sender, [b"fused"])
        for parts in ([b"fused"], [b"fused", b"\xc1", b""], [b"fused"] * 50, [b"fusedish", b"\x80", b""]):
            sender.send(parts)
        sender.send(encode_output(decision(7)))
        got = client.receive(5)
        assert isinstance(got, Decision)
        assert got.tick == 7
        assert client.refused == 4
    refusals = [r.getMessage() for r in caplog.records if r.name == "afterimage.client"]
    assert [text.split(": ")[1] for text in refusals] == ["bad_parts", "bad_header", "bad_topic"], (
        "each reason once"
    )


def test_waiting_ends_in_time_whether_or_not_there_is_a_node(endpoint: str) -> None:
    with Client("commands-4", endpoint=endpoint) as client:
        begin = time.monotonic()
        assert client.receive(0.2) is None
        assert list(client.decisions(0.1)) == []
        assert client.receive(0) is None
        assert 0.25 < time.monotonic() - begin < 3


def test_a_client_finds_a_node_that_comes_back(endpoint: str) -> None:
    with Client("commands-4", endpoint=endpoint) as client:
        for tick in (1, 2):
            with DecisionSender(endpoint) as sender:
                end = time.monotonic() + 10
                got = None
                # A client subscribes again while it reads, so it reads while the node waits for it.
                while got is None and time.monotonic() < end:
                    sender.update_subscriptions()
                    sender.send(encode_output(decision(tick)))
                    got = client.receive(0.05)
                assert isinstance(got, Decision)
                assert got.tick == tick
                while client.receive(0.05) is not None:
                    pass


def test_a_client_that_does_not_read_holds_a_bounded_queue_and_learns_what_it_lost(endpoint: str) -> None:
    with DecisionSender(endpoint) as sender, Client("commands-4", endpoint=endpoint, queue=10) as client:
        connect(sender, [b"fused"])
        begin = time.monotonic()
        for tick in range(20_000):
            sender.send(encode_output(decision(tick)))
        assert time.monotonic() - begin < 20, "a slow reader never holds up the node"
        got = [d.tick for d in client.decisions(timeout_s=0.3)]
        end = time.monotonic() + 5
        while got[-1] < 20_000 and time.monotonic() < end:
            sender.send(encode_output(decision(20_000)))
            got += [d.tick for d in client.decisions(timeout_s=0.05)]
    assert len(got) < 20_000
    assert len(set(got)) + client.lost == got[-1] + 1 - got[0]


@pytest.mark.parametrize(
    "topic", ["", "fuse", "frame/commands-4/rgb", "imputed/lidar", "imputed", "best/rgb/"]
)
def test_an_unknown_topic_is_refused_with_those_that_exist(topic: str, endpoint: str) -> None:
    with pytest.raises(TopicError, match=r"is not one of fused, health, imputed/.*'rgb', 'depth'"):
        Client("commands-4", (topic,), endpoint=endpoint)


def test_an_address_beyond_this_machine_is_refused() -> None:
    with pytest.raises(EndpointError, match="CURVE"):
        Client("commands-4", endpoint="tcp://10.0.0.7:5555")


def test_the_defaults_of_client_and_node_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.transport.endpoints import default_endpoints, prepare_directory

    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        endpoint = default_endpoints("commands-4").decisions
        prepare_directory(endpoint)
        assert Path(endpoint.removeprefix("ipc://")).parent.is_dir()
        with DecisionSender(endpoint) as sender, Client("commands-4") as client:
            connect(sender, [b"fused"])
            sender.send(encode_output(decision(0)))
            assert isinstance(client.receive(5), Decision)
