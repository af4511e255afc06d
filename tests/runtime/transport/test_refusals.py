from __future__ import annotations

import pytest

from runtime.transport.refusals import Refusals


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records]


def test_a_peer_is_logged_once_a_minute_however_often_it_tries(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for i in range(600):
        refusals.add("unknown_key", "K", "K is refused", i / 5)  # two minutes, five times a second
    assert lines(caplog) == ["K is refused", "K is refused (299 more like this were left out)"]
    assert refusals.counts() == {"unknown_key": 600}


def test_peers_and_reasons_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for reason, peer in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")):
        refusals.add(reason, peer, f"{reason} {peer}", 0.0)
    assert lines(caplog) == ["a 1", "a 2", "b 1"]
    assert refusals.counts() == {"a": 3, "b": 1}


def test_a_crowd_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for i in range(5000):
        refusals.add("unknown_key", str(i), str(i), i / 1000)  # a new key each time, all within five seconds
    assert lines(caplog) == [str(i) for i in range(65)], "64 are told apart, all others share one line"
    assert refusals.counts() == {"unknown_key": 5000}
    refusals.add("unknown_key", "late", "late", 100.0)
    assert lines(caplog)[-1] == "late"
