"""Playback: which samples a playing sensor delivers when, as a pure function of a plan and an index.

Every sensor process of a rig computes the same plan from the same seed. So RGB, depth, audio and EEG play the
same moment at the same time without exchanging a word, and the class that plays at any time follows from the
plan.

A message holds ``chunk`` samples and exists only once its last sample is captured. Therefore sample ``g`` covers
the interval ``(g / rate, (g + 1) / rate]`` after the start, and the capture time of a message is the *end* of the
interval of its last sample.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S
from runtime.signals.moments import MomentSource, Split


@dataclass(frozen=True)
class MomentSpan:
    """One moment in time.

    Attributes:
        position: place in the plan, 0 for the first moment played.
        moment: index into the split's moments.
        label: class index that holds throughout.
        start_ns: when it begins, in ns after the start of the playback.
        end_ns: when it ends; it covers ``(start_ns, end_ns]``.
    """

    position: int
    moment: int
    label: int
    start_ns: int
    end_ns: int


def _seed_of(*parts: object) -> int:
    """A 64-bit seed that is the same in every process and Python version (unlike ``hash``)."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class MomentPlan:
    """The order in which the moments of a split play: random and seeded; the class changes with every moment.

    The plan has no end. It consists of rounds. A round plays moments without repetition, in a random order of
    classes that never has the same class twice in a row (unless the split has a single class), until the rarest
    class is used up. So classes stay balanced over time, and no recording repeats within a round.
    """

    def __init__(self, labels: npt.NDArray[np.int64], duration_s: float, *, seed: int, split: Split) -> None:
        """Make a plan.

        Args:
            labels: (N,) class of every moment of the split.
            duration_s: length of a moment.
            seed: of the order.
            split: name of the split; different splits get different orders.

        Raises:
            ValueError: no moments, or a duration that is not positive.
        """
        if len(labels) == 0:
            raise ValueError(f"split {split!r} has no moments to play")
        if not duration_s > 0:
            raise ValueError(f"duration_s must be > 0, got {duration_s}")
        self.seed = seed
        self.split: Split = split
        self.duration_ns = round(duration_s * NS_PER_S)
        self._labels = np.asarray(labels, dtype=np.int64)
        self._classes = np.unique(self._labels)
        self._per_class = min(int((self._labels == c).sum()) for c in self._classes)
        self._round_length = self._per_class * len(self._classes)
        self._rounds: dict[int, npt.NDArray[np.int64]] = {}

    def _round(self, number: int) -> npt.NDArray[np.int64]:
        """The moments of one round in playing order; the last few rounds asked for are kept."""
        if number in self._rounds:
            return self._rounds[number]
        rng = np.random.default_rng(_seed_of("moment plan", self.seed, self.split, number))
        queues = {int(c): rng.permutation(np.flatnonzero(self._labels == c)) for c in self._classes}
        order: list[int] = []
        last = -1
        for turn in range(self._per_class):
            classes = self._turn(rng, last, first=turn == 0, final=turn == self._per_class - 1)
            order += [int(queues[int(c)][turn]) for c in classes]
            last = int(classes[-1])
        while len(self._rounds) >= 4:
            self._rounds.pop(next(iter(self._rounds)))
        self._rounds[number] = np.asarray(order, dtype=np.int64)
        return self._rounds[number]

    def _turn(
        self, rng: np.random.Generator, last: int, *, first: bool, final: bool
    ) -> npt.NDArray[np.int64]:
        """Every class once, in an order that neither begins with ``last`` nor repeats a class across rounds.

        Every round begins with the lowest class and ends with another, so a round can be computed without the
        round before it.
        """
        lowest = self._classes[0]
        while True:
            classes = rng.permutation(self._classes)
            begins_well = classes[0] == lowest if first else classes[0] != last
            if len(classes) == 1 or (begins_well and not (final and classes[-1] == lowest)):
                return classes

    def at(self, position: int) -> MomentSpan:
        """The moment at a place of the plan.

        Raises:
            IndexError: a negative position.
        """
        if position < 0:
            raise IndexError(f"position must be >= 0, got {position}")
        number, place = divmod(position, self._round_length)
        moment = int(self._round(number)[place])
        start = position * self.duration_ns
        return MomentSpan(position, moment, int(self._labels[moment]), start, start + self.duration_ns)

    def span_at(self, elapsed_ns: int) -> MomentSpan | None:
        """The moment that plays ``elapsed_ns`` after the start, or None before the start.

        A capture time on a boundary belongs to the moment that ends there (see the module's docstring).
        """
        return None if elapsed_ns <= 0 else self.at((elapsed_ns - 1) // self.duration_ns)


@dataclass(frozen=True)
class Chunk:
    """What one message of a playing sensor holds.

    Attributes:
        index: number of the message since the start of the playback.
        elapsed_ns: its ideal capture time, in ns after the start of the playback.
        span: the moment its last sample is of.
        samples: (chunk, *sample_shape) in the rig's dtype and unit.
    """

    index: int
    elapsed_ns: int
    span: MomentSpan
    samples: npt.NDArray[Any]


class Playback:
    """One modality of a source, played along a plan; the same index gives the same bytes in every process."""

    def __init__(
        self, source: MomentSource, modality: str, plan: MomentPlan, *, chunk: int | None = None
    ) -> None:
        """Bind a source, one of its modalities and a plan.

        Args:
            source: of the signals.
            modality: which of them.
            plan: which moment plays when.
            chunk: samples in one message; as in the source's rig by default.

        Raises:
            RigError: the modality is not in the source's rig.
            ValueError: a moment is shorter than one chunk.
        """
        sensor = source.rig.sensor(modality)
        self.source = source
        self.modality = modality
        self.plan = plan
        self.rate_hz = sensor.rate_hz
        self.chunk = chunk or sensor.chunk
        # The tolerance absorbs rounding of binary fractions such as 5 * 29.97 = 149.849999...
        self._available = math.floor(source.duration_s * sensor.rate_hz + 1e-6)
        if self._available < self.chunk:
            raise ValueError(
                f"a moment of {source.duration_s} s holds {self._available} samples of {modality!r}, "
                f"a message needs {self.chunk}"
            )

    def elapsed_ns(self, index: int) -> int:
        """Ideal capture time of a message, ns after the start: ``(index + 1) * chunk / rate``. No drift."""
        return round((index + 1) * self.chunk * NS_PER_S / self.rate_hz)

    def next_index(self, elapsed_ns: int) -> int:
        """The first message captured at or after ``elapsed_ns``: where a restarted sensor joins in."""
        index = max(0, math.floor(elapsed_ns * self.rate_hz / (self.chunk * NS_PER_S)) - 1)
        while self.elapsed_ns(index) < elapsed_ns:
            index += 1
        return index

    def read(self, index: int) -> Chunk:
        """The samples of message ``index``; one that straddles two moments takes its samples from both."""
        elapsed = self.elapsed_ns(index)
        wanted, parts = self.chunk, []
        sample = index * self.chunk
        span, within, left = self._place(sample)
        while True:
            count = min(wanted, left)
            # Where the moment is no whole number of samples long, its last sample may be played twice.
            start = min(within, self._available - count)
            parts.append(self.source.read(self.plan.split, span.moment, self.modality, start, count))
            sample, wanted = sample + count, wanted - count
            if not wanted:
                break
            span, within, left = self._place(sample)
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Chunk(index, elapsed, span, samples)

    def _place(self, sample: int) -> tuple[MomentSpan, int, int]:
        """A sample's moment, its index in it, and how many samples from it on the moment has left."""
        per_moment = self.rate_hz * self.plan.duration_ns / NS_PER_S
        position = math.floor((sample + 1e-6) / per_moment)
        first = math.ceil(position * per_moment - 1e-6)
        end = math.ceil((position + 1) * per_moment - 1e-6)
        return self.plan.at(position), sample - first, min(end - sample, self._available)

    def chunks(self, start: int = 0) -> Iterator[Chunk]:
        """All messages from an index on; endless."""
        index = start
        while True:
            yield self.read(index)
            index += 1


def plan_for(source: MomentSource, split: Split, seed: int) -> MomentPlan:
    """The plan that every sensor process of a source computes for itself from these three arguments."""
    return MomentPlan(source.moments(split).labels, source.duration_s, seed=seed, split=split)
