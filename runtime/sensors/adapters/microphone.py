"""Microphones, by PortAudio through sounddevice.

PortAudio calls back with every block. When a device is pulled it reports nothing, the callbacks just stop; a device is
therefore lost when its last callback is too old.
"""

from __future__ import annotations

import time
from collections import deque
from threading import Condition
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S, nanoseconds
from runtime.rig import SensorSpec
from runtime.rig.source_options import MicrophoneOptions
from runtime.sensors.sample_source import (
    ARRIVAL,
    Delivery,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
    import_library,
)
from runtime.wire import Clock

ADC = Clock("portaudio")
"""This machine's CLOCK_MONOTONIC when the newest sample was converted, by the latency that PortAudio reports."""
_WAITING = 64
"""So many blocks may wait to be read; further ones are dropped and counted."""
_QUIET_PERIODS = 10
_SETTLING_NS = NS_PER_S
"""Nothing is taken for this long after the first block: a sound server first gives the blocks that piled up while it
started, with ages that are wrong by half a second."""


class MicrophoneSource:
    """An input stream of 16-bit samples in blocks of one message."""

    def __init__(self, options: MicrophoneOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._library: Any = None
        self._stream: Any = None
        self._blocks: deque[SampleBlock] = deque()
        self._arrived = Condition()
        self._called_ns: int | None = None
        self._settled_ns: int | None = None
        self._gap = False
        self._rate = options.rate_hz or sensor.rate_hz
        self._block = max(1, round(sensor.period_s * self._rate))
        self.counts = {"overflowed": 0, "dropped_blocks": 0}

    def open(self) -> Delivery:
        """Open the device and start it."""
        o, name = self._options, self._sensor.modality
        if self._library is None:
            self._library = import_library("sounddevice", f"sensor {name!r}: microphone")
        else:
            # PortAudio lists the devices when it is initialised; a device that came back is only in a new list.
            self._library._terminate()
            self._library._initialize()
        sd = self._library
        try:
            self._stream = sd.InputStream(
                device=o.device,
                channels=o.channels,
                samplerate=self._rate,
                dtype="int16",
                blocksize=self._block,
                latency=o.latency_s or "low",
                callback=self._called,
            )
            self._called_ns = self._settled_ns = None
            self._stream.start()
        except ValueError as e:  # no such device, or several of that name
            raise SourceLostError("cannot_open", f"microphone {o.device!r}: {e}") from e
        except sd.PortAudioError as e:
            if "sample rate" in str(e).lower():
                raise SourceRefusedError(
                    f"sensor {name!r}: microphone {o.device!r} does not take {self._rate:g} Hz; give source.rate_hz "
                    f"that it takes and `transform: {{resample_hz: {self._sensor.rate_hz:g}}}`"
                ) from e
            raise SourceLostError("cannot_open", f"microphone {o.device!r}: {e}") from e
        shape = () if o.channels == 1 else (o.channels,)
        described = f"{sd.query_devices(self._stream.device)['name']}, {self._rate:g} Hz"
        return Delivery(shape, "int16", "pcm16", self._rate, description=described)

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next block.

        Raises:
            SourceLostError: no callback for ten blocks or half a second.
        """
        with self._arrived:
            if not self._blocks:
                self._arrived.wait(timeout_s)
            if self._blocks:
                return self._blocks.popleft()
        called_ns = self._called_ns
        if called_ns is None:
            return None  # the first block may take long
        age_s = (time.monotonic_ns() - called_ns) / NS_PER_S
        if age_s > max(0.5, _QUIET_PERIODS * self._block / self._rate):
            raise SourceLostError(
                "disconnected", f"microphone {self._options.device!r}: no callback for {age_s:.1f} s"
            )
        return None

    def close(self) -> None:
        """Stop the device."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(ignore_errors=True)
        with self._arrived:
            self._blocks.clear()

    def _called(self, block: npt.NDArray[Any], frames: int, times: Any, status: Any) -> None:
        """Take in a block; PortAudio calls this in a thread of its own, which must not wait."""
        now_ns = time.monotonic_ns()
        if self._settled_ns is None:
            self._settled_ns = now_ns + _SETTLING_NS
        if now_ns < self._settled_ns:
            self._called_ns = now_ns
            return
        samples = np.array(block[:, 0] if self._options.channels == 1 else block)
        capture_ns, clock = now_ns, ARRIVAL
        age_s = times.currentTime - times.inputBufferAdcTime  # of the block's first sample
        if times.inputBufferAdcTime > 0 and 0 <= age_s < 1:
            # Never ahead of now, where a device that is a little faster than its nominal rate would end up.
            capture_ns = min(now_ns, now_ns - nanoseconds(age_s - frames / self._rate))
            clock = ADC
        with self._arrived:
            self._called_ns = now_ns
            if status.input_overflow:
                self.counts["overflowed"] += 1
                self._gap = True
            if len(self._blocks) >= _WAITING:
                self.counts["dropped_blocks"] += 1
                self._gap = True
                return
            gap, self._gap = self._gap, False
            self._blocks.append(SampleBlock(samples, capture_ns, clock, gap))
            self._arrived.notify()
