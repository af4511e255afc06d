"""Cutting a stream of samples into messages of the rig's chunk, each with the capture time of its newest sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runtime.rig import SensorSpec
from runtime.sensors.sample_source import SampleBlock


class Chunker:
    """Cuts the samples of one sensor; what is left over waits for the next ones."""

    def __init__(self, sensor: SensorSpec) -> None:
        """Begin a stream."""
        self._size = sensor.chunk
        self._rate = sensor.rate_hz
        self._rest: SampleBlock | None = None
        self._gap = False
        self.discarded = 0
        """Samples that were left over when the stream broke."""

    def cut(self, samples: SampleBlock) -> Iterator[SampleBlock]:
        """Whole messages, of `chunk` samples each; the first after samples were lost has `gap` set."""
        if samples.gap:
            self.reset()
        array = samples.array
        # A number is of a block that is one message; other blocks are cut anew, and their messages are counted here.
        number = samples.number if self._rest is None and len(array) == self._size else None
        if self._rest is not None:
            array = np.concatenate([self._rest.array, array])
            self._rest = None
        whole = len(array) // self._size * self._size
        for end in range(self._size, whole + 1, self._size):
            newer_s = (len(array) - end) / self._rate
            gap, self._gap = self._gap, False
            yield SampleBlock(
                array[end - self._size : end],
                samples.capture_ns - round(newer_s * 1e9),
                samples.clock,
                gap,
                number,
            )
        if whole < len(array):
            self._rest = replace(samples, array=array[whole:], gap=False, number=None)

    def reset(self) -> None:
        """The stream broke: samples left over belong to nothing that follows."""
        if self._rest is not None:
            self.discarded += len(self._rest.array)
            self._rest = None
        self._gap = True
