"""Sample sources: the one interface behind which every device, file and stream stands.

A source is opened, read and closed by one thread of a process of its own (:mod:`runtime.sensors.capture`). It says what
it delivers and when that was captured. It converts nothing and repairs nothing: samples that differ from what the rig
promises are refused, or transformed as the rig declares, and a source that fails is closed, counted and opened again by
its process. :mod:`runtime.sensors.source_kinds` finds the source of a kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from configs.errors import AfterimageError, MissingExtraError, import_extra
from runtime.wire import Clock

ARRIVAL = Clock("arrival")
"""This machine's CLOCK_MONOTONIC, read when the samples arrived: how long they took to arrive is not in it."""
PLAYBACK = Clock("playback")
"""This machine's CLOCK_MONOTONIC, by the schedule of something recorded."""


class SourceRefusedError(AfterimageError):
    """A source that cannot work as it is declared; the message names the sensor, what was expected and what came."""


class SourceLostError(AfterimageError):
    """A source that does not deliver now and may again: it is closed and opened again.

    Attributes:
        reason: one word, counted: cannot_open, disconnected, stalled, frozen, runaway, changed.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class EndOfSource(Exception):
    """A file that is not looped has been played to its end."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What an opened source says it delivers; None where it does not say.

    Attributes:
        shape: of one sample: (480, 640, 3), (), (8,).
        dtype: name of the samples' dtype.
        unit: a :data:`~runtime.rig.source_options.Unit`, or another that a rig may name.
        rate_hz: samples per second.
        channels: names along the last axis.
        live: a device, which can go silent, freeze or run wild; False for a file.
        description: what was opened, for a person.
    """

    shape: tuple[int, ...]
    dtype: str
    unit: str | None = None
    rate_hz: float | None = None
    channels: tuple[str, ...] | None = None
    live: bool = True
    description: str = ""


@dataclass(frozen=True, slots=True)
class SampleBlock:
    """Consecutive samples.

    Attributes:
        array: (n, *shape), time first, n >= 1; the source does not change it afterwards.
        capture_ns: when the newest of them was captured, on ``clock``.
        clock: its offset is to this machine's CLOCK_MONOTONIC; its id says who stamped.
        gap: samples were lost between the block before and this one.
        number: the place of this block among all messages since the rig's common start, from a source that plays along
            a plan. Such a block holds one message of the rig, which is published under this number.
    """

    array: npt.NDArray[Any]
    capture_ns: int
    clock: Clock = ARRIVAL
    gap: bool = False
    number: int | None = None


class SampleSource(Protocol):
    """A device, stream or file. It may have ``counts``, a dict of its own counters (overflows and the like)."""

    def open(self) -> Delivery:
        """Open it; called again after :meth:`close`.

        Raises:
            SourceRefusedError: it can never work.
            SourceLostError: it cannot be opened now.
        """
        ...

    def read(self, timeout_s: float) -> SampleBlock | None:
        """The next samples, or None if none come within ``timeout_s``.

        Raises:
            SourceLostError: it is gone.
            EndOfSource: it has been played to its end.
        """
        ...

    def close(self) -> None:
        """Let go of it; may be called at any time, and again."""
        ...


def import_library(module: str, needed_by: str) -> ModuleType:
    """Import a library that a source needs.

    Raises:
        SourceRefusedError: it, or a system library under it, is not there; the message says what to install.
    """
    try:
        return import_extra(module, needed_by)
    except MissingExtraError as e:
        raise SourceRefusedError(str(e)) from e
    except OSError as e:  # sounddevice and soundfile say so when their system library is missing
        raise SourceRefusedError(f"{needed_by}: {module} cannot be loaded: {e}") from e


def image_block(array: npt.NDArray[Any], capture_ns: int, clock: Clock, gap: bool = False) -> SampleBlock:
    """One image as a block of one sample: a leading time axis is added."""
    return SampleBlock(array[np.newaxis], capture_ns, clock, gap)
