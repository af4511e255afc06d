"""Time: every instant is an int of nanoseconds on the node's clock, and every function takes ``now`` as an argument.

A sensor stamps its messages on its own clock; :func:`node_time` converts a stamp to the node's. Alignment, ages and
the check for stamps from the future are then plain integer arithmetic.
"""

from __future__ import annotations

from runtime.wire import Clock

NS_PER_S = 1_000_000_000


def nanoseconds(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return round(seconds * NS_PER_S)


def node_time(capture_ns: int, clock: Clock) -> int:
    """A sensor's stamp, converted to the node's clock: ``capture_ns - offset_ns``."""
    return capture_ns - clock.offset_ns


def ahead_of(now_ns: int, captured_ns: int, tolerance_ns: int, clock: Clock) -> int:
    """By how many nanoseconds a capture is impossibly in the future; 0 if it is not.

    Args:
        now_ns: now, node clock.
        captured_ns: capture time, node clock.
        tolerance_ns: allowed lead.
        clock: the sensor's clock; its uncertainty widens the tolerance.
    """
    return max(0, captured_ns - now_ns - tolerance_ns - clock.uncertainty_ns)
