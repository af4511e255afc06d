"""The wire protocol: both ways, strict, and never anything but WireError."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.bundle import ModalityKind
from runtime.core.health import State
from runtime.core.quality import thresholds_from
from runtime.wire import (
    FUSED,
    HEALTH,
    Alternative,
    Clock,
    Decision,
    HealthEvent,
    Limits,
    ModalityReport,
    Observation,
    Reason,
    WireError,
    decode_frame,
    decode_output,
    encode_frame,
    encode_output,
    frame_topic,
)

SAMPLES = np.arange(64, dtype=np.float32).reshape(8, 8)
CLOCK = Clock("amplifier", -(10**12), 250_000)


def frame_parts(samples: np.ndarray = SAMPLES) -> list[bytes]:
    parts = encode_frame("bench", "eeg", 7, samples, capture_ns=123_456_789, unit="uV", clock=CLOCK)
    return [bytes(p) for p in parts]


def with_header(parts: list[bytes], **changes: Any) -> list[bytes]:
    """The same message with header keys replaced; None removes one."""
    header = msgpack.unpackb(parts[1]) | changes
    return [parts[0], msgpack.packb({k: v for k, v in header.items() if v is not None}), parts[2]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (320,), (8, 8)])
def test_a_frame_survives_the_wire(dtype: str, shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    parts = encode_frame("bench", "eeg", 7, samples, capture_ns=123, unit="uV", clock=CLOCK)
    frame = decode_frame([bytes(p) for p in parts])
    assert (frame.rig, frame.modality, frame.sequence, frame.capture_ns) == ("bench", "eeg", 7, 123)
    assert (frame.clock, frame.unit) == (CLOCK, "uV")
    assert frame.samples.dtype == samples.dtype
    assert np.array_equal(frame.samples, samples)


def test_the_payload_is_not_copied_on_either_side() -> None:
    samples = SAMPLES.copy()
    parts = encode_frame("bench", "eeg", 7, samples, capture_ns=1, unit="uV")
    assert np.shares_memory(np.frombuffer(parts[2], np.float32), samples)
    assert np.shares_memory(decode_frame(parts).samples, samples)


def test_received_samples_cannot_be_written() -> None:
    assert not decode_frame(frame_parts()).samples.flags.writeable


def test_samples_that_are_not_contiguous_or_big_endian_are_put_right() -> None:
    for samples in (SAMPLES.T, SAMPLES.astype(">f4")):
        parts = encode_frame("bench", "eeg", 7, samples, capture_ns=1, unit="uV")
        assert np.array_equal(decode_frame(parts).samples, samples)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(3), Reason.WRONG_DTYPE),
        (np.float32(1), Reason.WRONG_SHAPE),
        (np.zeros((0, 8), np.uint8), Reason.WRONG_SHAPE),
    ],
)
def test_a_sensor_cannot_send_what_the_wire_does_not_carry(samples: np.ndarray, reason: Reason) -> None:
    with pytest.raises(WireError) as caught:
        encode_frame("bench", "eeg", 7, samples, capture_ns=1, unit="uV")
    assert caught.value.reason is reason


def test_unknown_header_keys_are_ignored() -> None:
    assert decode_frame(with_header(frame_parts(), exposure_us=500, lens={"f": 1.8})).sequence == 7


BAD_HEADERS: list[tuple[str, dict[str, Any], Reason]] = [
    ("another version", {"version": 2}, Reason.WRONG_VERSION),
    ("no version", {"version": None}, Reason.WRONG_VERSION),
    ("true as version", {"version": True}, Reason.WRONG_VERSION),
    ("float version", {"version": 1.0}, Reason.WRONG_VERSION),
    ("no sequence", {"sequence": None}, Reason.BAD_HEADER),
    ("negative sequence", {"sequence": -1}, Reason.BAD_HEADER),
    ("true as sequence", {"sequence": True}, Reason.BAD_HEADER),
    ("float sequence", {"sequence": 7.0}, Reason.BAD_HEADER),
    ("huge capture", {"capture_ns": 2**63}, Reason.BAD_HEADER),
    ("text capture", {"capture_ns": "now"}, Reason.BAD_HEADER),
    ("no clock", {"clock": None}, Reason.BAD_HEADER),
    ("clock without offset", {"clock": {"id": "x", "uncertainty_ns": 0}}, Reason.BAD_HEADER),
    ("unsure clock", {"clock": {"id": "x", "offset_ns": 0, "uncertainty_ns": 10**12}}, Reason.BAD_HEADER),
    ("another modality than the topic", {"modality": "rgb"}, Reason.BAD_TOPIC),
    ("another rig than the topic", {"rig": "other"}, Reason.BAD_TOPIC),
    ("number as rig", {"rig": 5}, Reason.BAD_HEADER),
    ("compressed", {"encoding": "jpeg"}, Reason.WRONG_ENCODING),
    ("no encoding", {"encoding": None}, Reason.WRONG_ENCODING),
    ("python objects", {"dtype": "object"}, Reason.WRONG_DTYPE),
    ("doubles", {"dtype": "float64"}, Reason.WRONG_DTYPE),
    ("big-endian", {"dtype": ">f4"}, Reason.WRONG_DTYPE),
    ("scalar shape", {"shape": []}, Reason.WRONG_SHAPE),
    ("zero axis", {"shape": [0, 8]}, Reason.WRONG_SHAPE),
    ("negative axes", {"shape": [-8, -8]}, Reason.WRONG_SHAPE),
    ("true as axis", {"shape": [True, 64]}, Reason.WRONG_SHAPE),
    ("float axis", {"shape": [8.0, 8]}, Reason.WRONG_SHAPE),
    ("too many axes", {"shape": [1, 1, 1, 1, 1, 8, 8]}, Reason.WRONG_SHAPE),
    ("shape as text", {"shape": "8x8"}, Reason.BAD_HEADER),
    ("too small a shape", {"shape": [8, 7]}, Reason.PAYLOAD_LENGTH),
    ("shape beyond any memory", {"shape": [2**31, 2**31, 2**31]}, Reason.PAYLOAD_LENGTH),
]


@pytest.mark.parametrize(("changes", "reason"), [b[1:] for b in BAD_HEADERS], ids=[b[0] for b in BAD_HEADERS])
def test_a_bad_header_is_refused_by_name(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(WireError) as caught:
        decode_frame(with_header(frame_parts(), **changes))
    assert caught.value.reason is reason
    assert caught.value.expected
    assert len(caught.value.came) <= 80


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], Reason.BAD_PARTS),
        ([b"frame/bench/eeg"], Reason.BAD_PARTS),
        ([b"fused", b"\x80", b""], Reason.BAD_TOPIC),
        ([b"frame/" + b"x" * 1000, b"\x80", b""], Reason.BAD_TOPIC),
        ([b"frame/bench/eeg", b"\x80", b""], Reason.WRONG_VERSION),
        ([b"frame/bench/eeg", b"\x93\x01\x02\x03", b""], Reason.BAD_HEADER),
        ([b"frame/bench/eeg", b"\x81\x01\x02", b""], Reason.BAD_HEADER),
        ([b"frame/bench/eeg", b"\x91" * 2000, b""], Reason.BAD_HEADER),
        ([b"frame/bench/eeg", b"\xdd\xff\xff\xff\xff", b""], Reason.BAD_HEADER),
        ([b"frame/bench/eeg", b"", b""], Reason.BAD_HEADER),
        ([b"frame/bench/eeg", b"\x80" * 5000, b""], Reason.OVERSIZED),
        ([b"frame/bench/eeg", b"\x80", bytes(5 * 1024 * 1024)], Reason.OVERSIZED),
    ],
)
def test_what_is_not_a_frame_message_is_refused_by_name(parts: list[bytes], reason: Reason) -> None:
    with pytest.raises(WireError) as caught:
        decode_frame(parts)
    assert caught.value.reason is reason


def test_limits_can_be_lowered() -> None:
    with pytest.raises(WireError, match=r"oversized: expected a payload of at most 255 bytes, got 256 bytes"):
        decode_frame(frame_parts(), Limits(payload_bytes=255))


MAPS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def outcome(decode: Callable[[Sequence[Any]], Any], parts: Sequence[Any]) -> Any:
    """What a decoder returns, or its refusal; any other exception fails the test."""
    try:
        return decode(parts)
    except WireError as e:
        return e


@given(st.lists(st.binary(max_size=64), max_size=5))
def test_random_bytes_raise_only_wire_error(parts: list[bytes]) -> None:
    for decode in (decode_frame, decode_output):
        with pytest.raises(WireError):
            decode(parts)


@given(
    topic=st.sampled_from([frame_topic("bench", "eeg"), FUSED, HEALTH, b"best/eeg"]),
    head=st.binary(max_size=200),
)
def test_random_headers_raise_only_wire_error(topic: bytes, head: bytes) -> None:
    for decode in (decode_frame, decode_output):
        with pytest.raises(WireError):
            decode([topic, head, b""])


DECISION = Decision(
    rig="bench",
    bundle="0123456789abcdef",
    tick=41,
    deadline_ns=10**15,
    published_ns=10**15 + 900_000,
    capture_ns=10**15 - 20_000_000,
    label="go",
    probabilities={"stop": 0.1, "go": 0.9},
    entropy=0.325,
    presence={"rgb": 0, "audio": 1},
    fill="impute",
    modalities={
        "rgb": ModalityReport("missing", "silence", None, 0.0, True),
        "audio": ModalityReport("live", "", 20.5, 1.0, False),
    },
    latency_ms={"fuse": 0.4},
    compare={"hold": Alternative("stop", {"stop": 0.8, "go": 0.2})},
)
EVENT = HealthEvent("bench", "rgb", 10**15, "live", "missing", "silence", "0.120 s > 0.100 s")
OBSERVATION = Observation(
    "bench",
    "0123456789abcdef",
    "rgb",
    "best",
    41,
    10**15,
    True,
    ("audio",),
    "intensity",
    np.ones((2, 3), np.float32),
)


@pytest.mark.parametrize("message", [DECISION, replace(DECISION, capture_ns=None), EVENT])
def test_an_output_survives_the_wire(message: Decision | HealthEvent) -> None:
    assert decode_output([bytes(p) for p in encode_output(message)]) == message


@pytest.mark.parametrize("stream", ["best", "imputed"])
def test_an_observation_survives_the_wire(stream: str) -> None:
    sent = replace(OBSERVATION, stream=stream)
    parts = encode_output(sent)
    assert parts[0] == f"{stream}/rgb".encode()
    decoded = decode_output([bytes(p) for p in parts])
    assert isinstance(decoded, Observation)
    assert np.array_equal(decoded.values, sent.values)
    others = [name for name in Observation.__slots__ if name != "values"]
    assert [getattr(decoded, name) for name in others] == [getattr(sent, name) for name in others]


@given(key=st.sampled_from(list(Decision.__slots__)), value=MAPS)
def test_a_spoiled_decision_is_read_or_refused(key: str, value: Any) -> None:
    topic, head, payload = encode_output(DECISION)
    spoiled = msgpack.packb(msgpack.unpackb(head) | {key: value})
    decoded = outcome(decode_output, [topic, spoiled, payload])
    assert isinstance(decoded, Decision) or decoded.reason in (Reason.BAD_HEADER, Reason.OVERSIZED)


def test_an_output_of_an_unknown_topic_or_version_is_refused() -> None:
    topic, head, payload = encode_output(EVENT)
    with pytest.raises(WireError, match="bad_topic"):
        decode_output([b"healthy", head, payload])
    with pytest.raises(WireError, match="wrong_version"):
        decode_output([topic, msgpack.packb(msgpack.unpackb(head) | {"version": 9}), payload])


def test_the_byte_example_of_the_protocol_document() -> None:
    """docs/protocol.md shows a message in bytes, for clients in other languages; it is what we send and read."""
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    example = text[text.index("    topic    66 ") : text.index("The keys may come in any order")]
    part, shown = "", dict[str, bytes]()
    for line in example.splitlines():
        found = re.match(r"    (topic|header|payload|      ) +((?:[0-9a-f]{2} {1,2})+) ", line + "  ")
        if found:
            part = found[1].strip() or part
            shown[part] = shown.get(part, b"") + bytes.fromhex(found[2])
    samples = np.array([[1.0, -2.0]], np.float32)
    sent = encode_frame("bench", "eeg", 3, samples, capture_ns=1_000_000, unit="uV")
    assert [shown["topic"], shown["header"], shown["payload"]] == [bytes(part) for part in sent]
    assert np.array_equal(decode_frame(list(shown.values())).samples, samples)


def test_the_protocol_document_names_every_reason_and_state() -> None:
    text = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    words = [*(r.value for r in Reason), *(s.value for s in State)]
    measures = defaultdict[str, float](float)
    words += [check for kind in get_args(ModalityKind) for check in thresholds_from(kind, [measures])]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_the_words_of_an_engine_may_be_long_and_the_event_still_arrives() -> None:
    event = HealthEvent("rig", "eeg", 1, "live", "missing", "encode_failed", "é" * 5000)
    decoded = decode_output(encode_output(event))
    assert isinstance(decoded, HealthEvent)
    assert decoded.detail == "é" * 1024


@pytest.mark.parametrize("depth", [900, 1000, 1020])
def test_a_header_nested_deeper_than_python_prints_is_refused(depth: int) -> None:
    header = b"\x81\xa7version" + b"\x91" * depth + b"\x01"
    with pytest.raises(WireError):
        decode_frame([b"frame/commands-4/rgb", header, b""])
