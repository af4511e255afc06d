"""Fuzzing of every wire decoder: whatever the bytes, only a documented refusal comes out, and memory stays small.

Mutations are seeded, so a failure comes again; its message shows the parts. ``AFTERIMAGE_FUZZ_BATCHES`` sets how many
batches of 50000 messages each decoder gets: the whole of a million is 20.
"""

from __future__ import annotations

import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from pipeline_bench import MS, SENSORS, START, Bench, bench_manifest, bench_rig

from runtime.core.pipeline import Received, Rejected
from runtime.wire import (
    Alternative,
    Clock,
    Decision,
    Frame,
    FrameDecoder,
    HealthEvent,
    JournalEntry,
    ModalityReport,
    Observation,
    Reason,
    Statistics,
    WireError,
    decode_entry,
    decode_frame,
    decode_output,
    encode_entry,
    encode_frame,
    encode_output,
)
from runtime.wire.control import (
    CONTROL_BYTES,
    Request,
    error_answer,
    probe_answer,
    probe_request,
    read_probe,
    read_request,
    read_swap,
    swap_answer,
    swap_request,
)

BATCH = 50_000
BATCHES = int(os.environ.get("AFTERIMAGE_FUZZ_BATCHES", "4"))

BY_BYTES = {
    Reason.BAD_PARTS,
    Reason.BAD_TOPIC,
    Reason.OVERSIZED,
    Reason.BAD_HEADER,
    Reason.WRONG_VERSION,
    Reason.WRONG_ENCODING,
    Reason.WRONG_DTYPE,
    Reason.WRONG_SHAPE,
    Reason.PAYLOAD_LENGTH,
}
"""What the bytes alone decide; the other reasons are the pipeline's."""

Parts = list[bytes]
INT64 = range(2**63)

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


def _documented(refusal: WireError, message: Any) -> WireError:
    assert refusal.reason in BY_BYTES, (refusal, message)
    assert len(refusal.came) <= 80
    return refusal


def outcome(decode: Callable[[Any], Any], message: Any) -> Any:
    """What a decoder returns, or why it refuses; any other exception shows the message that brought it."""
    try:
        return decode(message)
    except WireError as e:
        return _documented(e, message)
    except Exception as e:
        parts = [bytes(p) for p in message] if isinstance(message, list) else message
        e.add_note(f"from {decode}: {parts!r}"[:6000])
        raise


# --- the tests ---


