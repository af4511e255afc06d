"""The journal: every input of a node's pipeline, in order, so that a recording can be run again to the same decisions.

A pipeline decides from (events, now) alone. While somebody subscribes to ``journal/``, the node publishes those events:
each frame as it came, with its time of arrival, and the calls between frames. Topics are ``journal/<call>``; for frames
``journal/frame/<modality>``, or ``journal/frame/`` if the modality could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgpack

from runtime.wire.checks import (
    PROTOCOL_VERSION,
    BytesLike,
    Limits,
    Reason,
    WireError,
    shorten,
    take_int,
    take_list,
    take_map,
    take_str,
    take_version,
    three_parts,
    unpack_map,
)

JOURNAL_PREFIX = b"journal/"
"""``journal/<call>``: a :class:`JournalEntry` per input of the pipeline, only while somebody subscribes."""

Call = Literal["begin", "frame", "windows", "evidence", "encode_failed", "tick", "bundle"]
CALLS: tuple[Call, ...] = ("begin", "frame", "windows", "evidence", "encode_failed", "tick", "bundle")
_WITH_SETTINGS = ("begin", "bundle")

_LIMITS = Limits(header_bytes=64 * 1024)
_KEPT = (1024, 8192, 4 * 1024 * 1024 + 1)
"""Bytes kept of each part of a frame: more than the wire allows, so that a replay refuses what the node refused."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One input of the pipeline.

    Attributes:
        call: ``begin`` (a run's settings, sent again to every new subscriber), ``frame`` (a message came), ``windows``
            (the windows that were due were taken), ``evidence`` (a window was encoded), ``encode_failed``, ``tick``,
            ``bundle`` (the node went on with another one).
        order: counts the inputs of a run from 0; ``begin`` has the number of the next one. A gap is a loss.
        at_ns: the time that the pipeline was given, node clock.
        number: counts the entries of its topic from 0; a gap shows which topic lost an entry.
        modality: of ``frame``, ``evidence`` and ``encode_failed``; empty if it could not be read.
        capture_ns: of ``evidence``: capture time of its window.
        detail: of ``encode_failed``, the error.
        parts: of ``frame``: the message as it came; views of what was received.
        settings: of ``begin``: rig (as JSON types), bundle, backend, start_ns, compare, wall_ns; of ``bundle``: bundle,
            bundle_name, backend.
    """

    call: Call
    order: int
    at_ns: int
    number: int = 0
    modality: str = ""
    capture_ns: int = 0
    detail: str = ""
    parts: tuple[BytesLike, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def journal_topic(entry: JournalEntry) -> bytes:
    """The topic of an entry."""
    suffix = f"frame/{entry.modality}" if entry.call == "frame" else entry.call
    return JOURNAL_PREFIX + suffix.encode()


def encode_entry(entry: JournalEntry) -> list[BytesLike]:
    """The three parts of an entry; a frame's last part travels as the payload, the others in the header."""
    header: dict[str, Any] = {
        "version": PROTOCOL_VERSION,
        "call": entry.call,
        "order": entry.order,
        "at_ns": entry.at_ns,
        "number": entry.number,
        "modality": entry.modality,
        "capture_ns": entry.capture_ns,
        "detail": entry.detail[:1024],
    }
    if entry.call in _WITH_SETTINGS:
        header["settings"] = dict(entry.settings)
    payload: BytesLike = b""
    if entry.call == "frame":
        parts = [memoryview(p)[:kept] for p, kept in zip(entry.parts, _KEPT, strict=False)]
        header["count"] = len(entry.parts)
        header["parts"] = [bytes(p) for p in parts[:2]]
        payload = parts[2] if len(parts) > 2 else b""
    return [journal_topic(entry), msgpack.packb(header), payload]


def decode_entry(parts: Sequence[Any]) -> JournalEntry:
    """Read an entry.

    Raises:
        WireError: the message is malformed. No bytes raise anything else.
    """
    topic, head, payload = three_parts(parts)
    header = unpack_map(head, _LIMITS.header_bytes)
    take_version(header)
    call = take_str(header, "call", 32)
    if call not in CALLS:
        raise WireError(Reason.BAD_HEADER, f"call: one of {list(CALLS)}", call)
    entry = JournalEntry(
        call=call,
        order=take_int(header, "order"),
        at_ns=take_int(header, "at_ns"),
        number=take_int(header, "number"),
        modality=take_str(header, "modality"),
        capture_ns=take_int(header, "capture_ns", -(2**63)),
        detail=take_str(header, "detail", 1024),
        parts=_take_parts(header, payload) if call == "frame" else (),
        settings=take_map(header, "settings") if call in _WITH_SETTINGS else {},
    )
    if bytes(topic[:512]) != journal_topic(entry):
        raise WireError(
            Reason.BAD_TOPIC, f"{journal_topic(entry)!r} as in the header", shorten(bytes(topic[:80]))
        )
    return entry


def _take_parts(header: Mapping[str, Any], payload: memoryview) -> tuple[BytesLike, ...]:
    count, first = take_int(header, "count", 0, 64), take_list(header, "parts", 2)
    if any(type(p) is not bytes for p in first) or len(first) != min(count, 2):
        raise WireError(Reason.BAD_HEADER, "parts: an array of byte strings", shorten(first))
    # Parts beyond the third are not kept: a decoder only needs to know that there were too many.
    return (*first, *((payload,) if count > 2 else ()), *(b"" for _ in range(3, count)))
