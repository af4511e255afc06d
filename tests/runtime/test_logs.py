"""Logging: levels, the throttle, the two forms, and what children inherit."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest
from process_under_test import python, run_to_end

from runtime.logs import (
    FORMAT_VARIABLE,
    LEVEL_VARIABLE,
    Throttle,
    ThrottleFilter,
    configure_logging,
    throttled,
)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    logger = logging.getLogger("afterimage")
    handlers, level = list(logger.handlers), logger.level
    monkeypatch.setenv(LEVEL_VARIABLE, "INFO")
    monkeypatch.setenv(FORMAT_VARIABLE, "text")
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(created: float, key: str = "k", text: str = "refused %d", args: tuple[object, ...] = (1,)):
    made = logging.LogRecord("afterimage.node", logging.WARNING, __file__, 1, text, args, None)
    made.created = created
    made.__dict__.update(throttled(key))
    return made


def test_the_throttle_passes_one_record_per_key_and_counts_the_others():
    throttle = ThrottleFilter()
    passed = [throttle.filter(record(t)) for t in (0.0, 0.1, 4.9)]
    last = record(5.0)
    assert passed == [True, False, False]
    assert throttle.filter(record(1.0, key="other"))
    assert throttle.filter(last)
    assert last.getMessage() == "refused 1 (2 more like this were left out)"


def test_a_record_without_a_key_is_never_held_back():
    throttle = ThrottleFilter()
    plain = logging.LogRecord("afterimage.node", logging.INFO, __file__, 1, "live", (), None)
    assert throttle.filter(plain)
    assert throttle.filter(plain)


def test_a_crowd_of_keys_shares_one_line_and_costs_bounded_memory():
    throttle = Throttle(5.0, capacity=10)
    passed = [key for key in range(5000) if throttle.admit(key, key / 10_000) is not None]
    assert passed == list(range(11)), "ten keys are told apart, all others share one line"
    assert len(throttle._passed) == 11
    assert throttle.admit("later", 100.0) == 0, "keys are fresh again when the crowd is gone"
    assert len(throttle._passed) == 1


def test_a_field_never_replaces_what_every_line_has():
    stream = io.StringIO()
    configure_logging(as_json=True, stream=stream)
    logging.getLogger("afterimage.node").info("x", extra={"fields": {"level": "low", "unit": "uV"}})
    line = json.loads(stream.getvalue())
    assert (line["level"], line["unit"]) == ("INFO", "uV")


def test_lines_go_to_the_stderr_of_the_moment(monkeypatch):
    configure_logging()
    now = io.StringIO()
    monkeypatch.setattr(sys, "stderr", now)
    logging.getLogger("afterimage.node").info("live")
    assert now.getvalue().endswith(" INFO afterimage.node: live\n")


@pytest.mark.parametrize(
    ("verbosity", "told"),
    [
        (1, ["DEBUG", "INFO", "WARNING", "ERROR"]),
        (0, ["INFO", "WARNING", "ERROR"]),
        (-1, ["WARNING", "ERROR"]),
        (-9, ["ERROR"]),
    ],
)
def test_verbosity_chooses_what_is_told(verbosity, told):
    stream = io.StringIO()
    configure_logging(verbosity, as_json=True, stream=stream)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("afterimage.node").log(level, "x", extra={"fields": {"modality": "rgb"}})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == told
    assert all(line["modality"] == "rgb" and line["logger"] == "afterimage.node" for line in lines)


def test_a_child_process_logs_as_its_parent_does():
    configure_logging(-1, as_json=True, stream=io.StringIO())
    code = (
        "import logging; from runtime.logs import configure_logging_as_parent as c; c();"
        "log = logging.getLogger('afterimage.sensors'); log.info('no'); log.warning('yes')"
    )
    (line,) = run_to_end(python(code)).stderr.splitlines()
    assert json.loads(line)["message"] == "yes"
