"""What a node logs: state changes, refusals, failures; how little a flood of refused messages costs."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from engines.errors import EngineError
from engines.opening import open_session
from engines.session import Session
from runtime.core.pipeline import Rejected
from runtime.node.log import NodeLog
from runtime.node.node import Node
from runtime.rig import load_rig
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import FrameSender
from runtime.wire import Reason

S = 1_000_000_000
REFUSED = Rejected(Reason.WRONG_DTYPE, "uint8", "float32", "rgb")


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "afterimage.node")


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        yield Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")


def fields(caplog: pytest.LogCaptureFixture, level: int) -> list[dict[str, Any]]:
    return [cast("Any", r).fields for r in caplog.records if r.levelno == level]


class FailingToFuse:
    """A session whose fuse calls fail; everything else works."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def fuse(self, *_: object) -> Any:
        raise EngineError("the device is lost")


def test_a_node_logs_its_start_states_refusals_missed_ticks_and_failures(
    images_bundle: Path, endpoints: Endpoints, caplog: pytest.LogCaptureFixture
) -> None:
    rig = load_rig("commands-4")
    rig = rig.model_copy(update={"sensors": rig.sensors[:2]})
    now = [S]
    with (
        open_session(images_bundle) as session,
        Node(rig, cast("Session", FailingToFuse(session)), endpoints, clock=lambda: now[0]) as node,
        node.running(),
        FrameSender(endpoints.frames) as sender,
    ):
        (start,) = fields(caplog, logging.INFO)
        assert (start["rig"], start["bundle"]) == ("commands-4", session.bundle_hash)
        end = time.monotonic() + 10
        while not node.counters()["modalities"]["rgb"]["received"] and time.monotonic() < end:
            sender.send([b"frame/commands-4/rgb", b"\x81\n", b""])
            time.sleep(0.01)
            node.turn()
        now[0] += 100 * S
        node.turn()
    changes = fields(caplog, logging.INFO)[1:]
    assert {(c["modality"], c["previous"], c["state"], c["reason"]) for c in changes} == {
        ("rgb", "waiting", "missing", "no_frame"),
        ("depth", "waiting", "missing", "no_frame"),
    }
    refused, missed = fields(caplog, logging.WARNING)
    assert (refused["modality"], refused["reason"]) == ("rgb", "bad_header")
    assert missed["missed"] == missed["tick"] == node.counters()["ticks"]["missed"] > 1900
    assert fields(caplog, logging.ERROR) == [{"stage": "fuse", "error": "the device is lost", "left_out": 0}]


def test_a_flood_of_refused_messages_is_one_line_in_a_while_that_says_how_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milliseconds = iter(range(10_000))
    log = NodeLog(lambda: next(milliseconds) * S // 1000)
    for _ in range(9001):
        log.message_refused("arm", REFUSED)
    log.message_refused("arm", Rejected(Reason.BAD_TOPIC, "a topic", "'x\\n'", None))
    assert [(f["modality"], f["reason"], f["left_out"]) for f in fields(caplog, logging.WARNING)] == [
        ("rgb", "wrong_dtype", 0),
        ("rgb", "wrong_dtype", 4999),
        (None, "bad_topic", 0),
    ]
    assert "(4999 more like this were left out)" in caplog.text


def test_a_refused_message_in_a_flood_costs_microseconds() -> None:
    log = NodeLog(time.monotonic_ns)
    log.message_refused("arm", REFUSED)
    best = min(_seconds(log) for _ in range(20))
    assert best < 20e-6, f"{best * 1e6:.1f} us a message"


def _seconds(log: NodeLog) -> float:
    begin = time.perf_counter()
    for _ in range(200):
        log.message_refused("arm", REFUSED)
    return (time.perf_counter() - begin) / 200
