"""Faults of content: messages in good form whose samples a working sensor would not deliver.

Each function gives a fault for some of a sensor's messages, as in :mod:`benchmarks.virtual_node.stream_faults`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.virtual_node.payloads import Samples
from benchmarks.virtual_node.sensor import VirtualSensor
from benchmarks.virtual_node.stream_faults import Fault
from runtime.signals.faults import Fault as ScheduledFault
from runtime.signals.faults import FaultKind, FaultSchedule, apply

Change = Callable[[Samples], Samples]


def changed(sensor: VirtualSensor, messages: int, change: Change, *, is_seen: bool = False) -> Fault:
    """The samples of every message are changed.

    Args:
        sensor: whose messages.
        messages: how long.
        change: samples -> others of the same shape.
        is_seen: the sensor itself sees what it sends, wrong as that is.
    """
    for _ in range(messages):
        payload = sensor.payload(change(sensor.current.samples).astype(sensor.spec.dtype))
        if is_seen:
            sensor.saw(payload)
        yield (sensor.good_or_not_finite(payload),)


def scheduled(
    sensor: VirtualSensor, messages: int, kind: FaultKind, *, is_seen: bool = False, **params: float
) -> Fault:
    """A fault as a schedule has it (:mod:`runtime.signals.faults`).

    Args:
        sensor: whose messages.
        messages: how long.
        kind: of those that change samples.
        is_seen: the sensor itself sees what it sends, wrong as that is.
        params: of the fault.
    """
    fault = ScheduledFault(
        kind=kind, modalities=(sensor.spec.modality,), start_s=0, end_s=messages + 1.0, params=params
    )
    schedule = FaultSchedule(seed=int(sensor.chance.integers(2**31)), faults=(fault,))
    count = 0

    def change(samples: Samples) -> Samples:
        nonlocal count
        count += 1
        spoilt = apply(schedule, sensor.spec.modality, count, samples)
        assert spoilt is not None, f"{kind} leaves no samples"
        return spoilt

    return changed(sensor, messages, change, is_seen=is_seen)


def freeze(sensor: VirtualSensor, messages: int) -> Fault:
    """The samples of the first message again and again, under new numbers and stamps."""
    first = sensor.current
    for _ in range(messages):
        sensor.saw(first)
        yield (sensor.good(first),)


def no_reading(samples: Samples) -> Samples:
    """A cap on the lens: nothing but zeros, which is also the same picture again and again."""
    return np.zeros_like(samples)


def dark(samples: Samples) -> Samples:
    """A dark room: little more than the noise of the sensor."""
    return samples // 40


def blinded(samples: Samples) -> Samples:
    """Light into the lens."""
    return 255 - samples // 40


def electrode_off(samples: Samples) -> Samples:
    """One electrode drifts off, and the signal rides on the offset."""
    return np.asarray(samples + np.float32(5000) * (np.arange(samples.shape[1]) == 0))


def artefacts(samples: Samples) -> Samples:
    """Muscles and movement: two hundred times the signal, around zero."""
    return samples * 200


def one_not_finite(samples: Samples) -> Samples:
    """One value of a message is not a number."""
    samples = samples.copy()
    samples[-1, -1] = np.nan
    return samples
