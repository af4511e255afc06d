"""Windows: the parts of a moment that a model sees, cut from any source so that all modalities end at the same time.

As in the runtime, a window is the newest stretch of samples at some time t, the same t for every modality of one
example: RGB and depth show the same instant, a 3 s EEG window covers the 3 s up to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from runtime.rig import Rig
from runtime.signals.moments import MomentSource, Split

Windows = dict[str, npt.NDArray[Any]]
"""Modality -> (B, *window_shape) raw windows in the dtype of the wire."""


class Examples(Protocol):
    """The examples of one split: where windows may end, and what they hold."""

    def __len__(self) -> int:
        """Number of examples N."""

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modalities in the order of the presence mask."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) int64 class of every example; -1 where it has none."""

    def ends_s(
        self, examples: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(B,) and (B,): the earliest and latest time at which windows of some examples may end."""

    def cut(self, examples: npt.NDArray[np.int64], ends_s: npt.NDArray[np.float64]) -> Windows:
        """Modality -> (B, *window_shape) raw windows that end at those times; zeros where there is none."""

    def presence(
        self, examples: npt.NDArray[np.int64], ends_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """(B, M) of 0 and 1: which modalities have a window there."""


@runtime_checkable
class ExampleSource(Protocol):
    """Data that say themselves where windows may end, as sessions of a user do."""

    name: str
    rig: Rig
    classes: tuple[str, ...]

    def examples(self, split: Split, lengths: Mapping[str, int]) -> Examples:
        """The examples of one split."""


Source = MomentSource | ExampleSource
"""What a model learns from: moments of a shipped rig, or somebody's own data."""


def examples_of(source: Source, split: Split, lengths: Mapping[str, int]) -> Examples:
    """The examples of one split of a source.

    Args:
        source: where samples come from.
        split: which part of it.
        lengths: modality -> window length in samples; its order is that of the presence mask.
    """
    return (
        source.examples(split, lengths)
        if isinstance(source, ExampleSource)
        else WindowSet(source, split, lengths)
    )


@dataclass(frozen=True)
class WindowSet:
    """Windows of one split of a source of moments.

    Attributes:
        source: where samples come from.
        split: which moments.
        lengths: modality -> window length in samples; its order is that of the presence mask. Image windows of
            length 1 drop their time axis, as the bundle's ``window_shape`` has it.
    """

    source: MomentSource
    split: Split
    lengths: Mapping[str, int]

    def __post_init__(self) -> None:
        """Refuse lengths that the source cannot give."""
        known = self.source.rig.modality_names
        for modality, length in self.lengths.items():
            if modality not in known:
                raise KeyError(f"windows name modality {modality!r}; the source has {list(known)}")
            longest = round((self.source.duration_s - self.source.settle_s[modality]) * self._rate(modality))
            if not 1 <= length <= longest:
                raise ValueError(f"{modality} window of {length} samples: valid are 1 .. {longest}")
            if self.source.rig.sensor(modality).kind in ("rgb", "depth") and length != 1:
                raise ValueError(f"{modality} window of {length} frames: image windows are one frame")

    def __len__(self) -> int:
        """Number of moments."""
        return len(self.labels)

    def _rate(self, modality: str) -> float:
        return self.source.rig.sensor(modality).rate_hz

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modalities in the order of the presence mask."""
        return tuple(self.lengths)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) int64 class of every moment."""
        return self.source.moments(self.split).labels

    @property
    def end_range_s(self) -> tuple[float, float]:
        """Times at which a complete, settled window of every modality can end, in seconds since the moment began."""
        earliest = max(self.source.settle_s[m] + n / self._rate(m) for m, n in self.lengths.items())
        return earliest, self.source.duration_s

    def ends_s(
        self, moments: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """:attr:`end_range_s`, once for every moment."""
        earliest, latest = self.end_range_s
        return np.full(len(moments), earliest), np.full(len(moments), latest)

    def presence(
        self, moments: npt.NDArray[np.int64], ends_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """Ones: every moment has every modality."""
        return np.ones((len(moments), len(self.lengths)), np.float32)

    def cut(self, moments: npt.NDArray[np.int64], ends_s: npt.NDArray[np.float64]) -> Windows:
        """The newest windows of some moments at some times.

        Args:
            moments: (B,) which moments.
            ends_s: (B,) seconds since the moment began, within :attr:`end_range_s`.

        Returns:
            Modality -> (B, *window_shape) in the raw dtype.
        """
        # Moment by moment, so that a source that renders shares one scene between RGB and depth.
        examples = [
            [self._read(modality, int(m), float(t)) for modality in self.lengths]
            for m, t in zip(moments, ends_s, strict=True)
        ]
        return {
            modality: np.stack([example[k] for example in examples])
            for k, modality in enumerate(self.lengths)
        }

    def _read(self, modality: str, moment: int, end_s: float) -> npt.NDArray[Any]:
        sensor = self.source.rig.sensor(modality)
        length = self.lengths[modality]
        # The last sample that is complete at end_s: sample g covers the interval (g / rate, (g + 1) / rate].
        last = int(end_s * sensor.rate_hz + 1e-6)
        samples = self.source.read(self.split, moment, modality, max(0, last - length), length)
        return samples[0] if sensor.kind in ("rgb", "depth") else samples


@dataclass(frozen=True)
class EvaluationChunk:
    """Some examples of an evaluation.

    Attributes:
        moments: (B,) int64 moments of the split.
        ends_s: (B,) float64, where their windows end.
        labels: (B,) int64.
        windows: modality -> (B, *window_shape), raw dtype.
        presence: (B, M) float32 of 0 and 1.
    """

    moments: npt.NDArray[np.int64]
    ends_s: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    windows: Windows
    presence: npt.NDArray[np.float32]


def evaluation_windows(
    source: Source,
    split: Split,
    lengths: Mapping[str, int],
    *,
    views: int = 1,
    limit: int | None = None,
    seed: int = 0,
    chunk: int = 64,
) -> Iterator[EvaluationChunk]:
    """Fixed windows of every moment of a split, chunk by chunk, for evaluation and calibration.

    Args:
        source: where samples come from.
        split: which moments.
        lengths: modality -> window length in samples.
        views: windows per moment; their ends are drawn once, uniformly, one in each of ``views`` equal stretches of
            the allowed time.
        limit: number of moments, from the first on (any prefix is class balanced); all by default.
        seed: of the ends.
        chunk: examples in a chunk; the last may be shorter.

    Yields:
        All moments in order, one view after the other.
    """
    windows = examples_of(source, split, lengths)
    count = len(windows) if limit is None else min(limit, len(windows))
    earliest, latest = windows.ends_s(np.arange(count, dtype=np.int64))
    drawn = np.random.default_rng([0x4556414C, seed]).random((views, len(windows)))[:, :count]
    ends = earliest + (latest - earliest) * (np.arange(views)[:, None] + drawn) / views
    moments = np.tile(np.arange(count, dtype=np.int64), views)
    for begin in range(0, len(moments), chunk):
        chosen = moments[begin : begin + chunk]
        at = ends.reshape(-1)[begin : begin + chunk]
        yield EvaluationChunk(
            chosen, at, windows.labels[chosen], windows.cut(chosen, at), windows.presence(chosen, at)
        )
