"""Moments of the synthetic or recorded ``commands-4`` rig, played as a sensor of any rig."""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime.core.clock import NS_PER_S
from runtime.rig import SensorSpec
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.sample_source import PLAYBACK, Delivery, SampleBlock, SourceRefusedError
from runtime.signals.opening import open_source
from runtime.signals.packs import PackError
from runtime.signals.playback import Playback, plan_for

_OVERRUN_NS = NS_PER_S
"""A player this far behind drops what it missed, as a device's buffer does."""


class MomentsSource:
    """Plays one modality of the plan from the rig's common start, so that all such sensors show the same moment.

    What plays when depends on the start alone: a process that is late or was started again joins in where the others
    are. Blocks are numbered by their place in the plan, so that whatever is not published shows as lost at the node.
    """

    def __init__(self, options: SyntheticOptions, sensor: SensorSpec, start_ns: Callable[[], int]) -> None:
        """Prepare; nothing is loaded.

        Args:
            options: which signals, in which order.
            sensor: whose messages: its kind says which modality plays by default, its `chunk` how long a message is.
            start_ns: CLOCK_MONOTONIC time of the common start; asked when the first samples are read.
        """
        self._options = options
        self._sensor = sensor
        self._start_ns = start_ns
        self._playback: Playback | None = None
        self._index: int | None = None
        self.counts = {"overrun": 0}

    def open(self) -> Delivery:
        """Make or load the signals.

        Raises:
            SourceRefusedError: packs that cannot be used, or a modality that they do not have.
        """
        o = self._options
        modality = o.modality or self._sensor.kind
        try:
            source = open_source(o.data, o.data_dir, o.seed, modalities=(modality,))
            plan = plan_for(source, o.split, o.plan_seed)
            self._playback = Playback(source, modality, plan, chunk=self._sensor.chunk)
        except (PackError, KeyError, ValueError) as e:
            raise SourceRefusedError(f"sensor {self._sensor.modality!r}: {e.args[0]}") from e
        self._index = None
        delivered = source.rig.sensor(modality)
        return Delivery(
            delivered.sample_shape,
            delivered.dtype,
            delivered.unit,
            delivered.rate_hz,
            live=False,
            description=f"{o.data} {modality}",
        )

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next message of the plan, when it is due; after an overrun, the one that is due then."""
        assert self._playback is not None
        playback, start_ns = self._playback, self._start_ns()
        if self._index is None:
            self._index = playback.next_index(time.monotonic_ns() - start_ns)
        due_ns = start_ns + playback.elapsed_ns(self._index)
        overrun = time.monotonic_ns() - due_ns > _OVERRUN_NS
        if overrun:
            joined = playback.next_index(time.monotonic_ns() - start_ns)
            self.counts["overrun"] += joined - self._index
            self._index = joined
            due_ns = start_ns + playback.elapsed_ns(self._index)
        if due_ns - time.monotonic_ns() > timeout_s * NS_PER_S:
            time.sleep(timeout_s)
            return None
        index = self._index
        chunk = playback.read(index)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / NS_PER_S)
        self._index = index + 1
        return SampleBlock(chunk.samples, due_ns, PLAYBACK, overrun, index)

    def close(self) -> None:
        """Nothing is held open."""
