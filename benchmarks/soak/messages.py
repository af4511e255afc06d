"""Messages of a soak run: real headers and payloads, made once and sent again with new numbers and times."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from runtime.rig import Rig, SensorSpec
from runtime.signals.faults import APPLIES_TO, Fault, FaultKind, FaultSchedule, apply
from runtime.signals.moments import MomentSource
from runtime.wire import Clock, encode_frame

Parts = tuple[bytes, ...]
"""One message as it is handed to a socket."""

_SEQUENCE_MARK = 0x0123456789ABCDEF
_CAPTURE_MARK = 0x0FEDCBA987654321
_UINT64 = struct.Struct(">Q")
_LONGEST_BANK = 4096
CONTENT_FAULTS: tuple[FaultKind, ...] = ("black", "holes", "clip", "rail", "flat", "noise")
"""Faults of what samples say, not of how their messages look."""


@dataclass(frozen=True, slots=True)
class Payload:
    """The bytes of one message's samples.

    Attributes:
        data: little-endian, C order.
        constant: every sample equals the first: repeating it is not being frozen, unless it is an image.
        finite: without NaN or infinity.
    """

    data: bytes
    constant: bool
    finite: bool = True

    @classmethod
    def of(cls, samples: npt.NDArray[Any], *, is_image: bool) -> Payload:
        """The payload of samples (n, *sample_shape)."""
        constant = not is_image and bool((samples == samples[0]).all())
        return cls(samples.tobytes(), constant, bool(np.isfinite(samples).all()))


class MessageForm:
    """Headers of one sensor: what :func:`~runtime.wire.encode_frame` writes, with number and time put in afterwards.

    That takes a tenth of the time of packing each anew, so that a soak run measures the node and not its driver.
    """

    def __init__(self, rig: Rig, sensor: SensorSpec) -> None:
        """Pack the header once.

        Args:
            rig: whose name is in it.
            sensor: whose modality, unit, dtype and shape are in it.
        """
        samples = np.zeros((sensor.chunk, *sensor.sample_shape), sensor.dtype)
        topic, header, _ = encode_frame(
            rig.name, sensor.modality, _SEQUENCE_MARK, samples, capture_ns=_CAPTURE_MARK, unit=sensor.unit
        )
        self.topic = bytes(topic)
        self._begin, rest = bytes(header).split(_UINT64.pack(_SEQUENCE_MARK))
        self._middle, self._end = rest.split(_UINT64.pack(_CAPTURE_MARK))

    def header(self, sequence: int, capture_ns: int) -> bytes:
        """The header of message ``sequence``; integers are always written in 64 bits, which msgpack allows."""
        return b"".join(
            (self._begin, _UINT64.pack(sequence), self._middle, _UINT64.pack(capture_ns), self._end)
        )


@dataclass(frozen=True, slots=True)
class Bank:
    """What one sensor has to say, in payloads that are sent in turn.

    Attributes:
        good: consecutive chunks of a recording or a synthetic moment; no two neighbours are alike.
        spoilt: content fault -> the same chunks, spoilt.
        not_finite: chunks with NaN in them; empty for integer samples.
    """

    good: tuple[Payload, ...]
    spoilt: Mapping[str, tuple[Payload, ...]]
    not_finite: tuple[Payload, ...]


def fill_bank(source: MomentSource, sensor: SensorSpec, seed: int, *, images: int = 32) -> Bank:
    """Payloads of one sensor, from one moment of a source.

    Args:
        source: of the samples.
        sensor: of the rig that is played; its chunk may differ from the source's.
        seed: of what is random in the faults.
        images: how many images; sensors with streams take the whole moment.

    Raises:
        ValueError: the source has no sensor of that name, or one of another form.
    """
    theirs = source.rig.sensor(sensor.modality)
    if (theirs.sample_shape, theirs.dtype) != (sensor.sample_shape, sensor.dtype):
        raise ValueError(
            f"sensor {sensor.modality!r}: the source has {theirs.dtype} {theirs.sample_shape}, "
            f"the rig {sensor.dtype} {sensor.sample_shape}"
        )
    is_image = sensor.kind in ("rgb", "depth")
    available = int(source.duration_s * sensor.rate_hz)
    count = min(images if is_image else _LONGEST_BANK, available // sensor.chunk)
    samples = source.read("test", 0, sensor.modality, 0, count * sensor.chunk)
    chunks = samples.reshape(count, sensor.chunk, *sensor.sample_shape)
    faults: list[FaultKind] = [k for k in CONTENT_FAULTS if sensor.kind in APPLIES_TO[k]]
    spoilt: dict[str, tuple[Payload, ...]] = {kind: _spoilt(kind, sensor, chunks, seed) for kind in faults}
    nan = (
        _spoilt("nan", sensor, chunks[:16], seed, {"share": 1.0}) if sensor.kind in APPLIES_TO["nan"] else ()
    )
    return Bank(_distinct([Payload.of(c, is_image=is_image) for c in chunks]), spoilt, nan)


def _spoilt(
    kind: FaultKind,
    sensor: SensorSpec,
    chunks: npt.NDArray[Any],
    seed: int,
    params: Mapping[str, float] | None = None,
) -> tuple[Payload, ...]:
    is_image = sensor.kind in ("rgb", "depth")
    fault = Fault(
        kind=kind,
        modalities=(sensor.modality,),
        start_s=0,
        end_s=float(len(chunks)),
        params=dict(params or {}),
    )
    schedule = FaultSchedule(seed=seed, faults=(fault,))
    bad = (apply(schedule, sensor.modality, i + 0.5, chunk) for i, chunk in enumerate(chunks))
    return tuple(Payload.of(cast("npt.NDArray[Any]", b), is_image=is_image) for b in bad)


def _distinct(payloads: list[Payload]) -> tuple[Payload, ...]:
    """Without payloads that repeat the one before: a living sensor's noise differs, digital silence does not."""
    kept = [
        p for before, p in zip([payloads[-1], *payloads[:-1]], payloads, strict=True) if p.data != before.data
    ]
    return tuple(kept)


def packed(
    rig: Rig, sensor: SensorSpec, sequence: int, capture_ns: int, payload: Payload, clock: Clock
) -> Parts:
    """A message whose clock is not the node's, the ordinary way."""
    shape = (sensor.chunk, *sensor.sample_shape)
    samples = np.frombuffer(payload.data, sensor.dtype).reshape(shape)
    topic, header, data = encode_frame(
        rig.name, sensor.modality, sequence, samples, capture_ns=capture_ns, unit=sensor.unit, clock=clock
    )
    return bytes(topic), bytes(header), bytes(data)
