"""The audio of the synthetic rig: four words of glides, vowels, hisses and bursts, spoken in a room with noise.

Each word is a track of sounds. Voiced sounds are harmonics of the speaker's pitch, weighted by resonances (formants)
that glide from sound to sound; hisses and bursts are noise bands. Pitch, vocal-tract length, speed, stress, room and
noise differ from moment to moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """One sound of a word.

    Attributes:
        seconds: length at normal speed.
        voice: loudness of the voiced part, 0..1.
        formants_hz: centres of the first three resonances.
        hiss: loudness of the noise part, 0..1.
        hiss_hz: centre of the noise band.
    """

    seconds: float
    voice: float
    formants_hz: tuple[float, float, float]
    hiss: float = 0.0
    hiss_hz: float = 4000.0


_SILENT = (500.0, 1500.0, 2500.0)
WORDS: dict[str, tuple[Sound, ...]] = {
    "stop": (
        Sound(0.11, 0.0, _SILENT, 0.5, 5200),
        Sound(0.05, 0.0, _SILENT),
        Sound(0.02, 0.2, (500, 1600, 2600), 0.5, 3500),
        Sound(0.15, 1.0, (700, 1050, 2500)),
        Sound(0.05, 0.5, (500, 900, 2300)),
        Sound(0.05, 0.0, _SILENT),
        Sound(0.02, 0.0, _SILENT, 0.3, 1200),
    ),
    "go": (
        Sound(0.03, 0.25, (280, 1700, 2200), 0.3, 1800),
        Sound(0.12, 1.0, (520, 1000, 2400)),
        Sound(0.16, 0.9, (400, 850, 2350)),
        Sound(0.08, 0.4, (340, 780, 2300)),
    ),
    "left": (
        Sound(0.08, 0.5, (360, 1250, 2700)),
        Sound(0.15, 1.0, (570, 1750, 2550)),
        Sound(0.10, 0.1, (450, 1500, 2500), 0.25, 6000),
        Sound(0.04, 0.0, _SILENT),
        Sound(0.03, 0.0, _SILENT, 0.4, 4200),
    ),
    "right": (
        Sound(0.08, 0.55, (340, 1100, 1600)),
        Sound(0.11, 1.0, (730, 1250, 2450)),
        Sound(0.12, 0.8, (420, 1950, 2600)),
        Sound(0.04, 0.0, _SILENT),
        Sound(0.03, 0.0, _SILENT, 0.4, 4200),
    ),
}

_FRAME_S = 0.005  # the tracks' own rate
_HARMONICS = 28
_WIDTHS_HZ = (90.0, 130.0, 180.0)
_GAINS = (1.0, 0.55, 0.3)


def speak(word: str, rng: np.random.Generator, *, rate_hz: int = 16000) -> Array:
    """One utterance without room and noise; (T,) float32 with unit peak, at most 0.9 s long.

    Raises:
        KeyError: a word that is not in ``WORDS``.
    """
    sounds = WORDS[word]
    speed, tract = rng.uniform(0.75, 1.3), rng.uniform(0.84, 1.2)
    lengths = np.array([s.seconds * rng.uniform(0.75, 1.3) for s in sounds]) / speed
    ends = np.cumsum(lengths)
    frames = np.arange(0, ends[-1] + _FRAME_S, _FRAME_S)
    middles = ends - lengths / 2
    jitter = rng.normal(1.0, 0.10, (len(sounds), 3)) * tract
    formants = np.array([s.formants_hz for s in sounds]) * jitter
    tracks = np.stack([np.interp(frames, middles, formants[:, k]) for k in range(3)])
    sounding = np.minimum(np.searchsorted(ends, frames, side="right"), len(sounds) - 1)
    voice = _smooth(np.array([s.voice for s in sounds])[sounding])
    # Short vocal tracts go with high pitch, loosely.
    pitch = 125 * tract**2 * np.exp(rng.normal(0, 0.25))
    contour = pitch * (1 + rng.uniform(-0.25, 0.25) * (frames / frames[-1] - 0.5))
    contour *= np.exp(np.cumsum(rng.normal(0, 0.004, len(frames))))
    wave = _voiced(rng, contour, tracks, voice, rate_hz)[: round(ends[-1] * rate_hz)]
    for sound, end, length in zip(sounds, ends, lengths, strict=True):
        if sound.hiss > 0:
            begin, count = round((end - length) * rate_hz), round(length * rate_hz)
            part = wave[begin : begin + count]
            part += 0.6 * sound.hiss * _band_noise(rng, len(part), sound.hiss_hz * tract, rate_hz)
    spoken: Array = wave / np.abs(wave).max()
    return spoken


def _smooth(track: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Soften a loudness track over 25 ms, so that sounds run into each other."""
    window = np.hanning(7)[1:-1]
    return np.convolve(np.pad(track, 2, mode="edge"), window / window.sum(), mode="valid")


