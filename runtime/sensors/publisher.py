"""The publisher: how a program publishes samples as a sensor of a rig, in a few lines.

Example::

    from afterimage import Sensor

    with Sensor("commands-4", "eeg") as sensor:
        for samples in amplifier:          # (n, 8) float32 microvolts
            sensor.publish(samples)
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from configs.errors import AfterimageError
from runtime.rig import Rig, load_rig
from runtime.transport.endpoints import default_endpoints
from runtime.transport.keys import Keys
from runtime.transport.sockets import FrameSender
from runtime.wire import Clock, encode_frame


class SampleError(AfterimageError, ValueError):
    """Samples that do not fit the rig; the message names the modality, what was expected and what came."""


class Sensor:
    """One sensor of a rig, publishing to the rig's node, which need not run yet; for one thread.

    Publishing never waits: while no node listens, messages are dropped, and the next sequence number tells the
    node how many.

    Attributes:
        sequence: number of the next message; a number that is left out counts as a lost message at the node.
    """

    def __init__(
        self,
        rig: Rig | str | Path,
        modality: str,
        *,
        endpoint: str | None = None,
        first_sequence: int = 0,
        clock: Clock | None = None,
        keys: Keys | None = None,
    ) -> None:
        """Connect to the node of a rig.

        Args:
            rig: a rig, the name of a shipped one, or the path of a YAML file.
            modality: which of its sensors this is.
            endpoint: the node's frames endpoint; the rig's default if not given.
            first_sequence: number of the first message.
            clock: clock of the capture times given to :meth:`publish`; this machine's CLOCK_MONOTONIC if
                not given.
            keys: own pair and the node's public key; needed for a node on another machine.

        Raises:
            RigError: no such rig or modality.
            EndpointError: an endpoint that is not allowed, or keys that cannot be used.
        """
        self.rig = rig if isinstance(rig, Rig) else load_rig(rig)
        self.spec = self.rig.sensor(modality)
        self.sequence = first_sequence
        self._clock = clock or Clock()
        self._dtype = np.dtype(self.spec.dtype)
        self._sender = FrameSender(endpoint or default_endpoints(self.rig.name).frames, keys=keys)

    def publish(
        self, samples: npt.NDArray[Any], capture_ns: int | None = None, clock: Clock | None = None
    ) -> int:
        """Publish one message.

        Args:
            samples: (n, *sample_shape) in the rig's dtype and unit, time first; one image may also come without the
                leading axis.
            capture_ns: when the newest sample was captured, on ``clock``; now if not given.
            clock: of this message's capture time; the sensor's if not given.

        Returns:
            The message's sequence number.

        Raises:
            SampleError: another shape or dtype than the rig's.
        """
        shape = self.spec.sample_shape
        if samples.dtype != self._dtype:
            raise SampleError(
                f"{self.spec.modality}: expected {self.spec.dtype} samples in {self.spec.unit}, "
                f"got {samples.dtype}"
            )
        if samples.shape == shape and shape:
            samples = samples[np.newaxis]
        if samples.ndim != 1 + len(shape) or samples.shape[1:] != shape or not len(samples):
            expected = ", ".join(("n >= 1", *map(str, shape)))
            raise SampleError(f"{self.spec.modality}: expected shape ({expected}), got {samples.shape}")
        number = self.sequence
        captured = time.monotonic_ns() if capture_ns is None else capture_ns
        self._sender.send(
            encode_frame(
                self.rig.name,
                self.spec.modality,
                number,
                samples,
                capture_ns=captured,
                unit=self.spec.unit,
                clock=clock or self._clock,
            )
        )
        self.sequence = number + 1
        return number

    def close(self) -> None:
        """Disconnect; messages not yet sent are dropped."""
        self._sender.close()

    def __enter__(self) -> Sensor:
        """The sensor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sensor."""
        self.close()
