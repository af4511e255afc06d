"""Panes: an observation as something small that a browser draws: a picture, a map of values, or lines.

Pure functions of arrays. The size of a pane is bounded whatever the sensor delivers: pictures have at most
:data:`LONGEST_SIDE` pixels on a side, lines at most :data:`MOST_LINES` channels of :data:`LINE_POINTS` points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from runtime.wire import Observation

LONGEST_SIDE = 128
LINE_POINTS = 256
MOST_LINES = 16

Form = Literal["picture", "map", "lines"]

_LINE_COUNTS = 10_000
"""Counts of a line's int16 values from its middle to the edge of its band; larger values are drawn beyond the edge."""

_FALL_PER_S = 0.15
"""How fast a scale shrinks, as a share of its excess per second: it widens at once, and narrows slowly."""


@dataclass(frozen=True, slots=True)
class Pane:
    """What a browser draws of one observation.

    Attributes:
        form: ``picture`` (RGB bytes), ``map`` (one byte per cell, 0 for no value, 1..255 from ``low`` to ``high``) or
            ``lines`` (int16 per point, ``step`` units each, channel after channel).
        shape: (height, width) of a picture or map, (channels, points) of lines.
        unit: of ``low``, ``high`` and ``step``.
        low: the value of the lowest colour, or of the bottom of a line's band.
        high: the value of the highest colour, or of the top of a line's band.
        step: value of one count of a line; 0 otherwise.
        data: the bytes.
    """

    form: Form
    shape: tuple[int, int]
    unit: str
    low: float
    high: float
    step: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of values that both panes of a modality share, so that they can be compared, and when it was set."""

    low: float
    high: float
    at_ns: int


def follow(scale: Scale | None, low: float, high: float, now_ns: int) -> Scale:
    """The scale after a signal that spans ``low .. high``: it widens at once and narrows slowly."""
    if scale is None:
        return Scale(low, high, now_ns)
    keep = math.exp(-_FALL_PER_S * max(0, now_ns - scale.at_ns) / 1e9)
    return Scale(
        min(low, low + (scale.low - low) * keep), max(high, high + (scale.high - high) * keep), now_ns
    )


def values_to_show(kind: str, observation: Observation) -> tuple[npt.NDArray[np.float32], str]:
    """An observation's values as they are shown, and their unit: MFCC are turned back into a mel spectrum."""
    values = np.asarray(observation.values, np.float32)
    if kind == "audio" and values.ndim == 2:
        return mel_spectrum(values), "dB"
    return values, observation.unit


