"""The reasons for refusing a message, and the strict checks of header values that all decoders share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgpack

from configs.errors import AfterimageError

PROTOCOL_VERSION = 1
"""Version in every header; a receiver refuses any other."""

INT64_MAX = 2**63 - 1

BytesLike = bytes | bytearray | memoryview

UNPACK_FAILURES = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)
"""The errors that msgpack raises for bytes that it cannot read."""


class Reason(StrEnum):
    """Why a message did not reach the model: the closed set of words in counters and events.

    The bytes alone decide the first group (:class:`WireError`); the rig and the stream so far decide the second; the
    third happens to accepted messages whose samples never reach an engine.
    """

    BAD_PARTS = "bad_parts"
    """Not three parts."""
    BAD_TOPIC = "bad_topic"
    """A topic of another form, or one that does not match the header."""
    OVERSIZED = "oversized"
    """Header or payload over the limit."""
    BAD_HEADER = "bad_header"
    """Not one msgpack map, a key missing, or a value of the wrong type or range."""
    WRONG_VERSION = "wrong_version"
    WRONG_ENCODING = "wrong_encoding"
    WRONG_DTYPE = "wrong_dtype"
    WRONG_SHAPE = "wrong_shape"
    PAYLOAD_LENGTH = "payload_length"
    """Payload bytes are not shape x item size."""

    WRONG_RIG = "wrong_rig"
    UNKNOWN_MODALITY = "unknown_modality"
    WRONG_UNIT = "wrong_unit"
    NOT_FINITE = "not_finite"
    """NaN or infinity among the samples."""
    FUTURE = "future"
    """Captured later than now, beyond the tolerance."""
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    """Older than a message of this modality that was accepted before."""
    BACKWARD = "backward"
    """Numbered later than the last accepted message, but captured earlier: the sensor's clock was set back."""

    SUPERSEDED = "superseded"
    """A newer window was taken before this message was in one (latest wins)."""
    BROKEN_WINDOW = "broken_window"
    """A lost message or a restart broke the stream before this message was in a window."""
    FROZEN = "frozen"
    """Part of a run of identical messages."""
    CORRUPT = "corrupt"
    """Every window this message was in was refused by a content check."""


class WireError(AfterimageError):
    """A message is refused.

    Attributes:
        reason: the closed reason.
        expected: what would have been accepted, in words.
        came: what came, shortened.
    """

    def __init__(self, reason: Reason, expected: str, came: object) -> None:
        self.reason = reason
        self.expected = expected
        self.came = shorten(came)
        super().__init__(f"{reason.value}: expected {expected}, got {self.came}")


@dataclass(frozen=True, slots=True)
class Limits:
    """Size limits, checked before anything is parsed."""

    header_bytes: int = 4096
    payload_bytes: int = 4 * 1024 * 1024
    dimensions: int = 6
    uncertainty_ns: int = 1_000_000_000
    """A clock with a larger uncertainty is refused: it would admit frames from the future."""


def shorten(value: object, length: int = 80) -> str:
    """A short printable form of a value that came from outside; strings get no quotes."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:  # msgpack reads deeper nesting than Python prints
        text = f"a {type(value).__name__} nested too deeply to show"
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def unpack_map(data: BytesLike, limit: int) -> dict[str, Any]:
    """Read a header: one msgpack map with string keys.

    Raises:
        WireError: it is over the limit, not msgpack, or not a map.
    """
    size = len(data)
    if size > limit:
        raise WireError(Reason.OVERSIZED, f"a header of at most {limit} bytes", f"{size} bytes")
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except UNPACK_FAILURES as e:
        raise WireError(Reason.BAD_HEADER, "one msgpack map", f"{type(e).__name__}: {e}") from e
    if type(value) is not dict:
        raise WireError(Reason.BAD_HEADER, "one msgpack map", f"{type(value).__name__}")
    return value


def take_int(header: Mapping[str, Any], key: str, low: int = 0, high: int = INT64_MAX) -> int:
    """An integer of a header, within a range; ``True`` is not one."""
    value = header.get(key)
    if type(value) is not int or not low <= value <= high:
        raise WireError(Reason.BAD_HEADER, f"{key}: an integer in {low}..{high}", _came(header, key))
    return value


def take_str(header: Mapping[str, Any], key: str, longest: int = 256) -> str:
    """A string of a header, at most ``longest`` characters."""
    value = header.get(key)
    if type(value) is not str or len(value) > longest:
        raise WireError(
            Reason.BAD_HEADER, f"{key}: a string of at most {longest} characters", _came(header, key)
        )
    return value


def take_bool(header: Mapping[str, Any], key: str) -> bool:
    """A boolean of a header; 0 and 1 are not."""
    value = header.get(key)
    if type(value) is not bool:
        raise WireError(Reason.BAD_HEADER, f"{key}: true or false", _came(header, key))
    return value


def take_float(header: Mapping[str, Any], key: str) -> float:
    """A finite number of a header."""
    value = header.get(key)
    if type(value) not in (float, int) or not math.isfinite(value):  # type: ignore[arg-type]
        raise WireError(Reason.BAD_HEADER, f"{key}: a finite number", _came(header, key))
    return float(value)  # type: ignore[arg-type]


def take_map(header: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A map of a header."""
    value = header.get(key)
    if type(value) is not dict:
        raise WireError(Reason.BAD_HEADER, f"{key}: a map", _came(header, key))
    return value


def take_list(header: Mapping[str, Any], key: str, longest: int = 1024) -> list[Any]:
    """An array of a header, at most ``longest`` items."""
    value = header.get(key)
    if type(value) is not list or len(value) > longest:
        raise WireError(Reason.BAD_HEADER, f"{key}: an array of at most {longest} items", _came(header, key))
    return value


def take_version(header: Mapping[str, Any]) -> None:
    """Refuse every protocol version except this one."""
    version = header.get("version")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise WireError(Reason.WRONG_VERSION, f"version {PROTOCOL_VERSION}", _came(header, "version"))


def three_parts(parts: Sequence[Any]) -> tuple[memoryview, memoryview, memoryview]:
    """The parts as flat byte views; accepts bytes, memoryviews and ``zmq.Frame``, copies nothing.

    Raises:
        WireError: not three parts.
    """
    if len(parts) != 3:
        raise WireError(Reason.BAD_PARTS, "3 parts: topic, header, payload", f"{len(parts)} parts")
    topic, header, payload = (memoryview(p) for p in parts)
    return topic, header, payload


def _came(header: Mapping[str, Any], key: str) -> str:
    return shorten(header[key]) if key in header else "nothing"
