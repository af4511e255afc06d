"""Signals of the synthetic or recorded commands-4 rig as a sensor of any rig."""

from __future__ import annotations

import time

from runtime.core.clock import NS_PER_S
from runtime.rig import SensorSpec
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.sample_source import PLAYBACK, Delivery, Samples, SourceRefusedError
from runtime.signals.packs import PackError
from runtime.signals.playback import Playback, plan_for
from runtime.signals.sources import open_source

_OVERRUN_NS = NS_PER_S


class SyntheticSource:
    """Plays the plan from the rig's common start, so that all such sensors show the same moment."""

    def __init__(self, options: SyntheticOptions, sensor: SensorSpec, epoch_ns: int | None) -> None:
        self._options = options
        self._sensor = sensor
        self._start_ns = time.monotonic_ns() if epoch_ns is None else epoch_ns
        self._playback: Playback | None = None
        self._index = 0

    def open(self) -> Delivery:
        """Make or load the signals, and join in where the others are."""
        o = self._options
        modality = o.modality or self._sensor.kind
        try:
            source = open_source(o.data, o.data_dir, o.seed, modalities=(modality,))
        except (PackError, KeyError) as e:
            raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {e.args[0]}") from e
        self._playback = Playback(source, modality, plan_for(source, o.split, o.plan_seed))
        self._index = self._playback.next_index(time.monotonic_ns() - self._start_ns)
        delivered = source.rig.sensor(modality)
        return Delivery(
            delivered.sample_shape,
            delivered.dtype,
            delivered.unit,
            delivered.rate_hz,
            live=False,
            description=f"{o.data} {modality}",
        )

    def read(self, timeout_s: float) -> Samples | None:
        """The next message of the plan, when it is due; after an overrun, the one that is due then."""
        assert self._playback is not None
        due_ns = self._start_ns + self._playback.elapsed_ns(self._index)
        ahead_ns = due_ns - time.monotonic_ns()
        overrun = ahead_ns < -_OVERRUN_NS
        if overrun:
            self._index = self._playback.next_index(time.monotonic_ns() - self._start_ns)
            due_ns = self._start_ns + self._playback.elapsed_ns(self._index)
            ahead_ns = due_ns - time.monotonic_ns()
        if ahead_ns > timeout_s * NS_PER_S:
            time.sleep(timeout_s)
            return None
        chunk = self._playback.read(self._index)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
        self._index += 1
        return Samples(chunk.samples, due_ns, PLAYBACK, overrun)

    def close(self) -> None:
        """Nothing is held open."""
