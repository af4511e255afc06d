"""Fuzzing of every wire decoder: whatever the bytes, only a documented refusal comes out, and memory stays small.

Mutations are seeded, so a failure comes again; its message shows the parts. ``AFTERIMAGE_FUZZ_BATCHES`` sets how many
batches of 50000 messages each decoder gets: the whole of a million is 20.
"""

from __future__ import annotations

import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import pytest
from pipeline_bench import MS, SENSORS, START, Bench, bench_manifest, bench_rig
from wire_mutations import (
    HUGE,
    Parts,
    declare_huge,
    mutated,
    valid_controls,
    valid_entries,
    valid_frames,
    valid_outputs,
)

from runtime.core.pipeline import Received, Rejected
from runtime.wire import (
    Frame,
    FrameDecoder,
    Reason,
    WireError,
    decode_entry,
    decode_frame,
    decode_output,
)
from runtime.wire.control import (
    CONTROL_BYTES,
    error_answer,
    read_probe,
    read_request,
    read_swap,
)

BATCH = 50_000
BATCHES = int(os.environ.get("AFTERIMAGE_FUZZ_BATCHES", "2"))

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

INT64 = range(2**63)


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
