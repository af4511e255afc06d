r"""A band-limited change of sampling rate, continuous over messages, that keeps the time of every sample.

A polyphase low-pass: the windowed sinc of the lower of the two rates, tabulated at every phase that the ratio of the
rates can produce, and evaluated at the outputs. soxr is better for files, but it holds back some 900 samples, which are
3.7 s of EEG; this filter holds back ten samples, 40 ms. With a Kaiser window of :math:`\beta = 6` the stopband, from
half the lower rate on, is 60 dB down; the passband ends at 0.6 of half the lower rate below 1 kHz, and at 0.9 of it
above.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

_BETA, _ATTENUATION_DB = 6.0, 63.0
_LARGEST_DENOMINATOR = 1000
"""Limit for the ratio of the rates: 44 100 to 16 000 is 441 to 160. No ratio is off by more than a millionth."""


class Resampler:
    """Resamples one stream of (n, channels) float32 samples.

    Output sample ``k`` belongs at input sample ``k * rate_hz / target_hz``. Outputs whose filter would reach before the
    first input are left out.
    """

    def __init__(self, rate_hz: float, target_hz: float, channels: int) -> None:
        """Begin a stream.

        Args:
            rate_hz: samples per second of the input.
            target_hz: samples per second of the output.
            channels: per sample.
        """
        ratio = Fraction(rate_hz / target_hz).limit_denominator(_LARGEST_DENOMINATOR)
        self._step, self._phases = ratio.numerator, ratio.denominator
        lower = min(rate_hz, target_hz)
        self._half, self._table = _filter(lower / rate_hz, 10 if lower < 1000 else 32, self._phases)
        self._kept: npt.NDArray[np.float32] = np.zeros((0, channels), np.float32)
        self._first = 0  # number of the first input that is kept
        self._next = self._number_from(self._half - 1)  # of the next output

    def push(self, samples: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], float]:
        """Take in samples and give the outputs that they complete.

        Args:
            samples: (n, channels).

        Returns:
            (m, channels) samples, m >= 0, and how many inputs the newest of them lies before the newest input.
        """
        self._kept = np.concatenate([self._kept, samples])
        taken = self._first + len(self._kept)
        # An output at position p needs the inputs from floor(p) - half + 1 to floor(p) + half.
        numbers = np.arange(self._next, self._number_from(taken - self._half))
        positions = numbers * self._step
        base, phase = positions // self._phases, positions % self._phases
        taps = base[:, None] + np.arange(1 - self._half, 1 + self._half) - self._first
        out = np.einsum("kt,ktc->kc", self._table[phase], self._kept[taps])
        self._next += len(numbers)
        needed = self._next * self._step // self._phases - self._half + 1
        drop = max(0, min(needed - self._first, len(self._kept)))
        self._kept = self._kept[drop:]
        self._first += drop
        behind = taken - 1 - (self._next - 1) * self._step / self._phases
        return out, behind

    def _number_from(self, position: int) -> int:
        """The first output at or after an input's position."""
        return max(0, -(-position * self._phases // self._step))


def _filter(share: float, zeros: int, phases: int) -> tuple[int, npt.NDArray[np.float32]]:
    """Half the filter's length in inputs, and its (phases, 2 half) taps; each phase has unit gain at zero frequency."""
    transition = (_ATTENUATION_DB - 8) / (2.285 * 2 * zeros * np.pi)
    half = int(np.ceil(zeros / share))
    at = np.arange(1 - half, 1 + half)[None, :] - np.arange(phases)[:, None] / phases
    window = np.i0(_BETA * np.sqrt(np.maximum(0, 1 - (at / half) ** 2)))
    table = np.sinc(share * (1 - transition / 2) * at) * window
    return half, (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
