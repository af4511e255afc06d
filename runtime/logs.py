"""Logging of every process of the runtime: what is written under ``afterimage.*``, how much of it, and in which form.

State changes are INFO, refusals WARNING. A line that can come thousands of times a second carries a throttle key
(``logger.warning(text, extra=throttled("refused rgb"))``): one line per key in :data:`THROTTLE_S` is written, and the
next one says how many were left out. Child processes log as their parent does, through two environment variables.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any, TextIO

ROOT = "afterimage"
THROTTLE_S = 5.0
LEVEL_VARIABLE, FORMAT_VARIABLE = "AFTERIMAGE_LOG_LEVEL", "AFTERIMAGE_LOG_FORMAT"

_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_KEYS_KEPT = 1024
_ALL_OTHERS = object()
"""The key that all new keys share while a throttle is full."""


def throttled(key: str, **fields: Any) -> dict[str, Any]:
    """The ``extra`` of a record that may come often: lines of one key are at least :data:`THROTTLE_S` apart.

    Args:
        key: what is the same in all of them, short and from a small set: a sensor and a reason, not a detail.
        fields: further entries of the JSON form.
    """
    return {"throttle": key, "fields": fields}


class Throttle:
    """Lets one event per key pass in a while; a function of (events, now) whose memory is bounded."""

    def __init__(self, every_s: float, capacity: int = _KEYS_KEPT) -> None:
        """Begin with every key fresh.

        Args:
            every_s: seconds between two events of one key that pass.
            capacity: keys that are told apart within that time; all further ones share one.
        """
        self._every_s = every_s
        self._capacity = capacity
        self._passed: dict[Hashable, tuple[float, int]] = {}  # key -> when one passed last, held back since

    def admit(self, key: Hashable, now_s: float) -> int | None:
        """Whether an event passes: the number held back since the last one that did; None to hold this one back."""
        if key not in self._passed and len(self._passed) >= self._capacity:
            self._passed = {k: v for k, v in self._passed.items() if now_s - v[0] < self._every_s}
            if len(self._passed) >= self._capacity:
                key = _ALL_OTHERS
        since_s, held_back = self._passed.get(key, (float("-inf"), 0))
        if now_s - since_s < self._every_s:
            self._passed[key] = (since_s, held_back + 1)
            return None
        self._passed[key] = (now_s, 0)
        return held_back


class ThrottleFilter(logging.Filter):
    """Applies a :class:`Throttle` to the records of a handler that carry a throttle key."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle(THROTTLE_S)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record; one that passes after others were held back says how many."""
        key = getattr(record, "throttle", None)
        if key is None:
            return True
        held_back = self._throttle.admit((record.name, key), record.created)
        if held_back:
            record.msg = with_left_out(record.getMessage(), held_back)
            record.args = ()
        return held_back is not None


def with_left_out(text: str, left_out: int) -> str:
    """A line, with the number of lines like it that a throttle held back before it."""
    return f"{text} ({left_out} more like this were left out)" if left_out else text


class TextFormatter(logging.Formatter):
    """``2026-12-01 12:31:07 WARNING afterimage.node: text``, in local time."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname} {name}: {message}", "%Y-%m-%d %H:%M:%S", "{")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line = {**getattr(record, "fields", {}), **line}  # a field never replaces one of these
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _LogHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream, or to whatever ``sys.stderr`` is at that moment: a live display replaces it for a while."""

    def __init__(self, stream: TextIO | None) -> None:
        self._given = stream
        super().__init__(stream)

    @property
    def stream(self) -> TextIO:
        return self._given or sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """The base class sets the stream when it begins; it is looked up instead."""


def configure_logging(verbosity: int = 0, *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Write what is logged under ``afterimage`` to stderr, and have child processes do the same.

    Args:
        verbosity: 0 writes state changes (INFO) and worse; 1 everything (DEBUG); -1 refusals (WARNING) and worse; -2
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
    for handler in [h for h in logger.handlers if isinstance(h, _LogHandler)]:
        logger.removeHandler(handler)
    handler = _LogHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(ThrottleFilter())
    logger.addHandler(handler)
    logger.setLevel(level)
