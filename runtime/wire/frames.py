"""Frames: what a sensor publishes, one message per chunk of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from runtime.wire.checks import (
    INT64_MAX,
    PROTOCOL_VERSION,
    UNPACK_FAILURES,
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
from runtime.wire.topics import FRAME_PREFIX, frame_topic

DTYPES: dict[str, np.dtype[Any]] = {
    "uint8": np.dtype("u1"),
    "uint16": np.dtype("<u2"),
    "int16": np.dtype("<i2"),
    "float32": np.dtype("<f4"),
}
"""dtypes on the wire, little-endian."""

_ENCODING = "raw"
_FORMS = 64
"""Different kinds of header that a decoder remembers; a node needs one per sensor."""
_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock a capture time was read from.

    Attributes:
        id: name of the clock; ``monotonic`` is the node machine's CLOCK_MONOTONIC, which all its processes share.
        offset_ns: that clock minus the node's clock; node time = capture_ns - offset_ns.
        uncertainty_ns: the true offset is at most this far away; 0 on the node's own machine.
    """

    id: str = "monotonic"
    offset_ns: int = 0
    uncertainty_ns: int = 0


SAME_MACHINE = Clock()


@dataclass(frozen=True, slots=True)
class Frame:
    """One message of a sensor.

    Attributes:
        rig: name of the rig.
        modality: name of the modality in the rig.
        sequence: counts this sensor's messages up by one; a lost message leaves a gap.
        capture_ns: when the *newest* sample was captured, on ``clock``.
        clock: which clock that is.
        unit: unit of the samples.
        samples: (n, *sample_shape), time first; a read-only view of the payload.
    """

    rig: str
    modality: str
    sequence: int
    capture_ns: int
    clock: Clock
    unit: str
    samples: npt.NDArray[Any]


def encode_frame(
    rig: str,
    modality: str,
    sequence: int,
    samples: npt.NDArray[Any],
    *,
    capture_ns: int,
    unit: str,
    clock: Clock = SAME_MACHINE,
) -> list[BytesLike]:
    """The three parts of a frame message.

    Args:
        rig: name of the rig.
        modality: name of the modality in the rig.
        sequence: number of the message; counts up from 0 by one.
        samples: (n, *sample_shape) of uint8, uint16, int16 or float32, time first: one image is (1, H, W, 3).
        capture_ns: capture time of the newest sample, on ``clock``.
        unit: unit of the samples, as in the rig.
        clock: the clock of ``capture_ns``.

    Returns:
        Topic, header and payload. The payload is a view of ``samples`` if that is C-contiguous: send it (or copy it)
        before the array changes.

    Raises:
        WireError: a dtype that the wire does not carry, or samples without a time axis.
    """
    name = samples.dtype.name
    dtype = DTYPES.get(name)
    if dtype is None:
        raise WireError(Reason.WRONG_DTYPE, f"one of {list(DTYPES)}", name)
    if samples.ndim == 0 or samples.size == 0:
        raise WireError(Reason.WRONG_SHAPE, "(n, *sample_shape) with n >= 1", samples.shape)
    contiguous = np.ascontiguousarray(samples, dtype=dtype)
    header = {
        "version": PROTOCOL_VERSION,
        "rig": rig,
        "modality": modality,
        "sequence": sequence,
        "capture_ns": capture_ns,
        "clock": {"id": clock.id, "offset_ns": clock.offset_ns, "uncertainty_ns": clock.uncertainty_ns},
        "dtype": name,
        "shape": contiguous.shape,
        "unit": unit,
        "encoding": _ENCODING,
    }
    return [frame_topic(rig, modality), msgpack.packb(header), contiguous.reshape(-1).view(np.uint8).data]


def decode_frame(parts: Sequence[Any], limits: Limits = _DEFAULT_LIMITS) -> Frame:
    """Read a frame message; the samples are a view of the payload, nothing is copied.

    Only what the bytes alone decide is checked; the pipeline checks whether the rig expects such a frame. Unknown
    header keys are ignored, so that later versions may add some.

    Args:
        parts: topic, header, payload: bytes, memoryviews or ``zmq.Frame``.
        limits: sizes above these are refused before anything is parsed.

    Raises:
        WireError: the message is malformed. No bytes raise anything else.
    """
    topic, head, payload = three_parts(parts)
    if payload.nbytes > limits.payload_bytes:
        raise WireError(
            Reason.OVERSIZED, f"a payload of at most {limits.payload_bytes} bytes", f"{payload.nbytes} bytes"
        )
    if topic.nbytes > 512 or topic[: len(FRAME_PREFIX)] != FRAME_PREFIX:
        raise WireError(Reason.BAD_TOPIC, "frame/<rig>/<modality>", shorten(bytes(topic[:80])))
    header = unpack_map(head, limits.header_bytes)
    take_version(header)
    rig, modality = take_str(header, "rig"), take_str(header, "modality")
    if bytes(topic) != FRAME_PREFIX + f"{rig}/{modality}".encode():
        raise WireError(Reason.BAD_TOPIC, f"frame/{rig}/{modality} as in the header", shorten(bytes(topic)))
    if (encoding := header.get("encoding")) != _ENCODING:
        raise WireError(Reason.WRONG_ENCODING, f"encoding {_ENCODING!r}", shorten(encoding))
    return Frame(
        rig=rig,
        modality=modality,
        sequence=take_int(header, "sequence"),
        capture_ns=take_int(header, "capture_ns"),
        clock=_take_clock(take_map(header, "clock"), limits),
        unit=take_str(header, "unit", 64),
        samples=_take_samples(header, payload, limits),
    )


