"""Faults of single messages: damaged on the way, of another form than the rig says, or sent to the wrong place.

Each function gives a fault for some of a sensor's messages, as in :mod:`benchmarks.virtual_node.stream_faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from benchmarks.virtual_node.payloads import Parts
from benchmarks.virtual_node.sensor import VirtualSensor
from benchmarks.virtual_node.stream_faults import Fault
from runtime.transport.bounded_socket import MAX_PARTS
from runtime.wire import Limits, Reason

_LIMITS = Limits()

Change = Callable[[Parts, np.random.Generator], Parts]
"""Makes another message of one."""


def _with_header(**changes: Any) -> Change:
    def change(parts: Parts, chance: np.random.Generator) -> Parts:
        return parts[0], msgpack.packb(msgpack.unpackb(parts[1]) | changes), parts[2]

    return change


def _with_another_shape(parts: Parts, chance: np.random.Generator) -> Parts:
    return _with_header(shape=[*msgpack.unpackb(parts[1])["shape"], 1])(parts, chance)


def _cut_short(part: int) -> Change:
    def change(parts: Parts, chance: np.random.Generator) -> Parts:
        kept = int(chance.integers(len(parts[part])))
        return (*parts[:part], parts[part][:kept], *parts[part + 1 :])

    return change


REFUSALS: dict[str, tuple[Change, Reason]] = {
    "header cut short": (_cut_short(1), Reason.BAD_HEADER),
    "header too long": (
        lambda p, _: (p[0], p[1] + bytes(_LIMITS.header_bytes), p[2]),
        Reason.OVERSIZED,
    ),
    "payload cut short": (_cut_short(2), Reason.PAYLOAD_LENGTH),
    "payload too long": (lambda p, _: (*p[:2], bytes(_LIMITS.payload_bytes + 1)), Reason.OVERSIZED),
    "topic alone": (lambda p, _: p[:1], Reason.BAD_PARTS),
    "no payload": (lambda p, _: p[:2], Reason.BAD_PARTS),
    "one part too many": (lambda p, _: (*p, b""), Reason.BAD_PARTS),
    "parts without end": (lambda p, _: (*p, *[b"x"] * 9 * MAX_PARTS), Reason.BAD_PARTS),
    "another version": (_with_header(version=2), Reason.WRONG_VERSION),
    "another encoding": (_with_header(encoding="jpeg"), Reason.WRONG_ENCODING),
    "another dtype": (_with_header(dtype="float64"), Reason.WRONG_DTYPE),
    "another unit": (_with_header(unit="furlong"), Reason.WRONG_UNIT),
    "another shape": (_with_another_shape, Reason.WRONG_SHAPE),
    "no shape": (_with_header(shape=[]), Reason.WRONG_SHAPE),
    "shape of seven axes": (_with_header(shape=[1] * 7), Reason.WRONG_SHAPE),
    "negative number": (_with_header(sequence=-1), Reason.BAD_HEADER),
    "number in words": (_with_header(sequence="seven"), Reason.BAD_HEADER),
    "no time": (_with_header(capture_ns=True), Reason.BAD_HEADER),
    "no clock": (_with_header(clock=None), Reason.BAD_HEADER),
    "modality differs from topic": (_with_header(modality="lidar"), Reason.BAD_TOPIC),
}
"""Name -> how a message is changed, and the one reason for which a node must refuse it."""


def refused(sensor: VirtualSensor, messages: int, *names: str) -> Fault:
    """Messages are changed after they were encoded, in one way after the other.

    Args:
        sensor: whose messages.
        messages: how long.
        names: of :data:`REFUSALS`; all of them if none is given.
    """
    changes = [REFUSALS[name] for name in names or REFUSALS]
    for number in range(messages):
        change, reason = changes[number % len(changes)]
        yield (change(sensor.refused(reason), sensor.chance),)


def garbled_header(sensor: VirtualSensor, messages: int) -> Fault:
    """The header is random bytes."""
    for _ in range(messages):
        topic, _, data = sensor.message()
        sensor.ledger.garbled += 1
        yield ((topic, sensor.chance.bytes(int(sensor.chance.integers(1, 200))), data),)


def flipped_bit_of_header(sensor: VirtualSensor, messages: int) -> Fault:
    """One bit of the header is another one: the message is judged as what it says now, which the ledger cannot know."""
    for _ in range(messages):
        topic, header, data = sensor.good()
        yield ((topic, _flipped(header, sensor.chance), data),)


def flipped_bit_of_topic(sensor: VirtualSensor, messages: int) -> Fault:
    """One bit of the topic is another one: nobody can know whose the message is, and its sensor is silent."""
    for _ in range(messages):
        topic, header, data = sensor.message()
        sensor.ledger.nowhere[Reason.BAD_TOPIC] += 1
        yield ((_flipped(topic, sensor.chance), header, data),)


def flipped_bit_of_payload(sensor: VirtualSensor, messages: int) -> Fault:
    """One bit of the payload is another one. The wire has no checksum of its own, as ZeroMQ's transports have one."""
    for _ in range(messages):
        samples = np.frombuffer(_flipped(sensor.current.data, sensor.chance), sensor.spec.dtype)
        yield (sensor.good_or_not_finite(sensor.payload(samples.reshape(sensor.current.samples.shape))),)


def noisy_payload(sensor: VirtualSensor, messages: int) -> Fault:
    """The payload is random bytes."""
    for _ in range(messages):
        samples = np.frombuffer(sensor.chance.bytes(len(sensor.current.data)), sensor.spec.dtype)
        yield (sensor.good_or_not_finite(sensor.payload(samples.reshape(sensor.current.samples.shape))),)


def astray(sensor: VirtualSensor, messages: int) -> Fault:
    """Beside every good message comes one that belongs elsewhere."""
    rig, modality = sensor.rig.name, sensor.spec.modality
    places: tuple[tuple[str, dict[str, str], Reason], ...] = (
        (f"elsewhere/{modality}", {"rig": "elsewhere"}, Reason.WRONG_RIG),
        (f"{rig}/lidar", {"modality": "lidar"}, Reason.UNKNOWN_MODALITY),
        (f"{rig}/{modality}2", {}, Reason.BAD_TOPIC),
        ("x" * 600, {}, Reason.BAD_TOPIC),
    )
    for number in range(messages):
        name, changes, reason = places[number % len(places)]
        good = _, header, data = sensor.good()
        sensor.ledger.nowhere[reason] += 1
        yield good, (f"frame/{name}".encode(), msgpack.packb(msgpack.unpackb(header) | changes), data)


def _flipped(data: bytes, chance: np.random.Generator) -> bytes:
    flipped = bytearray(data)
    flipped[int(chance.integers(len(flipped)))] ^= 1 << int(chance.integers(8))
    return bytes(flipped)
