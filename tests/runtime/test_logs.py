"""Logging: levels, the throttle, the two forms, and what children inherit."""

from __future__ import annotations

import io
import json
import logging

import pytest
from process_under_test import python, run_to_end

from runtime.logs import FORMAT_VARIABLE, LEVEL_VARIABLE, Throttle, configure_logging, throttled


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
    throttle = Throttle(every_s=5.0)
    passed = [throttle.filter(record(t)) for t in (0.0, 0.1, 4.9)]
    last = record(5.0)
    assert passed == [True, False, False]
    assert throttle.filter(record(1.0, key="other"))
    assert throttle.filter(last)
    assert last.getMessage() == "refused 1 (2 more like this were left out)"


def test_a_record_without_a_key_is_never_held_back():
    throttle = Throttle()
    plain = logging.LogRecord("afterimage.node", logging.INFO, __file__, 1, "live", (), None)
    assert throttle.filter(plain)
    assert throttle.filter(plain)


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