def _voiced(
    rng: np.random.Generator,
    contour: npt.NDArray[np.float64],
    tracks: npt.NDArray[np.float64],
    voice: npt.NDArray[np.float64],
    rate_hz: int,
) -> Array:
    """Sum of harmonics of the pitch, weighted by the resonances at each moment, with unit peak.

    Args:
        rng: source of randomness, for the phases.
        contour: (F,) pitch in Hz, frame by frame.
        tracks: (3, F) resonances in Hz.
        voice: (F,) loudness.
        rate_hz: samples per second.

    Returns:
        ((F - 1) * samples per frame,) float32.
    """
    number = np.arange(1, _HARMONICS + 1)[:, None]
    frequency = number * contour
    level = np.zeros_like(frequency)
    for track, width, gain in zip(tracks, _WIDTHS_HZ, _GAINS, strict=True):
        level += gain / (1 + ((frequency - track) / width) ** 2)
    # The glottal source falls off with frequency, and nothing lies above the band.
    level *= voice / np.sqrt(number) * (frequency < 0.45 * rate_hz)
    hop = round(_FRAME_S * rate_hz)
    along = (np.arange(hop) / hop).astype(np.float32)
    pitch = contour[:-1, None] + np.diff(contour)[:, None] * along
    turn = np.exp(2j * np.pi * np.cumsum(pitch) / rate_hz).astype(np.complex64)
    # Harmonic k is the k-th power of the fundamental, turned by a random phase.
    start = np.exp(2j * np.pi * rng.random(_HARMONICS)).astype(np.complex64)
    power = np.ones_like(turn)
    wave = np.zeros(pitch.shape, np.float32)
    for k, track in enumerate(level.astype(np.float32)):
        power = power * turn
        loud = track[:-1, None] + np.diff(track)[:, None] * along
        wave += loud * (start[k] * power).imag.reshape(pitch.shape)
    return wave.reshape(-1) / max(float(np.abs(wave).max()), 1e-6)


def _band_noise(rng: np.random.Generator, samples: int, centre_hz: float, rate_hz: int) -> Array:
    """Noise around a frequency, rms 0.35, fading in and out."""
    bins = np.fft.rfftfreq(samples, 1 / rate_hz)
    spectrum = np.fft.rfft(rng.standard_normal(samples)) * np.exp(-0.5 * ((bins - centre_hz) / 1100) ** 2)
    noise = np.fft.irfft(spectrum, samples)
    faded = noise * np.sqrt(np.hanning(samples + 2)[1:-1])
    return (0.35 * faded / max(float(faded.std()), 1e-9)).astype(np.float32)


def _room(rng: np.random.Generator, rate_hz: int) -> npt.NDArray[np.float64]:
    """A room's impulse response: the direct sound, a few early reflections, an exponential tail."""
    decay_s = rng.uniform(0.08, 0.45)
    length = round(min(0.4, decay_s) * rate_hz)
    t = np.arange(length) / rate_hz
    answer = rng.uniform(0.01, 0.05) * rng.standard_normal(length) * np.exp(-6.9 * t / decay_s)
    answer[: round(0.01 * rate_hz)] = 0
    for _ in range(rng.integers(3, 7)):
        answer[rng.integers(round(0.003 * rate_hz), round(0.04 * rate_hz))] += rng.uniform(-0.5, 0.5)
    answer[0] = 1.0
    return answer


@lru_cache(maxsize=4)
def _log_bins(samples: int, rate_hz: int) -> Array:
    """Natural logarithm of the bins of a real transform, in Hz, from 60 Hz up."""
    bins: Array = np.log(np.maximum(np.fft.rfftfreq(samples, 1 / rate_hz), 60)).astype(np.float32)
    return bins


def _coloured_noise(rng: np.random.Generator, samples: int, rate_hz: int) -> Array:
    """(samples,) float32 noise of unit rms with a spectrum between white and brown."""
    slope = np.exp(np.float32(-rng.uniform(0.0, 1.0)) * _log_bins(samples, rate_hz))
    spectrum = np.fft.rfft(rng.standard_normal(samples, np.float32)) * slope
    noise: Array = np.fft.irfft(spectrum, samples).astype(np.float32)
    noise /= noise.std()
    return noise


def draw_utterances(
    word: str, rng: np.random.Generator, *, rate_hz: int = 16000, seconds: float = 5.0
) -> npt.NDArray[np.int16]:
    """A word repeated every second in a room, under noise that does not repeat.

    Args:
        word: which word.
        rng: source of randomness.
        rate_hz: samples per second.
        seconds: length.

    Returns:
        (seconds * rate_hz,) int16.
    """
    clean = speak(word, rng, rate_hz=rate_hz)
    room = _room(rng, rate_hz)
    # One second, wrapped: the room's tail reaches into the next repetition.
    one = np.zeros(rate_hz, np.float32)
    one[: len(clean)] = clean
    answered = np.fft.irfft(np.fft.rfft(one) * np.fft.rfft(room, rate_hz), rate_hz).astype(np.float32)
    answered = np.roll(answered, rng.integers(0, rate_hz - len(clean)))
    samples = round(seconds * rate_hz)
    speech = np.resize(answered, samples)
    # Low enough that noise covers some words: audio alone must not decide the class.
    snr_db = rng.uniform(-16, 6)
    loud = float(np.sqrt((clean**2).mean()))
    mixed = speech + np.float32(loud * 10 ** (-snr_db / 20)) * _coloured_noise(rng, samples, rate_hz)
    peak = float(np.abs(mixed).max())
    gain = np.float32(32767 * rng.uniform(0.08, 0.8) / peak)
    return np.rint(mixed * gain).astype(np.int16)
