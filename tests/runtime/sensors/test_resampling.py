from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sensors.resampling import Resampler

RATES = [(250, 256), (500, 256), (512, 256), (1000, 128), (128, 256), (48000, 16000), (44100, 16000)]


def resampled(signal: np.ndarray, rate: float, target: float, sizes: list[int]) -> tuple[np.ndarray, float]:
    """All outputs, and the input's number at which the newest lies."""
    resampler = Resampler(rate, target, signal.shape[1])
    parts, at, newest = [], 0, 0.0
    for size in sizes:
        out, behind = resampler.push(signal[at : at + size].astype(np.float32))
        at = min(at + size, len(signal))
        parts.append(out)
        if len(out):
            newest = at - 1 - behind
    return np.concatenate(parts), newest


@pytest.mark.parametrize(("rate", "target"), RATES)
def test_what_both_rates_can_carry_comes_through_at_its_time(rate: int, target: int) -> None:
    frequency = 0.25 * min(rate, target)
    signal = np.sin(2 * np.pi * frequency * np.arange(4000)[:, None] / rate + np.array([0.0, 1.0]))
    out, newest = resampled(signal, rate, target, [37] * 109)
    at_s = newest / rate - np.arange(len(out))[::-1] / target
    expected = np.sin(2 * np.pi * frequency * at_s[:, None] + np.array([0.0, 1.0]))
    np.testing.assert_allclose(out, expected, atol=4e-3)


@pytest.mark.parametrize(("rate", "target"), [(500, 256), (1000, 128), (48000, 16000), (44100, 16000)])
def test_what_the_lower_rate_cannot_carry_is_60_decibels_down(rate: int, target: int) -> None:
    for frequency in np.linspace(0.52 * target, 0.49 * rate, 7):
        signal = np.sin(2 * np.pi * frequency * np.arange(4000)[:, None] / rate)
        out, _ = resampled(signal, rate, target, [4000])
        assert np.abs(out).max() < 2e-3, f"{frequency:.0f} Hz folds back"


@pytest.mark.parametrize(("rate", "target"), RATES)
def test_it_holds_back_little(rate: int, target: int) -> None:
    resampler = Resampler(rate, target, 1)
    for _ in range(60):
        _, behind = resampler.push(np.zeros((max(1, rate // 25), 1), np.float32))
    lower = min(rate, target)
    assert behind / rate <= (11 if lower < 1000 else 33) / lower + 1 / target


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.sampled_from(RATES))
def test_how_samples_are_cut_into_messages_changes_nothing(sizes: list[int], rates: tuple[int, int]) -> None:
    signal = np.random.default_rng(0).normal(0, 1, (sum(sizes), 2))
    whole, whole_at = resampled(signal, *rates, [sum(sizes)])
    parts, parts_at = resampled(signal, *rates, sizes)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert parts_at == pytest.approx(whole_at)


def test_a_constant_stays_what_it_is() -> None:
    out, _ = resampled(np.full((500, 3), 7.0), 250, 256, [10] * 50)
    np.testing.assert_allclose(out, 7.0, rtol=1e-5)


def test_rates_in_no_simple_ratio_keep_time_too() -> None:
    rate, target = 249.7316, 256.0
    signal = np.sin(2 * np.pi * 20 * np.arange(20_000)[:, None] / rate)
    out, newest = resampled(signal, rate, target, [10] * 2000)
    at_s = newest / rate - np.arange(len(out))[::-1] / target
    np.testing.assert_allclose(out[:, 0], np.sin(2 * np.pi * 20 * at_s), atol=0.02)
