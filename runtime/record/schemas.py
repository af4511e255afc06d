"""The channels of a recording: the JSON Schema of each, and how messages become msgpack maps.

A message of the wire is a topic, a msgpack header and raw bytes. In a recording it is one msgpack map: the header's
keys, and ``data`` for the bytes. A frame also gets ``order`` (its place among all inputs of the node), ``number`` (its
place among the frames of its topic) and ``at_ns`` (when it arrived).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

from runtime.wire import FRAME_PREFIX, JOURNAL_PREFIX, JournalEntry, WireError, decode_entry
from runtime.wire.checks import unpack_map
from runtime.wire.labels import LABEL_PREFIX, Label, decode_label

REFUSED_TOPIC = "refused"
"""Channel of frames that are not three parts with one msgpack map; kept as they came, so a replay refuses them too."""
IMPORTED = "imported"
"""The backend in the settings of an imported recording."""
RECORDER_TOPIC = "recorder"
"""Channel of the recorder's own counts, written about once a second."""

_INTEGER, _NUMBER, _STRING, _BINARY = (
    {"type": "integer"},
    {"type": "number"},
    {"type": "string"},
    {"type": "string", "contentEncoding": "binary", "description": "msgpack bin"},
)
_COUNTS = {"type": "object", "additionalProperties": _INTEGER}


def _object(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": dict(properties)}


SCHEMAS: dict[str, dict[str, Any]] = {
    "afterimage.Frame": _object(
        {
            "rig": _STRING, "modality": _STRING, "sequence": _INTEGER, "capture_ns": _INTEGER,
            "clock": {"type": "object"}, "dtype": _STRING, "shape": {"type": "array", "items": _INTEGER},
            "unit": _STRING, "encoding": _STRING, "order": _INTEGER, "number": _INTEGER, "at_ns": _INTEGER,
            "data": _BINARY,
        },
        "Consecutive samples of a sensor, time first: little-endian, C order. Times are ns on the node's clock.",
    ),
    "afterimage.Decision": _object(
        {
            "tick": _INTEGER, "deadline_ns": _INTEGER, "label": _STRING, "probabilities": {"type": "object"},
            "presence": {"type": "object"}, "modalities": {"type": "object"}, "entropy": _NUMBER,
        },
        "One tick's fused decision, as published.",
    ),
    "afterimage.Health": _object(
        {"modality": _STRING, "at_ns": _INTEGER, "previous": _STRING, "state": _STRING, "reason": _STRING},
        "A sensor's state changed.",
    ),
    "afterimage.Label": _object(
        {
            "rig": _STRING, "name": _STRING, "onset_ns": _INTEGER, "end_ns": {"type": ["integer", "null"]},
            "author": _STRING, "number": _INTEGER, "clock": _STRING, "withdrawn": {"type": "boolean"},
        },
        "A class that holds from an onset to an end; the newest of one author and number counts.",
    ),
    "afterimage.Observation": _object(
        {"modality": _STRING, "imputed": {"type": "boolean"}, "shape": {"type": "array"}, "data": _BINARY},
        "A modality as the node knows it; imputed says whether the model made it.",
    ),
    "afterimage.Journal": _object(
        {"call": _STRING, "order": _INTEGER, "number": _INTEGER, "at_ns": _INTEGER, "modality": _STRING},
        "An input of the node's pipeline between frames.",
    ),
    "afterimage.Recorder": _object(
        {"received": _COUNTS, "lost": _COUNTS, "from_start": {"type": "boolean"}},
        "Messages by topic that the recorder got, and that were published but did not reach it.",
    ),
    "afterimage.Refused": _object(
        {
            "order": _INTEGER, "number": _INTEGER, "at_ns": _INTEGER, "modality": _STRING,
            "parts": {"type": "array", "items": _BINARY},
        },
        "A message that came on the frames' socket and is no frame.",
    ),
}  # fmt: skip
"""Schema name -> JSON Schema."""

_BY_PREFIX = {
    "frame/": "afterimage.Frame",
    "fused": "afterimage.Decision",
    "health": "afterimage.Health",
    "label/": "afterimage.Label",
    "imputed/": "afterimage.Observation",
    "best/": "afterimage.Observation",
    "journal/": "afterimage.Journal",
    RECORDER_TOPIC: "afterimage.Recorder",
    REFUSED_TOPIC: "afterimage.Refused",
}


def schema_of(topic: str) -> str:
    """The name of the schema of a channel."""
    return next(name for prefix, name in _BY_PREFIX.items() if topic.startswith(prefix))


def to_record(parts: Sequence[Any]) -> tuple[str, bytes, int | None]:
    """The recorded form of a message of the node.

    Args:
        parts: topic, header and payload.

    Returns:
        topic of the channel, msgpack map, and the message's own time in ns; None if its header has none.

    Raises:
        WireError: the header is not one msgpack map.
    """
    topic = bytes(parts[0])
    if topic.startswith(JOURNAL_PREFIX + b"frame/"):
        return _frame_record(decode_entry(parts))
    header = unpack_map(parts[1], 64 * 1024)
    at_ns = next((header[k] for k in ("at_ns", "published_ns") if isinstance(header.get(k), int)), None)
    payload = memoryview(parts[2])
    if payload.nbytes:
        header["data"] = payload.tobytes()
    return topic.decode("ascii", "replace"), msgpack.packb(header), at_ns


def _frame_record(entry: JournalEntry) -> tuple[str, bytes, int]:
    place = {"order": entry.order, "number": entry.number, "at_ns": entry.at_ns}
    parts = [bytes(p) for p in entry.parts]
    if len(parts) == 3 and entry.modality:
        try:
            header = unpack_map(parts[1], 4096)
        except WireError:
            header = {}
        # A replay must see the bytes that the node saw, so only a header that packs to the same bytes is merged.
        if header and not header.keys() & {*place, "data"} and msgpack.packb(header) == parts[1]:
            return parts[0].decode(), msgpack.packb({**header, **place, "data": parts[2]}), entry.at_ns
    kept = {**place, "modality": entry.modality, "parts": parts}
    return REFUSED_TOPIC, msgpack.packb(kept), entry.at_ns


def from_record(topic: str, data: bytes) -> JournalEntry | Label | dict[str, Any]:
    """Read a recorded message: an input of the pipeline as a journal entry, a label, anything else as its map.

    Raises:
        WireError: no recorder wrote this.
    """
    record = unpack_map(data, 1 << 30)
    if topic == REFUSED_TOPIC or topic.encode().startswith(FRAME_PREFIX):
        return _frame_entry(topic, record)
    if topic.encode().startswith(JOURNAL_PREFIX):
        return decode_entry([topic.encode(), msgpack.packb(record), b""])
    if topic.encode().startswith(LABEL_PREFIX):
        return decode_label([topic.encode(), msgpack.packb(record), b""])
    return record


def _frame_entry(topic: str, record: dict[str, Any]) -> JournalEntry:
    order, number, at_ns = (record.pop(key) for key in ("order", "number", "at_ns"))
    if topic == REFUSED_TOPIC:
        return JournalEntry("frame", order, at_ns, number, record["modality"], parts=tuple(record["parts"]))
    payload = record.pop("data")
    modality = topic.rsplit("/", 1)[1]
    parts = (topic.encode(), msgpack.packb(record), payload)
    return JournalEntry("frame", order, at_ns, number, modality, parts=parts)
