"""Engine calls that raise or take two seconds: the session is the seam, everything around it is the whole node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest
from virtual_run import VirtualRun

from engines.errors import EngineError
from engines.session import Session
from runtime.rig import Rig

SECONDS_2 = 60  # periods of a camera


class FailingSession:
    """A session some of whose calls go wrong: ``fault`` is told of every one before it is made."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.fault: Callable[[str], None] = lambda call: None
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def encode(self, modality: str, windows: np.ndarray) -> np.ndarray:
        self.fault(f"encode_{modality}")
        return self._session.encode(modality, windows)

    def fuse(self, evidence: Mapping[str, np.ndarray], presence: np.ndarray) -> Any:
        self.fault("fuse")
        return self._session.fuse(evidence, presence)

    def decode(self, modality: str, latent: np.ndarray) -> np.ndarray:
        self.fault("decode")
        return self._session.decode(modality, latent)

    def raising(self, call: str) -> Callable[[str], None]:
        def fault(made: str) -> None:
            if made == call:
                self.failed += 1
                raise EngineError(f"{call}: the device is lost")

        return fault


@pytest.fixture
def failing(images_session: Session) -> FailingSession:
    return FailingSession(images_session)


@pytest.fixture
def run(failing: FailingSession, images_rig: Rig) -> Iterator[VirtualRun]:
    with VirtualRun(images_rig, cast("Session", failing)) as run:
        run.play(15)
        yield run


def test_an_encoder_that_raises_costs_its_sensor_and_nothing_else(
    run: VirtualRun, failing: FailingSession
) -> None:
    failing.fault = failing.raising("encode_rgb")
    run.play(20)
    failing.fault = lambda call: None
    run.play(20)
    log = run.finish()
    assert log.states("rgb") == ["live", "missing:encode_failed", "live"]
    assert log.states("depth") == ["live"]
    ticks = log.statistics["messages"]["ticks"]
    assert [d.tick for d in log.decisions] == list(range(ticks["published"]))
    assert ticks["missed"] == 0
    assert log.statistics["errors"]["encode_rgb"]["count"] == failing.failed == 20
    assert log.statistics["messages"]["unaccounted"] == 0


def test_a_fusion_that_raises_costs_its_ticks_and_says_so(run: VirtualRun, failing: FailingSession) -> None:
    failing.fault = failing.raising("fuse")
    run.play(20)
    failing.fault = lambda call: None
    run.play(20)
    log = run.finish()
    assert log.states("rgb") == log.states("depth") == ["live"]
    ticks = log.statistics["messages"]["ticks"]
    assert log.statistics["errors"]["fuse"]["count"] == failing.failed > 10
    numbers = [d.tick for d in log.decisions]
    assert len(numbers) == numbers[-1] + 1 - failing.failed, "the gap is as long as the fault"
    assert ticks["published"] == len(numbers), "a tick without a decision was not published"
    assert ticks["failed"] == failing.failed


def test_a_decoder_that_raises_costs_observations_only(run: VirtualRun, failing: FailingSession) -> None:
    failing.fault = failing.raising("decode")
    run.play(20)
    failing.fault = lambda call: None
    log = run.finish()
    assert log.states("rgb") == log.states("depth") == ["live"]
    assert [d.tick for d in log.decisions] == list(range(len(log.decisions)))


@pytest.mark.parametrize("call", ["encode_rgb", "fuse"])
def test_a_call_that_takes_two_seconds_costs_ticks_but_no_sensor_its_health(
    run: VirtualRun, failing: FailingSession, call: str
) -> None:
    """Sensors go on meanwhile; what they sent waits in the socket when the node comes back."""

    def stall(made: str) -> None:
        if made == call and not failing.failed:
            failing.failed += 1
            for _ in range(SECONDS_2):
                run.advance_while_the_node_is_held_up()
            # The stall itself takes no real time, and on a starved machine the sockets need some.
            time.sleep(0.3)

    failing.fault = stall
    run.play(30)
    log = run.finish()
    ticks = log.statistics["messages"]["ticks"]
    numbers = [d.tick for d in log.decisions]
    assert log.statistics["messages"]["unaccounted"] == 0
    assert ticks["published"] == len(numbers)
    assert ticks["missed"] == numbers[-1] + 1 - len(numbers)
    assert 37 <= ticks["missed"] <= 40
    assert all(any(d.presence.values()) for d in log.decisions if d.tick > 5), "a decision on nothing"
    assert log.states("rgb") == log.states("depth") == ["live"]
