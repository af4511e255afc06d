r"""How far a sensor's clock is ahead of the node's, and how certain that is: bounds from probes and a largest drift.

A probe leaves the sensor at :math:`t_0`, reaches the node at :math:`t_1`, is answered at :math:`t_2` and is back at
:math:`t_3`; :math:`t_0, t_3` on the sensor's clock, :math:`t_1, t_2` on the node's. Both ways take time, so the
offset (sensor minus node) is not below :math:`t_0 - t_1` at :math:`t_0` and not above :math:`t_3 - t_2` at :math:`t_3`,
whatever the two delays were. Clocks that drift apart by at most :math:`\rho` widen that interval by :math:`\rho` times
the age of either end. All intervals hold at once, so the offset lies in their intersection: its middle is the
estimate, half its width the uncertainty. An empty intersection proves that the clock was set or drifts faster than
:math:`\rho`: the older probes are forgotten then, and that is counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runtime.wire.control import Probe

DRIFT_PPM = 200
"""The frequency of a cheap crystal is off by at most 100 millionths, so two of them drift apart by at most 200."""
_KEPT = 32
"""Probes whose bounds are kept."""


@dataclass(frozen=True, slots=True)
class Offset:
    """A clock's offset, with its uncertainty.

    Attributes:
        offset_ns: sensor clock minus node clock.
        uncertainty_ns: the true offset is at most this far away, if the clocks keep to the drift rate.
    """

    offset_ns: int
    uncertainty_ns: int


class OffsetEstimator:
    """The offset of one clock from its probes; a function of (probes, now)."""

    def __init__(self, drift_ppm: float = DRIFT_PPM) -> None:
        """Begin without probes.

        Args:
            drift_ppm: the clocks drift apart by at most this many millionths.
        """
        self._rate = drift_ppm * 1e-6
        self._probes: deque[Probe] = deque(maxlen=_KEPT)
        self.reanchored = 0
        """How often probes contradicted each other, so that the older ones were forgotten."""

    def add(self, probe: Probe) -> bool:
        """Take in a probe.

        Returns:
            False if the probe is impossible (the answer left the node before the request came, or arrived before the
            request was sent) and was left out.
        """
        low, high = probe.bounds
        if high < low or probe.replied_ns < probe.received_ns or probe.returned_ns < probe.sent_ns:
            return False
        self._probes.append(probe)
        if self._intersection(probe.returned_ns) is None:
            self._probes = deque([probe], maxlen=_KEPT)
            self.reanchored += 1
        return True

    def offset(self, now_ns: int) -> Offset | None:
        """The offset as far as it is known at ``now_ns`` (sensor clock); None before the first probe."""
        bounds = self._intersection(now_ns) if self._probes else None
        if bounds is None:
            return None
        low, high = bounds
        return Offset(round((low + high) / 2), -(-round(high - low) // 2))

    def _intersection(self, now_ns: int) -> tuple[float, float] | None:
        # The lower bound holds for the moment when the request left, the upper one for when the answer arrived.
        low = max(p.bounds[0] - self._drift(now_ns - p.sent_ns) for p in self._probes)
        high = min(p.bounds[1] + self._drift(now_ns - p.returned_ns) for p in self._probes)
        return (low, high) if low <= high else None

    def _drift(self, age_ns: int) -> float:
        return self._rate * abs(age_ns)
