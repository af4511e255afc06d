"""Labels: what somebody says is true while sensors are recorded, as a message beside the frames.

A label is a class that holds from an onset to an end. It is sent when it begins (``end_ns`` is None), again when it
ends, and once more with ``withdrawn`` if it was a mistake; the newest message of one ``(author, number)`` counts.
Labels travel on the frames' socket under ``label/<rig>``, so one connection and one key serve a program that does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from runtime.wire.checks import (
    PROTOCOL_VERSION,
    BytesLike,
    Reason,
    WireError,
    shorten,
    take_bool,
    take_int,
    take_str,
    take_version,
    three_parts,
    unpack_map,
)

LABEL_PREFIX = b"label/"
"""``label/<rig>``: a :class:`Label`."""
_HEADER_BYTES = 2048
_ANY = -(2**63)


@dataclass(frozen=True, slots=True)
class Label:
    """A class that holds for a while.

    Attributes:
        rig: name of the rig that was watched.
        name: of the class.
        onset_ns: since when it holds, on the clock ``clock``.
        end_ns: until when; None while it still holds.
        author: who says so: ``keys``, ``cues``, ``lsl:MyMarkers``, ``events.tsv``, or the name of a person or program.
        number: counts the author's labels from 0; a message with a number that came before replaces that one.
        clock: name of the clock of the times; ``monotonic`` is CLOCK_MONOTONIC of the node's machine.
        withdrawn: the label was a mistake and does not count.
    """

    rig: str
    name: str
    onset_ns: int
    end_ns: int | None
    author: str
    number: int
    clock: str = "monotonic"
    withdrawn: bool = False

    def __post_init__(self) -> None:
        """Refuse a label that ends before it begins, and one without a name.

        Raises:
            ValueError: which.
        """
        if not self.name:
            raise ValueError("a label needs the name of a class, got an empty one")
        if self.end_ns is not None and self.end_ns < self.onset_ns:
            raise ValueError(
                f"label {self.name!r}: expected an end at or after its onset {self.onset_ns} ns, got {self.end_ns} ns"
            )


def label_topic(rig: str) -> bytes:
    """Topic of a rig's labels."""
    return LABEL_PREFIX + rig.encode()


def encode_label(label: Label) -> list[BytesLike]:
    """The three parts of a label; its payload is empty."""
    header: dict[str, Any] = {"version": PROTOCOL_VERSION}
    header |= {name: getattr(label, name) for name in Label.__slots__}
    return [label_topic(label.rig), msgpack.packb(header), b""]


def decode_label(parts: Sequence[Any]) -> Label:
    """Read a label.

    Raises:
        WireError: and nothing else, whatever the bytes.
    """
    topic, head, payload = three_parts(parts)
    header = unpack_map(head, _HEADER_BYTES)
    take_version(header)
    if payload.nbytes:
        raise WireError(Reason.PAYLOAD_LENGTH, "no payload", f"{payload.nbytes} bytes")
    ended = header.get("end_ns") is not None
    try:
        label = Label(
            rig=take_str(header, "rig", 64),
            name=take_str(header, "name", 128),
            onset_ns=take_int(header, "onset_ns", _ANY),
            end_ns=take_int(header, "end_ns", _ANY) if ended else None,
            author=take_str(header, "author", 128),
            number=take_int(header, "number"),
            clock=take_str(header, "clock", 128),
            withdrawn=take_bool(header, "withdrawn"),
        )
    except ValueError as e:
        raise WireError(Reason.BAD_HEADER, "a label with a name that ends after its onset", str(e)) from e
    if bytes(topic[:512]) != label_topic(label.rig):
        raise WireError(
            Reason.BAD_TOPIC, f"{label_topic(label.rig)!r} as in the header", shorten(bytes(topic[:80]))
        )
    return label


def standing(labels: Sequence[Label]) -> list[Label]:
    """The labels that count, in order of their onset: the newest of each author and number, unless withdrawn."""
    newest: dict[tuple[str, int], Label] = {}
    for label in labels:
        newest[label.author, label.number] = label
    return sorted(
        (x for x in newest.values() if not x.withdrawn), key=lambda x: (x.onset_ns, x.author, x.number)
    )