def check_frame(frame: Frame, message: Sequence[Any]) -> None:
    """What a decoder lets through is within the protocol."""
    assert type(frame.rig) is type(frame.modality) is type(frame.unit) is type(frame.clock.id) is str
    assert bytes(message[0]) == f"frame/{frame.rig}/{frame.modality}".encode()
    assert type(frame.sequence) is type(frame.capture_ns) is int
    assert frame.sequence in INT64
    assert frame.capture_ns in INT64
    assert -(2**63) <= frame.clock.offset_ns < 2**63
    assert 0 <= frame.clock.uncertainty_ns <= 10**9
    assert 1 <= frame.samples.ndim <= 6
    assert frame.samples.dtype.name in ("uint8", "uint16", "int16", "float32")
    assert frame.samples.tobytes() == bytes(message[2])


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_spoiled_frame_is_read_or_refused_by_both_decoders_alike(batch: int) -> None:
    """The decoder with a memory takes a short cut; it must never say anything else than the one without."""
    decoder, reasons = FrameDecoder(), Counter[str]()
    for message in mutated(f"frames {batch}", valid_frames(), BATCH):
        plain, quick = outcome(decode_frame, message), outcome(decoder.decode, message)
        assert type(plain) is type(quick), (plain, quick, message)
        if isinstance(plain, WireError):
            assert (plain.reason, plain.came) == (quick.reason, quick.came), message
            reasons[plain.reason.value] += 1
            continue
        check_frame(plain, message)
        reasons["read"] += 1
        for name in ("rig", "modality", "sequence", "capture_ns", "clock", "unit"):
            assert getattr(plain, name) == getattr(quick, name), (name, message)
        assert (plain.samples.shape, plain.samples.dtype) == (quick.samples.shape, quick.samples.dtype), (
            message
        )
        assert plain.samples.tobytes() == quick.samples.tobytes()
    # Fuzzing that reaches only the first check says nothing of the others.
    assert set(reasons) == {"read", *(reason.value for reason in BY_BYTES)}
    assert min(reasons.values()) >= 50, reasons


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize(("name", "decode"), [("outputs", decode_output), ("journal", decode_entry)])
def test_a_spoiled_output_or_journal_entry_is_read_or_refused(
    name: str, decode: Callable[[Any], Any], batch: int
) -> None:
    valid = valid_outputs() if name == "outputs" else valid_entries()
    kinds = Counter[str]()
    for message in mutated(f"{name} {batch}", valid, BATCH // 2):
        came = outcome(decode, message)
        kinds[came.reason.value if isinstance(came, WireError) else type(came).__name__] += 1
    expected = {"bad_parts", "bad_topic", "bad_header", "wrong_version"}
    if name == "outputs":
        expected |= {"Decision", "HealthEvent", "Observation", "Statistics", "payload_length", "wrong_shape"}
    else:
        expected.add("JournalEntry")
    assert set(kinds) >= expected, kinds


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_spoiled_request_or_answer_is_read_or_refused(batch: int) -> None:
    kinds = Counter[str]()
    for message in mutated(f"control {batch}", valid_controls(), BATCH // 2):
        raw = message[1] if len(message) > 1 else b""
        request = read_request(
            raw
        )  # never raises: a request is answered, or dropped if there is nobody to answer
        assert request is None or request.number in INT64
        if request is not None:
            assert bool(request.fault) != (request.op in ("probe", "swap")), request
            assert len(error_answer(request, request.fault)) <= CONTROL_BYTES
        kinds["dropped" if request is None else request.op or "fault"] += 1
        for read in (read_swap, lambda reply: read_probe(reply, START)):
            kinds["refused" if isinstance(outcome(read, raw), WireError) else "read"] += 1
    assert set(kinds) == {"dropped", "fault", "probe", "swap", "refused", "read"}


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_pipeline_takes_everything_and_counts_it(batch: int) -> None:
    """Spoiled messages among good ones: never an exception, never one uncounted, whatever they leave behind."""
    bench, refused = Bench(bench_rig(), bench_manifest()), Counter[Reason]()
    pipeline, valid = bench.pipeline, valid_frames()
    for number, message in enumerate(mutated(f"pipeline {batch}", valid, BATCH), 1):
        bench.now += MS // 4
        try:
            answer = pipeline.receive(message, bench.now)
        except Exception as e:
            e.add_note(repr([bytes(p) for p in message])[:6000])
            raise
        assert isinstance(answer, Received | Rejected)
        if isinstance(answer, Rejected):
            refused[answer.reason] += 1
        if number % 8 == 0:
            bench.send(list(SENSORS)[number // 8 % 3])
        if number % 40 == 0:
            bench.work()
            counters = pipeline.counters()
            assert counters["received"] == number + number // 8
            assert counters["unaccounted"] == 0
            assert counters["pending"] <= 400
    assert {r.value for r in refused} >= {r.value for r in BY_BYTES}
    # Afterwards a good stream is heard as if nothing had been.
    bench.next_capture = dict.fromkeys(SENSORS, bench.now + MS)
    bench.sequence = dict.fromkeys(SENSORS, 10**6)
    bench.run(3.0)
    assert {pipeline.state(m).value for m in SENSORS} == {"live"}


def test_what_declares_gigabytes_costs_kilobytes() -> None:
    """No decoder makes room for what a length says before the bytes are there."""
    decoder = FrameDecoder()
    readers: list[tuple[list[Parts], tuple[Callable[[Any], Any], ...]]] = [
        (valid_frames(), (decode_frame, decoder.decode)),
        (valid_outputs(), (decode_output,)),
        (valid_entries(), (decode_entry,)),
    ]
    for valid, decoders in readers:
        chance = random.Random(0)
        messages = [declare_huge(chance, chance.choice(valid)) for _ in range(400)]
        messages += [[valid[0][0], huge, b""] for huge in HUGE]
        for decode in decoders:
            tracemalloc.start()
            try:
                for message in messages:
                    outcome(decode, message)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 512 * 1024, (decode, peak)


def test_a_decoder_forgets_the_forms_of_headers_that_never_come_again() -> None:
    """Its memory of headers is bounded, whoever fills it."""
    topic, head, payload = valid_frames()[2]
    header = msgpack.unpackb(head)
    decoder = FrameDecoder()

    def feed(count: int) -> int:
        for number in range(count):
            decoder.decode([topic, msgpack.packb(header | {"extra": f"{number}{'x' * 3000}"}), payload])
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early, late = feed(200), feed(3000)
    finally:
        tracemalloc.stop()
    assert late < early + 512 * 1024