@dataclass(frozen=True, slots=True)
class _Form:
    """What is the same in all headers of one sensor; checked once."""

    topic: bytes
    rig: str
    modality: str
    unit: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int


class FrameDecoder:
    """:func:`decode_frame` with a memory: the unchanging part of a sensor's headers is checked only once.

    A sensor's headers differ only in ``sequence``, ``capture_ns`` and ``clock``. The rest of a header is packed again
    and looked up among those that passed before. A header that is not found there, or is malformed, goes through
    :func:`decode_frame`.
    """

    def __init__(self, limits: Limits = _DEFAULT_LIMITS) -> None:
        """Begin with an empty memory.

        Args:
            limits: sizes above these are refused before anything is parsed.
        """
        self._limits = limits
        self._forms: dict[bytes, _Form] = {}

    def decode(self, parts: Sequence[Any]) -> Frame:
        """As :func:`decode_frame`.

        Raises:
            WireError: the message is malformed. No bytes raise anything else.
        """
        if len(parts) != 3 or len(parts[1]) > self._limits.header_bytes:
            return decode_frame(parts, self._limits)
        try:
            header = msgpack.unpackb(parts[1], raw=False, strict_map_key=True)
            sequence, capture_ns = header.pop("sequence"), header.pop("capture_ns")
            clock = header.pop("clock")
            unchanging = msgpack.packb(header)
        except (*UNPACK_FAILURES, KeyError, AttributeError):
            return decode_frame(parts, self._limits)
        form = self._forms.get(unchanging)
        if form is None or parts[0] != form.topic or len(parts[2]) != form.nbytes:
            return self._remember(unchanging, decode_frame(parts, self._limits))
        if not _is_count(sequence) or not _is_count(capture_ns) or type(clock) is not dict:
            return decode_frame(parts, self._limits)
        samples = np.frombuffer(parts[2], form.dtype).reshape(form.shape)
        clock = _take_clock(clock, self._limits)
        return Frame(form.rig, form.modality, sequence, capture_ns, clock, form.unit, samples)

    def _remember(self, unchanging: bytes, frame: Frame) -> Frame:
        if len(self._forms) >= _FORMS:
            self._forms.clear()
        samples, topic = frame.samples, frame_topic(frame.rig, frame.modality)
        self._forms[unchanging] = _Form(
            topic, frame.rig, frame.modality, frame.unit, samples.dtype, samples.shape, samples.nbytes
        )
        return frame


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= INT64_MAX


def _take_clock(clock: dict[str, Any], limits: Limits) -> Clock:
    name = take_str(clock, "id", 64)
    offset = take_int(clock, "offset_ns", -(2**63))
    uncertainty = take_int(clock, "uncertainty_ns", 0, limits.uncertainty_ns)
    if offset == 0 and uncertainty == 0 and name == SAME_MACHINE.id:
        return SAME_MACHINE
    return Clock(name, offset, uncertainty)


def _take_samples(header: dict[str, Any], payload: memoryview, limits: Limits) -> npt.NDArray[Any]:
    name = take_str(header, "dtype", 32)
    dtype = DTYPES.get(name)
    if dtype is None:
        raise WireError(Reason.WRONG_DTYPE, f"one of {list(DTYPES)}", name)
    shape = take_list(header, "shape")
    # Every axis is at least 1: an empty frame has no content, and a 0 would hide any other axis from the length check.
    if not 1 <= len(shape) <= limits.dimensions or any(type(n) is not int or n < 1 for n in shape):
        raise WireError(
            Reason.WRONG_SHAPE,
            f"1 to {limits.dimensions} axes, each an integer of at least 1",
            shorten(shape),
        )
    expected = math.prod(shape) * dtype.itemsize
    if payload.nbytes != expected:
        raise WireError(
            Reason.PAYLOAD_LENGTH, f"{expected} bytes for {name} {shorten(shape)}", f"{payload.nbytes} bytes"
        )
    return np.frombuffer(payload, dtype).reshape(shape)
