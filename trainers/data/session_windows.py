"""Examples of sessions: windows of a user's own recordings, labels and sensors missing where they were missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.core.clock import NS_PER_S
from runtime.rig import Rig
from runtime.sessions.dataset import Dataset, Span
from runtime.signals.moments import Split
from trainers.data.windows import Windows

_PIECE_S = 1.0
"""A span that is longer is several examples: a class that was held for a minute is more than one moment of it."""


@dataclass(frozen=True)
class SessionSource:
    """A data set as a source of examples.

    Attributes:
        dataset: the sessions, their splits and labels.
        unlabelled: whether training takes stretches without a label, too.
    """

    dataset: Dataset
    unlabelled: bool = True

    @property
    def name(self) -> str:
        """``sessions``; says in a bundle what it was trained on."""
        return "sessions"

    @property
    def rig(self) -> Rig:
        """The sensors."""
        return self.dataset.rig

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.dataset.classes

    def examples(self, split: Split, lengths: Mapping[str, int]) -> SessionExamples:
        """The examples of one split; those of training may have no label.

        Raises:
            DatasetError: a class that the split lacks, or no window at all.
        """
        spans = self.dataset.spans(split, lengths, unlabelled=self.unlabelled and split == "train")
        return SessionExamples(self.dataset, tuple(spans), dict(lengths))


@dataclass(frozen=True)
class SessionExamples:
    """Examples of spans; see :class:`~trainers.data.windows.Examples`.

    Attributes:
        dataset: where samples come from.
        spans: where windows may end.
        lengths: modality -> window length in samples.
    """

    dataset: Dataset
    spans: tuple[Span, ...]
    lengths: Mapping[str, int]

    @cached_property
    def _pieces(self) -> tuple[Span, ...]:
        """The spans, cut where they are long, as far as any sensor has a window in them."""
        pieces = []
        for span in self.spans:
            count = max(1, round((span.end_ns - span.begin_ns) / NS_PER_S / _PIECE_S))
            edges = np.linspace(span.begin_ns, span.end_ns, count + 1).round().astype(np.int64).tolist()
            for begin_ns, end_ns in pairwise(edges):
                piece = Span(span.session, begin_ns, end_ns, span.label)
                if any(self._has(piece.session, m, at) for m in self.lengths for at in (begin_ns, end_ns)):
                    pieces.append(piece)
        return tuple(pieces)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._pieces)

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modalities in the order of the presence mask."""
        return tuple(self.lengths)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) int64; -1 where there is none."""
        return np.array([piece.label for piece in self._pieces], np.int64)

    def ends_s(
        self, examples: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Seconds on the session's clock between which windows of some examples may end."""
        chosen = [self._pieces[i] for i in examples]
        return np.array([p.begin_ns for p in chosen]) / NS_PER_S, np.array(
            [p.end_ns for p in chosen]
        ) / NS_PER_S

    def cut(self, examples: npt.NDArray[np.int64], ends_s: npt.NDArray[np.float64]) -> Windows:
        """Modality -> (B, *window_shape) raw windows; zeros where a sensor has none."""
        windows = {}
        for modality, length in self.lengths.items():
            sensor = self.dataset.rig.sensor(modality)
            shape = sensor.sample_shape if _is_frame(sensor.kind, length) else (length, *sensor.sample_shape)
            rows = np.zeros((len(examples), *shape), sensor.dtype)
            for row, (example, end_s) in enumerate(zip(examples, ends_s, strict=True)):
                found = self._window(self._pieces[example].session, modality, round(end_s * NS_PER_S))
                if found is not None:
                    rows[row] = found.reshape(shape)
            windows[modality] = rows
        return windows

    def presence(
        self, examples: npt.NDArray[np.int64], ends_s: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float32]:
        """(B, M) of 0 and 1: which sensors have a window without a gap there."""
        return np.array(
            [
                [self._has(self._pieces[i].session, m, round(end * NS_PER_S)) for m in self.lengths]
                for i, end in zip(examples, ends_s, strict=True)
            ],
            np.float32,
        )

    def _has(self, session: int, modality: str, end_ns: int) -> bool:
        stream = self.dataset.sessions[session].streams.get(modality)
        return stream is not None and stream.has_window(end_ns, self.lengths[modality])

    def _window(self, session: int, modality: str, end_ns: int) -> npt.NDArray[Any] | None:
        stream = self.dataset.sessions[session].streams.get(modality)
        return None if stream is None else stream.window(end_ns, self.lengths[modality])


def _is_frame(kind: str, length: int) -> bool:
    """Whether a window is a single picture, which has no time axis."""
    return kind in ("rgb", "depth") and length == 1
