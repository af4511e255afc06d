"""Faults of a sensor's clock: it is set, runs fast or slow, is wrong now and then, or is another one than the node's.

Each function gives a fault for some of a sensor's messages, as in :mod:`benchmarks.virtual_node.stream_faults`.
"""

from __future__ import annotations

from benchmarks.virtual_node.payloads import packed
from benchmarks.virtual_node.sensor import VirtualSensor
from benchmarks.virtual_node.stream_faults import Fault
from runtime.core.clock import NS_PER_S
from runtime.wire import Clock, Reason

HOUR_NS = 3600 * NS_PER_S
FUTURE_TOLERANCE_NS = 50_000_000
"""A stamp that is further ahead than this is refused."""

_UNCERTAINTIES_NS = (1_000_000, 200_000_000)


def set_clock(sensor: VirtualSensor, messages: int, by_ns: int) -> Fault:
    """The clock is set, and the node follows; later it is set right again, and the node follows again."""
    ahead, behind = Reason.FUTURE, Reason.BACKWARD
    steps = 0
    for step in _followed(sensor, by_ns, ahead if by_ns > 0 else behind):
        steps += 1
        yield step
    for _ in range(messages - steps):
        yield (sensor.good(offset_ns=by_ns),)
    yield from _followed(sensor, 0, behind if by_ns > 0 else ahead)


def step_of_seconds(sensor: VirtualSensor, messages: int) -> Fault:
    """The clock is set by 0.3 to 20 seconds, to the future or the past."""
    sign = 1 if sensor.chance.random() < 0.5 else -1
    return set_clock(sensor, messages, sign * round(sensor.chance.uniform(0.3, 20.0) * NS_PER_S))


def _followed(sensor: VirtualSensor, offset_ns: int, reason: Reason) -> Fault:
    """The first messages of a clock that was set: refused until as many agree as the rig needs for a recovery."""
    for _ in range(sensor.rig.health.recover_frames - 1):
        yield (sensor.refused(reason, offset_ns=offset_ns),)
    sensor.ledger.restart(reanchored=True)
    yield (sensor.good(offset_ns=offset_ns),)


def single_wrong_stamps(sensor: VirtualSensor, messages: int) -> Fault:
    """Every third stamp is an hour ahead."""
    for number in range(messages):
        yield (sensor.good() if number % 3 else sensor.refused(Reason.FUTURE, offset_ns=HOUR_NS),)


def fast_clock(sensor: VirtualSensor, messages: int, share: float = 0.3) -> Fault:
    """A clock that runs fast by a share: whenever it is too far ahead, the third such stamp is followed."""
    gain_ns = round(share * sensor.period_ns)
    ahead_ns = wrong = 0  # as far as the node sees it, which follows by what the stamp is ahead
    for number in range(messages):
        offset_ns = number * gain_ns
        wrong += ahead_ns > FUTURE_TOLERANCE_NS
        if 0 < wrong < sensor.rig.health.recover_frames:
            yield (sensor.refused(Reason.FUTURE, offset_ns=offset_ns),)
        else:
            if wrong:
                sensor.ledger.restart(reanchored=True)
                ahead_ns = wrong = 0
            yield (sensor.good(offset_ns=offset_ns),)
        ahead_ns += gain_ns
    # By now it is ahead by several periods, so that the first good stamps are before those that were accepted last.
    yield from _followed(sensor, 0, Reason.BACKWARD)


def slow_clock(sensor: VirtualSensor, messages: int, share: float = 0.6) -> Fault:
    """A clock that runs slow by a share, and is right again when the fault is over."""
    loss_ns = round(share * sensor.period_ns)
    for number in range(messages):
        yield (sensor.good(offset_ns=-number * loss_ns),)
    sensor.ledger.gap()  # according to the stamps, samples are missing there


def drift(sensor: VirtualSensor, messages: int) -> Fault:
    """A clock that runs fast or slow by up to 500 millionths, then back: nothing may be lost by that."""
    rate = sensor.chance.uniform(-500e-6, 500e-6)
    for i in (*range(messages // 2), *range(messages - messages // 2, 0, -1)):
        yield (sensor.good(offset_ns=round(i * rate * sensor.period_ns)),)


def own_clock(sensor: VirtualSensor, messages: int) -> Fault:
    """A clock far from the node's that drifts, as every header says; now and then it is not sure enough."""
    offset_ns = int(sensor.chance.integers(-NS_PER_S // 2, 10**15, endpoint=True))
    uncertainty_ns = _UNCERTAINTIES_NS[int(sensor.chance.integers(2))]
    for i in range(messages):
        ahead_ns = offset_ns + round(i * 200e-6 * sensor.period_ns)
        sensor.ledger.accept(sensor.next_number, sensor.current)
        clock = Clock("own", ahead_ns, uncertainty_ns)
        captured_ns = sensor.capture_ns + ahead_ns
        yield (packed(sensor.rig, sensor.spec, sensor.number(), captured_ns, sensor.current, clock),)
