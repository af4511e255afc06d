"""Logging of every process of the runtime: what is told under ``afterimage.*``, how much of it, and in which form.

Changes of state are INFO, refusals WARNING. What can come thousands of times a second carries a throttle key
(``logger.warning(text, extra=throttled("refused rgb"))``): one line per key in :data:`THROTTLE_S`, and the next
says how many were left out. Processes that are started by ours log as their parent does, by two environment variables.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

ROOT = "afterimage"
THROTTLE_S = 5.0
LEVEL_VARIABLE, FORMAT_VARIABLE = "AFTERIMAGE_LOG_LEVEL", "AFTERIMAGE_LOG_FORMAT"

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_KEYS_KEPT = 1024
_MARK = "afterimage_handler"


def throttled(key: str, **fields: Any) -> dict[str, Any]:
    """The ``extra`` of a record that may come often: lines of one key are at least :data:`THROTTLE_S` apart.

    Args:
        key: what is the same in all of them, short and from a small set: a sensor and a reason, not a detail.
        fields: further entries of the JSON form.
    """
    return {"throttle": key, "fields": fields}


class Throttle(logging.Filter):
    """Lets one record per logger and throttle key pass in a while; a function of (records, their times)."""

    def __init__(self, every_s: float = THROTTLE_S) -> None:
        """Begin with every key fresh.

        Args:
            every_s: seconds between two records of one key.
        """
        super().__init__()
        self._every_s = every_s
        self._passed: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record; one that passes after others were held back says how many."""
        key = getattr(record, "throttle", None)
        if key is None:
            return True
        which = (record.name, str(key))
        since, held_back = self._passed.get(which, (float("-inf"), 0))
        if record.created - since < self._every_s:
            self._passed[which] = (since, held_back + 1)
            return False
        if len(self._passed) >= _KEYS_KEPT:
            self._passed.clear()
        self._passed[which] = (record.created, 0)
        if held_back:
            record.msg = f"{record.getMessage()} ({held_back} more like this were left out)"
            record.args = ()
        return True


class TextFormatter(logging.Formatter):
    """``12:31:07 WARNING afterimage.node: text``."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name}: {message}", "%H:%M:%S", "{")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(verbosity: int = 0, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Write what is logged under ``afterimage`` to stderr, and have child processes do the same.

    Args:
        verbosity: 0 tells changes of state (INFO) and worse; 1 everything (DEBUG); -1 refusals (WARNING) and worse; -2
            errors only.
        as_json: one JSON object a line instead of text.
        stream: in place of stderr.
    """
    level = _LEVELS[min(max(1 - verbosity, 0), len(_LEVELS) - 1)]
    os.environ[LEVEL_VARIABLE] = logging.getLevelName(level)
    os.environ[FORMAT_VARIABLE] = "json" if as_json else "text"
    _install(level, as_json, stream)


def configure_logging_as_parent() -> None:
    """In a process that one of ours started: log as the parent does; INFO as text without one."""
    level = logging.getLevelNamesMapping().get(os.environ.get(LEVEL_VARIABLE, "INFO"), logging.INFO)
    _install(level, os.environ.get(FORMAT_VARIABLE) == "json", None)


def _install(level: int, as_json: bool, stream: TextIO | None) -> None:
    logger = logging.getLogger(ROOT)
    for handler in [h for h in logger.handlers if getattr(h, _MARK, False)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(stream or sys.stderr)
    setattr(handler, _MARK, True)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(Throttle())
    logger.addHandler(handler)
    logger.setLevel(level)
