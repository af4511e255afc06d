"""Faults of the stream: messages that are lost, late, doubled or in the wrong order, and sensors that start again.

Each function gives a fault for some of a sensor's messages: an iterator with one step for each of the sensor's times.
Where the end of a fault needs further times, such as messages that were held back, it has more steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from benchmarks.virtual_node.payloads import Parts, Payload
from benchmarks.virtual_node.sensor import Act, Step, VirtualSensor
from runtime.wire import Reason

OVERFLOW_MESSAGES = 4000
REPEATED = (20, 128)
"""How often a message is repeated: at least, and at most."""

Fault = Iterator[Step]


def none(sensor: VirtualSensor, messages: int) -> Fault:
    """Nothing is wrong."""
    for _ in range(messages):
        yield (sensor.good(),)


def drop(
    sensor: VirtualSensor,
    messages: int,
    *,
    every: int = 1,
    probability: float = 1.0,
    in_a_row: float = np.inf,
    in_all: float = np.inf,
) -> Fault:
    """Messages are lost.

    Args:
        sensor: whose messages.
        messages: how long.
        every: only each so many messages may be lost.
        probability: that one of them is.
        in_a_row: that are lost, at most.
        in_all: that are lost, at most.
    """
    row = lost = 0
    for number in range(messages):
        may = row < in_a_row and lost < in_all and number % every == 0
        if may and sensor.chance.random() < probability:
            row, lost = row + 1, lost + 1
            sensor.number()
            yield ()
        else:
            row = 0
            yield (sensor.good(),)


def pause(sensor: VirtualSensor, messages: int) -> Fault:
    """A sensor has nothing to say for a while: its numbers go on without a gap."""
    for _ in range(messages):
        yield ()
    sensor.ledger.gap()  # according to the stamps, samples are missing there


def delay(sensor: VirtualSensor, messages: int, seconds: float) -> Fault:
    """Messages arrive this much later than they should, in order; the last ones arrive with the next good one."""
    waiting: deque[Parts] = deque()
    for _ in range(messages):
        waiting.append(sensor.good())
        yield (waiting.popleft(),) if len(waiting) > sensor.periods(seconds) else ()
    # Of images that arrive at once only the newest is encoded; the next window has room for all chunks.
    if sensor.is_image:
        sensor.ledger.superseded += len(waiting)
    yield (*waiting, sensor.good())


def burst(sensor: VirtualSensor, messages: int) -> Fault:
    """Messages are held back, and then arrive all at once."""
    return delay(sensor, messages, messages * sensor.spec.period_s)


def reorder(sensor: VirtualSensor, messages: int) -> Fault:
    """Of every two messages the later one arrives first; the number of messages is rounded up to an even one."""
    for _ in range(0, messages, 2):
        late = sensor.message()
        yield ()
        # The older one is refused, and its number is missing in the stream.
        sensor.ledger.dropped[Reason.OUT_OF_ORDER] += 1
        yield sensor.good(), late


def duplicate(sensor: VirtualSensor, messages: int) -> Fault:
    """Every message arrives twice."""
    for _ in range(messages):
        message = sensor.good()
        sensor.ledger.dropped[Reason.DUPLICATE] += 1
        yield message, message


def repeat(sensor: VirtualSensor, messages: int) -> Fault:
    """Every message arrives many times."""
    for _ in range(messages):
        message, count = sensor.good(), int(sensor.chance.integers(*REPEATED, endpoint=True))
        sensor.ledger.dropped[Reason.DUPLICATE] += count - 1
        yield (message,) * count


def flood(sensor: VirtualSensor, messages: int, times: int = 50) -> Fault:
    """The sensor sends at many times its rate; every message has its own number, stamp and samples."""
    for _ in range(messages):
        step = [sensor.good(_numbered(sensor, i), offset_ns=i - times + 1) for i in range(times)]
        # Of images that arrive at once only the newest is encoded; these chunks fit into one window together.
        if sensor.is_image:
            sensor.ledger.superseded += times - 1
        yield tuple(step)


def _numbered(sensor: VirtualSensor, number: int) -> Payload:
    """The current samples with a number in them, so that no two payloads are alike."""
    samples = sensor.current.samples.copy()
    samples.reshape(-1)[0] = number
    return sensor.payload(samples)


def restart(sensor: VirtualSensor, messages: int) -> Fault:
    """The sensor numbers its messages from 0 again, on the same connection."""
    sensor.restart()
    yield from none(sensor, messages)


def new_process(sensor: VirtualSensor, messages: int) -> Fault:
    """The sensor's process starts again, with another connection."""
    yield (Act.RECONNECT,)
    yield from restart(sensor, messages)


def overflow(sensor: VirtualSensor, messages: int) -> Fault:
    """Thousands of messages at once: what ZeroMQ's queues cannot hold is lost, and the numbers show it."""
    step_ns = max(1, sensor.period_ns // (OVERFLOW_MESSAGES + 1))
    for _ in range(messages):
        many = (
            sensor.good(_numbered(sensor, i), offset_ns=(i - OVERFLOW_MESSAGES) * step_ns)
            for i in range(OVERFLOW_MESSAGES)
        )
        yield (Act.OVERFLOW, *many)
