"""Lab Streaming Layer streams, by mne-lsl."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from runtime.core.clock import nanoseconds
from runtime.rig import SensorSpec
from runtime.rig.source_options import LslOptions
from runtime.sensors.eeg_units import common_unit
from runtime.sensors.host_clocks import clock_beside_monotonic
from runtime.sensors.sample_source import (
    Delivery,
    SampleBlock,
    SourceLostError,
    SourceRefusedError,
    import_library,
)
from runtime.wire import Clock

_CORRECTION_UNCERTAINTY_NS = 1_000_000
"""The uncertainty that liblsl states for its own correction; it does not report the round trips it measured."""
_CORRECT_EVERY_S = 1.0
_BUFFER_S = 10
_OTHERS_S = 1.0


class LslSource:
    """One stream, with LSL's stamps and LSL's correction of them.

    liblsl's own recovery is off, because it would hide that the outlet went away. Instead the stream is resolved again,
    and that is counted.
    """

    def __init__(self, options: LslOptions, sensor: SensorSpec) -> None:
        self._options = options
        self._sensor = sensor
        self._library: Any = None
        self._inlet: Any = None
        self._clock = Clock("lsl")
        self._corrected_at = 0.0
        self._asked = {"name": options.name, "stype": options.type, "source_id": options.source_id}

    def open(self) -> Delivery:
        """Find the stream and subscribe to it."""
        who = f"sensor {self._sensor.modality!r}: lsl"
        self._library = import_library("mne_lsl.lsl", who)
        found = self._library.resolve_streams(timeout=self._options.resolve_s, **self._asked)
        if found and self._options.source_id is None:
            # The search ends with the first answer; a second one finds streams that answer later.
            found = self._library.resolve_streams(timeout=_OTHERS_S, minimum=2, **self._asked)
        asked = {k: v for k, v in self._asked.items() if v is not None}
        if not found:
            raise SourceLostError("cannot_open", f"no LSL stream with {asked} on this network")
        if len(found) > 1:
            ids = sorted(f"{s.name} ({s.source_id})" for s in found)
            raise SourceRefusedError(f"{who}: {len(found)} streams with {asked}: {ids}; give source_id")
        try:
            self._inlet = self._library.StreamInlet(found[0], max_buffered=_BUFFER_S, recover=False)
            self._inlet.open_stream(timeout=self._options.open_s / 2)
            information = self._inlet.get_sinfo(timeout=self._options.open_s / 4)
            self._correct()
        except (RuntimeError, TimeoutError) as e:
            raise SourceLostError("cannot_open", f"LSL stream {asked}: {e}") from e
        if information.dtype == "string":
            raise SourceRefusedError(f"{who}: stream {information.name!r} holds strings, not samples")
        names = tuple(information.get_channel_names() or ())
        unit = common_unit(self._sensor, names, information.get_channel_units() or ())
        return Delivery(
            (information.n_channels,),
            np.dtype(information.dtype).name,
            unit,
            float(information.sfreq) or None,
            names or None,
            description=f"{information.name} ({information.source_id}) from {information.hostname}",
        )

    def read(self, timeout_s: float) -> SampleBlock | None:
        """All samples since the last call; waits for the first of them."""
        try:
            # pull_chunk waits until it has as many samples as asked for: wait for one, then take the rest at once.
            data, stamps = self._inlet.pull_chunk(timeout=timeout_s, max_samples=1)
            if not len(stamps):
                return None
            parts, last = [np.array(data)], float(stamps[-1])
            data, stamps = self._inlet.pull_chunk(timeout=0.0, max_samples=1024)
            if len(stamps):
                parts.append(np.array(data))
                last = float(stamps[-1])
            if time.monotonic() - self._corrected_at > _CORRECT_EVERY_S:
                self._correct()
        except (RuntimeError, TimeoutError) as e:  # mne-lsl raises these when liblsl has lost the stream
            raise SourceLostError("disconnected", f"LSL stream lost: {e}") from e
        return SampleBlock(np.concatenate(parts), nanoseconds(last), self._clock)

    def close(self) -> None:
        """Unsubscribe."""
        inlet, self._inlet = self._inlet, None
        if inlet is not None:
            inlet.close_stream()
            del inlet

    def _correct(self) -> None:
        """Measure the outlet's clock against LSL's clock here, and that one against CLOCK_MONOTONIC."""
        correction_ns = nanoseconds(self._inlet.time_correction(timeout=self._options.open_s / 4))
        here = clock_beside_monotonic("lsl", lambda: nanoseconds(self._library.local_clock()))
        self._clock = Clock(
            "lsl", here.offset_ns - correction_ns, here.uncertainty_ns + _CORRECTION_UNCERTAINTY_NS
        )
        self._corrected_at = time.monotonic()
