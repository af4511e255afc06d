"""Cutting a stream of samples into messages of the rig's chunk, each with the capture time of its newest sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runtime.core.clock import nanoseconds
from runtime.rig import SensorSpec
from runtime.sensors.sample_source import SampleBlock


class Chunker:
    """Cuts the samples of one sensor into messages; samples too few for a message wait for the next ones."""

    def __init__(self, sensor: SensorSpec) -> None:
        """Begin a stream."""
        self._size = sensor.chunk
        self._rate = sensor.rate_hz
        self._rest: SampleBlock | None = None
        self._gap = False
        self.discarded = 0
        """Samples that were waiting for the rest of their message when the stream broke."""

    def cut(self, samples: SampleBlock) -> Iterator[SampleBlock]:
        """Take in samples and give whole messages of `chunk` samples; the first after a loss has `gap` set."""
        if samples.gap:
            self.reset()
        array = samples.array
        # A number names one whole message. Blocks that are cut differently lose it; the publisher counts them.
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
                samples.capture_ns - nanoseconds(newer_s),
                samples.clock,
                gap,
                number,
            )
        if whole < len(array):
            self._rest = replace(samples, array=array[whole:], gap=False, number=None)

    def reset(self) -> None:
        """The stream broke: waiting samples are discarded, because nothing that follows continues them."""
        if self._rest is not None:
            self.discarded += len(self._rest.array)
            self._rest = None
        self._gap = True
