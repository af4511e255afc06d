"""What messages are made of: samples as bytes, and headers that are packed once and sent with new numbers and times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from runtime.rig import Rig, SensorSpec
from runtime.wire import Clock, encode_frame

Samples = npt.NDArray[Any]
Parts = tuple[bytes, ...]
"""One message as it is handed to a socket."""

_SEQUENCE_MARK = 0x0123456789ABCDEF
_CAPTURE_MARK = 0x0FEDCBA987654321


@dataclass(frozen=True, slots=True)
class Payload:
    """The samples of one message.

    Attributes:
        samples: (n, *sample_shape); never written to.
        data: their bytes, little-endian, C order.
        constant: every sample equals the first one; such a message may be repeated without being frozen, unless it is
            an image.
        finite: without NaN or infinity.
    """

    samples: Samples = field(compare=False)
    data: bytes
    constant: bool
    finite: bool = True

    @classmethod
    def of(cls, samples: Samples, *, is_image: bool) -> Payload:
        """The payload of samples (n, *sample_shape)."""
        constant = not is_image and bool((samples == samples[0]).all())
        return cls(samples, samples.tobytes(), constant, bool(np.isfinite(samples).all()))


class MessageForm:
    """Headers of one sensor: those of :func:`~runtime.wire.encode_frame`, with number and time put in afterwards.

    That takes a tenth of the time of packing each header anew, so that a soak measures the node and not its driver.
    """

    def __init__(self, rig: Rig, sensor: SensorSpec, samples: int) -> None:
        """Pack the header once.

        Args:
            rig: whose name is in it.
            sensor: whose modality, unit, dtype and shape are in it.
            samples: in each message.
        """
        zeros = np.zeros((samples, *sensor.sample_shape), sensor.dtype)
        topic, header, _ = encode_frame(
            rig.name, sensor.modality, _SEQUENCE_MARK, zeros, capture_ns=_CAPTURE_MARK, unit=sensor.unit
        )
        self.topic = bytes(topic)
        self._begin, rest = bytes(header).split(msgpack.packb(_SEQUENCE_MARK))
        self._middle, self._end = rest.split(msgpack.packb(_CAPTURE_MARK))

    def header(self, sequence: int, capture_ns: int) -> bytes:
        """The header of message ``sequence``, byte for byte as it is packed otherwise."""
        numbers = msgpack.packb(sequence), msgpack.packb(capture_ns)
        return b"".join((self._begin, numbers[0], self._middle, numbers[1], self._end))


def packed(
    rig: Rig, sensor: SensorSpec, sequence: int, capture_ns: int, payload: Payload, clock: Clock
) -> Parts:
    """A message whose clock is not the node's, packed the ordinary way."""
    topic, header, data = encode_frame(
        rig.name,
        sensor.modality,
        sequence,
        payload.samples,
        capture_ns=capture_ns,
        unit=sensor.unit,
        clock=clock,
    )
    return bytes(topic), bytes(header), bytes(data)
