"""Valid messages of every kind, and seeded mutations that spoil them, for fuzzing what reads the wire."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import zmq
from pipeline_bench import SENSORS, START

from runtime.wire import (
    Alternative,
    Clock,
    Decision,
    HealthEvent,
    JournalEntry,
    ModalityReport,
    Observation,
    Statistics,
    encode_entry,
    encode_frame,
    encode_output,
)
from runtime.wire.control import (
    Request,
    error_answer,
    probe_answer,
    probe_request,
    swap_answer,
    swap_request,
)

Parts = list[bytes]

# --- valid messages, to be spoiled -----------------------------------------------------------------------------------


def valid_frames() -> list[Parts]:
    generator = np.random.default_rng(0)
    messages = []
    for number in range(24):
        for name, sensor in SENSORS.items():
            shape = (1 + number % 3, *sensor["sample_shape"])
            samples = generator.integers(0, 200, shape).astype(sensor["dtype"])
            clock = Clock() if number % 2 else Clock("own", number * 10**9, number)
            messages.append(
                encode_frame(
                    "bench", name, number, samples, capture_ns=START, unit=sensor["unit"], clock=clock
                )
            )
    return [[bytes(p) for p in parts] for parts in messages]


def valid_outputs() -> list[Parts]:
    decision = Decision(
        rig="bench",
        bundle="0123456789abcdef",
        tick=41,
        deadline_ns=START,
        published_ns=START + 1,
        capture_ns=START - 1,
        label="go",
        probabilities={"stop": 0.25, "go": 0.75},
        entropy=0.5,
        presence={"rgb": 0, "audio": 1},
        fill="impute",
        modalities={
            "rgb": ModalityReport("missing", "silence", None, 0.0, True),
            "audio": ModalityReport("live", "", 20.5, 1.0, False),
        },
        latency_ms={"fuse": 0.5},
        compare={"hold": Alternative("stop", {"stop": 0.75, "go": 0.25})},
    )
    observation = Observation(
        "bench",
        "0123456789abcdef",
        "rgb",
        "best",
        41,
        START,
        True,
        ("audio",),
        "intensity",
        np.ones((2, 3), "f4"),
    )
    messages = (
        decision,
        HealthEvent("bench", "rgb", START, "live", "missing", "silence", "0.120 s > 0.100 s"),
        observation,
        replace(observation, stream="imputed"),
        Statistics("bench", "0123456789abcdef", START, {"messages": {"received": 3}, "backend": "none"}),
    )
    return [[bytes(p) for p in encode_output(m)] for m in messages]


def valid_entries() -> list[Parts]:
    entries = (
        JournalEntry("begin", 0, START, settings={"rig": {"name": "bench"}, "bundle": "0123"}),
        JournalEntry("bundle", 9, START, 1, settings={"bundle": "0123"}),
        JournalEntry("windows", 1, START),
        JournalEntry("tick", 2, START, 4),
        JournalEntry("evidence", 3, START, 1, "eeg", START - 5),
        JournalEntry("encode_failed", 4, START, 1, "eeg", detail="RuntimeError: no"),
        *(
            JournalEntry("frame", 5 + i, START, i, "eeg", parts=tuple(p))
            for i, p in enumerate(valid_frames()[:6])
        ),
        JournalEntry("frame", 7, START, 9, parts=(b"x",)),
        JournalEntry("frame", 8, START, 9, parts=(b"x", b"y", b"z", b"", b"")),
    )
    return [[bytes(p) for p in encode_entry(e)] for e in entries]


def valid_controls() -> list[Parts]:
    probe, swap = Request(7, "probe", sent_ns=-5), Request(8, "swap", path="/a/bundle")
    messages = (
        probe_request(7, START),
        swap_request(8, "/a/bundle"),
        probe_answer(probe, START, START + 1),
        swap_answer(swap, "0123456789abcdef"),
        error_answer(swap, "no such bundle"),
    )
    return [[b"", m, b""] for m in messages]


# --- mutations: (random, parts) -> parts ---------------------------------------------------------------------------

HUGE = [
    bytes.fromhex(h) for h in ("ddffffffff", "dcffff", "dfffffffff", "deffff", "dbffffffff", "c6ffffffff")
]
HUGE += [bytes.fromhex(h) for h in ("c9ffffffff01", "c8ffff01", "dd7fffffff", "df7fffffff", "c67fffffff")]
"""Arrays, maps, strings, binaries and extensions that declare up to 4 GiB and hold nothing."""
TIMESTAMPS = [
    bytes.fromhex(h) for h in ("d6ff00000001", "d7ffffffffffffffffff", "c70cff" + "ff" * 12, "c703ff010203")
]
CONFUSING: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, 1.0, 7.5, float("nan"),
    float("inf"), "", "x", "é" * 300, "\x00\n", "\ud7ff\U0010ffff", "raw", "float32", "uint8", "monotonic", b"",
    b"\xff" * 9,
    [], [1], [1, 4], [0], [-1], [2**63] * 6, [1] * 7, [1.0, 4], [True, 4], ["1"], [[1]], [None], {}, {"id": 1},
    {b"k": 1},
    {"id": "monotonic", "offset_ns": 0, "uncertainty_ns": 0},
    {"id": "own", "offset_ns": -(2**63), "uncertainty_ns": 10**9},
    {"id": "own", "offset_ns": 2**64 - 1, "uncertainty_ns": 2**63}, {"go": float("nan")}, {"rgb": True},
    {"rgb": 2**64 - 1},
    msgpack.ExtType(5, b"abc"), msgpack.Timestamp(1, 2),
]  # fmt: skip


def flip_bits(chance: random.Random, parts: Parts) -> Parts:
    at = chance.choice((0, 1, 1, 1, 1, 2))
    spoiled = bytearray(parts[at])
    for _ in range(chance.randrange(1, 6) if spoiled else 0):
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    return [*parts[:at], bytes(spoiled), *parts[at + 1 :]]


def truncate(chance: random.Random, parts: Parts) -> Parts:
    at = chance.choice((0, 1, 1, 2))
    return [*parts[:at], parts[at][: chance.randrange(len(parts[at]) + 1)], *parts[at + 1 :]]


def lengthen(chance: random.Random, parts: Parts) -> Parts:
    at = chance.choice((0, 1, 1, 2))
    return [*parts[:at], parts[at] + chance.randbytes(chance.choice((1, 4, 100, 5000))), *parts[at + 1 :]]


def splice(chance: random.Random, parts: Parts) -> Parts:
    head = parts[1]
    start, end = chance.randrange(len(head) + 1), chance.randrange(len(head) + 1)
    return [parts[0], head[:start] + head[end:], parts[2]]


def scribble(chance: random.Random, parts: Parts) -> Parts:
    head, at = parts[1], chance.randrange(len(parts[1]) + 1)
    junk = chance.choice((*HUGE, *TIMESTAMPS, chance.randbytes(chance.randrange(1, 12))))
    return [parts[0], head[:at] + junk + head[at + chance.choice((0, len(junk))) :], parts[2]]


def confuse(chance: random.Random, parts: Parts) -> Parts:
    header = msgpack.unpackb(parts[1])
    inside = [v for v in header.values() if isinstance(v, dict) and v]
    target = chance.choice(inside) if inside and chance.random() < 0.3 else header
    key = chance.choice(list(target))
    match chance.randrange(8):
        case 0:
            del target[key]
        case 1:
            target[chance.choice((b"version", "extra", "", "k" * 300))] = chance.choice(CONFUSING)
        case 2:
            target[key.encode() if isinstance(key, str) else key] = target.pop(key)
        case _:
            target[key] = chance.choice(CONFUSING)
    return [parts[0], msgpack.packb(header), parts[2]]


def declare_huge(chance: random.Random, parts: Parts) -> Parts:
    """One value of the header is a few bytes that declare much, or nest deeply."""
    header = msgpack.unpackb(parts[1])
    victim, depth = chance.choice(list(header)), chance.choice((2, 40, 300, 500, 511, 1000))
    deep = chance.choice((b"\x91" * depth + b"\xc0", b"\x81\xa1a" * depth + b"\xc0", b"\x92\x90" * depth))
    junk = chance.choice((*HUGE, *TIMESTAMPS, deep, deep, deep))
    packed = [msgpack.packb(k) + (junk if k == victim else msgpack.packb(v)) for k, v in header.items()]
    return [parts[0], bytes([0x80 | len(packed)]) + b"".join(packed), parts[2]]


def disorder(chance: random.Random, parts: Parts) -> Parts:
    """Another number of parts, or the right parts in the wrong places."""
    return [chance.choice(parts) for _ in range(chance.choice((0, 1, 2, 3, 3, 4, 5, 70)))]


def at_random(chance: random.Random, parts: Parts) -> Parts:
    head = chance.randbytes(chance.randrange(60))
    return [
        chance.choice((parts[0], chance.randbytes(chance.randrange(20)))),
        head,
        chance.choice((parts[2], b"")),
    ]


def keep(chance: random.Random, parts: Parts) -> Parts:
    return list(parts)


MUTATIONS = (
    flip_bits,
    truncate,
    lengthen,
    splice,
    scribble,
    confuse,
    confuse,
    declare_huge,
    disorder,
    at_random,
    keep,
)
FORMS: tuple[Callable[[bytes], Any], ...] = (bytes, bytes, bytes, bytearray, memoryview, zmq.Frame)


def mutated(seed: str, valid: Sequence[Parts], count: int) -> Iterator[list[Any]]:
    """Messages, each spoiled once or twice, in the forms that a socket can give."""
    chance = random.Random(seed)
    for _ in range(count):
        parts = chance.choice(MUTATIONS)(chance, chance.choice(valid))
        if len(parts) == 3 and parts[1] and chance.random() < 0.2:
            parts = chance.choice((flip_bits, truncate, splice, scribble))(chance, parts)
        form = chance.choice(FORMS)
        yield [form(p) for p in parts]