def mel_spectrum(cepstrum: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """MFCC (coefficients, frames) -> mel spectrum in dB (bands, frames): the inverse of the orthonormal DCT."""
    count = len(cepstrum)
    place = np.arange(count)
    basis = np.cos(np.pi / count * (place[None, :] + 0.5) * place[:, None]) * math.sqrt(2 / count)
    basis[0] *= math.sqrt(0.5)
    return np.asarray(basis.T @ cepstrum, np.float32)


def form_of(kind: str, values: npt.NDArray[np.float32]) -> Form:
    """How values of a kind of sensor are drawn."""
    if kind == "rgb":
        return "picture"
    return "map" if kind == "depth" or (kind == "audio" and values.ndim == 2) else "lines"


def span(kind: str, values: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The range of values to show: from the 1st to the 99th percentile; 0 mm of depth is no reading and left out.

    Each line is drawn about its channel's own median, in bands of the same height: the range of lines is
    (-reach, reach).
    """
    known = values[np.isfinite(values)]
    if kind == "depth":
        known = known[known > 0]
    if not known.size:
        return -1.0, 1.0
    if form_of(kind, values) == "lines":
        finite = np.nan_to_num(values)
        reach = max(float(np.percentile(np.abs(finite - np.median(finite, axis=0)), 99)), 1e-6)
        return -reach, reach
    low, high = (float(v) for v in np.percentile(known, [1, 99]))
    return low, max(high, low + 1e-6)


def round_ends(scale: Scale, form: Form) -> Scale:
    """A scale with round ends: 1, 2 or 5 times a power of ten for lines, multiples of 10 or 100 for maps."""
    if form == "lines":
        reach = max(abs(scale.low), abs(scale.high), 1e-6)
        power = 10.0 ** math.floor(math.log10(reach))
        nice = next(m for m in (1, 2, 5, 10) if m * power >= reach * (1 - 1e-9)) * power
        return Scale(-nice, nice, scale.at_ns)
    step = 100.0 if scale.high - scale.low > 200 else 10.0
    low = math.floor(scale.low / step) * step
    return Scale(low, max(math.ceil(scale.high / step) * step, low + step), scale.at_ns)


def make_pane(kind: str, values: npt.NDArray[np.float32], unit: str, scale: Scale) -> Pane:
    """The pane of an observation's values.

    Args:
        kind: rgb, depth, audio or eeg.
        values: (H, W, 3), (H, W), (bands, frames), (time, channels) or (time,).
        unit: of the values.
        scale: the range to show.
    """
    form = form_of(kind, values)
    if form == "picture":
        return _picture(values, unit)
    if form == "map":
        # Low frequencies at the bottom, as spectrograms are drawn.
        return _map(values[::-1] if kind == "audio" else values, unit, scale, holes=kind == "depth")
    return _lines(values.reshape(len(values), -1), unit, scale)


def _picture(values: npt.NDArray[np.float32], unit: str) -> Pane:
    pixels = np.clip(np.rint(np.nan_to_num(_shrunk(values, same_shape=True))), 0, 255).astype(np.uint8)
    return Pane("picture", (pixels.shape[0], pixels.shape[1]), unit, 0, 255, 0, pixels.tobytes())


def _map(values: npt.NDArray[np.float32], unit: str, scale: Scale, *, holes: bool) -> Pane:
    values = _shrunk(values, same_shape=holes)
    share = (values - scale.low) / (scale.high - scale.low)
    cells = (1 + 254 * np.clip(np.nan_to_num(share), 0, 1)).astype(np.uint8)
    if holes:
        cells[~(values > 0)] = 0
    return Pane("map", (cells.shape[0], cells.shape[1]), unit, scale.low, scale.high, 0, cells.tobytes())


def _lines(values: npt.NDArray[np.float32], unit: str, scale: Scale) -> Pane:
    """Each channel about its own median; a long one as the lowest and highest value of each stretch, so peaks stay."""
    shown = np.nan_to_num(values[:, :MOST_LINES])
    lines = np.asarray((shown - np.median(shown, axis=0)).T, np.float32)
    if lines.shape[1] > LINE_POINTS:
        edges = np.linspace(0, lines.shape[1], LINE_POINTS // 2 + 1).astype(int)[:-1]
        both = [np.minimum.reduceat(lines, edges, axis=1), np.maximum.reduceat(lines, edges, axis=1)]
        lines = np.stack(both, axis=2).reshape(len(lines), -1)
    step = scale.high / _LINE_COUNTS
    counts = np.clip(np.round(lines / step), -32_767, 32_767).astype("<i2")
    return Pane(
        "lines", (counts.shape[0], counts.shape[1]), unit, scale.low, scale.high, step, counts.tobytes()
    )


def _shrunk(values: npt.NDArray[Any], *, same_shape: bool) -> npt.NDArray[Any]:
    """Shrunk to at most :data:`LONGEST_SIDE` cells on a side, both axes alike to keep the ``same_shape``."""
    height, width = values.shape[:2]
    down, across = min(1.0, LONGEST_SIDE / height), min(1.0, LONGEST_SIDE / width)
    if same_shape:
        down = across = min(down, across)
    if down == across == 1.0:
        return values
    size = (max(1, round(width * across)), max(1, round(height * down)))
    return np.asarray(cv2.resize(np.ascontiguousarray(values), size, interpolation=cv2.INTER_AREA))


class PaneMaker:
    """Makes each observation's pane once, however many browsers draw it, and keeps the scale of each modality."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        """Begin without scales.

        Args:
            kinds: modality -> kind of sensor.
        """
        self._kinds = dict(kinds)
        self._scales: dict[str, Scale] = {}
        self._latest: dict[tuple[str, str], tuple[Observation, Pane]] = {}

    def pane(self, observation: Observation) -> Pane:
        """The pane of an observation; the same object again for the same observation."""
        key = (observation.modality, observation.stream)
        latest = self._latest.get(key)
        if latest is not None and latest[0] is observation:
            return latest[1]
        kind = self._kinds[observation.modality]
        values, unit = values_to_show(kind, observation)
        scale = follow(self._scales.get(observation.modality), *span(kind, values), observation.published_ns)
        self._scales[observation.modality] = scale
        pane = make_pane(kind, values, unit, round_ends(scale, form_of(kind, values)))
        self._latest[key] = (observation, pane)
        return pane
