"""The EEG of the synthetic rig: a flicker response at the class's frequency, among the other activity of a head.

Eight occipital channels in microvolts. The flicker response (SSVEP) is a sinusoid at the flicker frequency and its
second harmonic with random phase; its strength varies from moment to moment and is often below the background:
1/f activity, alpha waves that come and go, blinks, mains hum and electrode drift, mixed over the channels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

CHANNELS = 8
# Oz O1 O2 PO3 POz PO7 PO8 PO4: how strongly each sees the visual cortex.
_OCCIPITAL = np.array([1.0, 0.9, 0.9, 0.6, 0.8, 0.5, 0.5, 0.6])
_ONSET_S = 0.15  # latency of the response
_RISE_S = 0.25


def draw_trial(
    frequency_hz: float, rng: np.random.Generator, *, rate_hz: float = 256.0, samples: int = 1280
) -> Array:
    """One trial, from the onset of the flicker.

    Args:
        frequency_hz: of the flicker; 0 is rest (eyes open, no flicker).
        rng: source of randomness.
        rate_hz: samples per second.
        samples: T.

    Returns:
        (T, 8) float32 microvolts.
    """
    t = np.arange(samples) / rate_hz
    background = _background(rng, rate_hz, samples)
    alpha = _alpha(rng, t, resting=frequency_hz == 0)
    signal = background + alpha
    if frequency_hz > 0:
        signal += _flicker_response(frequency_hz, rng, t)
    signal += _blinks(rng, t) + _hum_and_drift(rng, t)
    return signal.astype(np.float32)


def _background(rng: np.random.Generator, rate_hz: float, samples: int) -> npt.NDArray[np.float64]:
    """1/f^k activity of twelve sources that every channel mixes, plus white amplifier noise."""
    sources = 12
    bins = np.fft.rfftfreq(samples, 1 / rate_hz)
    slope = rng.uniform(0.7, 1.2)
    white = rng.standard_normal((len(bins), sources)) + 1j * rng.standard_normal((len(bins), sources))
    spectrum = white / np.maximum(bins, 0.6)[:, None] ** slope
    activity = np.fft.irfft(spectrum, samples, axis=0)
    activity /= activity.std(axis=0)
    # Neighbouring channels have much in common: every channel mixes a shared part and one of its own.
    mixing = 0.8 * rng.normal(0, 1, (sources, 1)) + 0.6 * rng.normal(0, 1, (sources, CHANNELS))
    mixing /= np.linalg.norm(mixing, axis=0)
    level = rng.uniform(9, 18)
    amplifier = rng.normal(0, rng.uniform(0.5, 1.2), (samples, CHANNELS))
    mixed: npt.NDArray[np.float64] = level * (activity @ mixing) + amplifier
    return mixed


def _alpha(rng: np.random.Generator, t: npt.NDArray[np.float64], *, resting: bool) -> npt.NDArray[np.float64]:
    """Alpha waves, 8.5 to 11.5 Hz, waxing and waning; somewhat stronger at rest."""
    frequency = rng.uniform(8.5, 11.5)
    waxing = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.15, 0.6) * t + rng.uniform(0, 2 * np.pi))
    wander = np.cumsum(rng.normal(0, 0.06, len(t)))
    strength = rng.lognormal(0.7, 0.5) * (1.25 if resting else 1.0)
    wave = strength * waxing * np.sin(2 * np.pi * frequency * t + wander)
    pattern = _OCCIPITAL * rng.uniform(0.6, 1.4, CHANNELS)
    return wave[:, None] * pattern


def _flicker_response(
    frequency_hz: float, rng: np.random.Generator, t: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The response at the flicker frequency and twice that, after its latency; attention drifts a little."""
    # Faster flicker gives a weaker response.
    strength = rng.lognormal(0.50, 0.55) * (15.0 / frequency_hz) ** 0.5
    rise = np.clip((t - _ONSET_S) / _RISE_S, 0, 1)
    attention = rise * (1 + 0.3 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * t + rng.uniform(0, 2 * np.pi)))
    response = np.zeros((len(t), CHANNELS))
    for harmonic, share in ((1, 1.0), (2, rng.uniform(0.2, 0.7))):
        pattern = _OCCIPITAL * rng.uniform(0.5, 1.3, CHANNELS)
        # Channels lag each other slightly, as the response spreads over the cortex.
        phase = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.35, CHANNELS)
        response += share * pattern * np.sin(2 * np.pi * harmonic * frequency_hz * t[:, None] + phase)
    response *= strength * attention[:, None]
    return response


def _blinks(rng: np.random.Generator, t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Blinks at about one in four seconds; weak at the back of the head."""
    signal = np.zeros_like(t)
    for _ in range(rng.poisson(t[-1] / 4)):
        centre, width = rng.uniform(0, t[-1]), rng.uniform(0.06, 0.12)
        signal += rng.uniform(10, 35) * np.exp(-0.5 * ((t - centre) / width) ** 2)
    return signal[:, None] * rng.uniform(0.5, 1.0, CHANNELS)


def _hum_and_drift(rng: np.random.Generator, t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mains hum at 50 Hz and slow electrode drift, channel by channel."""
    hum = rng.uniform(0.2, 3.0, CHANNELS) * np.sin(
        2 * np.pi * 50.0 * t[:, None] + rng.uniform(0, 2 * np.pi, CHANNELS)
    )
    drift = rng.normal(0, 6, CHANNELS) * np.sin(
        2 * np.pi * 0.12 * t[:, None] + rng.uniform(0, 2 * np.pi, CHANNELS)
    )
    return hum + drift + rng.normal(0, 5, CHANNELS)
