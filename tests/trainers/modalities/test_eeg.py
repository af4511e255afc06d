from __future__ import annotations

import numpy as np
import pytest
import torch
from modality_windows import LATENT, SENSORS, raw_windows

from trainers.modalities import build_modality
from trainers.modalities.eeg import (
    FLOOR_UV,
    EegNetwork,
    bin_frequencies,
    fourier_basis,
    invert_covariance,
    largest_eigenvalue,
)


def eeg_network() -> EegNetwork:
    network = build_modality(SENSORS["eeg"], LATENT).eval()
    assert isinstance(network, EegNetwork)
    return network


def test_inverse_of_covariances() -> None:
    torch.manual_seed(0)
    root = torch.randn(6, 8, 20)
    covariance = root @ root.transpose(1, 2) / 20 + 1e-2 * torch.eye(8)
    torch.testing.assert_close(
        invert_covariance(covariance), torch.linalg.inv(covariance), rtol=1e-3, atol=1e-3
    )


def test_largest_eigenvalue_is_bounded_as_promised() -> None:
    torch.manual_seed(0)
    root = torch.randn(100, 4, 4)
    matrix = root @ root.transpose(1, 2)
    exact = torch.linalg.eigvalsh(matrix)[:, -1]
    ours = largest_eigenvalue(matrix)
    assert bool((ours >= exact * (1 - 1e-4)).all())
    assert bool((ours <= exact * 4 ** (1 / 16) * (1 + 1e-4)).all())
    torch.testing.assert_close(largest_eigenvalue(torch.zeros(1, 4, 4)), torch.zeros(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seconds", [1, 2, 3])
def test_basis_measures_amplitudes_and_ignores_drift(seconds: int) -> None:
    window = 256 * seconds
    analysis, synthesis = fourier_basis(window, 256.0)
    frequencies = bin_frequencies(window, 256.0)
    assert float(frequencies[0]) == 4.0
    assert float(frequencies[-1]) == 48.0
    time = torch.arange(window, dtype=torch.float64) / 256.0
    wave = 7.0 * torch.sin(2 * torch.pi * 13.0 * time + 0.4)
    drift = 500.0 + 30.0 * time
    both = analysis.double() @ (wave + drift)
    bins = len(frequencies)
    amplitude = torch.hypot(both[:bins], both[bins:])
    at = int(torch.argmin((frequencies - 13.0).abs()))
    assert float(amplitude[at]) == pytest.approx(7.0, rel=0.01)
    others = torch.cat([amplitude[: at - seconds], amplitude[at + seconds + 1 :]])
    assert float(others.max()) < 0.1
    back = synthesis.double() @ both
    assert float((back - wave).norm() / wave.norm()) < 0.05


def test_whitened_power_is_canonical_correlation() -> None:
    # Without flattening and over the whole band it would be exactly the squared canonical correlation between the
    # channels and one sinusoid; computed here from its definition, on flattened signals.
    network = eeg_network()
    window = 3.0 * torch.randn(1, 768, 8, generator=torch.Generator().manual_seed(0))
    real, imaginary = network._coefficients(window)
    power = (real.square() + imaginary.square()).mean(2) + FLOOR_UV**2
    flatten = torch.rsqrt(power @ network.smoothing)[..., None]
    counted = network.counted[:, 0] > 0
    flat = torch.cat([(real * flatten)[0, counted], (imaginary * flatten)[0, counted]]).double().numpy()
    bins = int(counted.sum())
    left = np.linalg.qr(flat)[0]  # orthonormal combinations of channels, over cosine and sine coefficients
    expected = []
    for k in range(bins):
        # A sinusoid of bin k with any phase: the unit vectors k and bins + k.
        expected.append(np.linalg.svd(left[[k, bins + k]], compute_uv=False)[0] ** 2)
    total = len(network.counted)
    features = network.features(window)[0, :total][counted]
    ours = (torch.exp(features) - 0.1) / total
    # The ridge on the covariance makes the two differ by a share of 1e-3 of its mean.
    np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=0.02, atol=1e-3)


def test_features_do_not_depend_on_how_channels_are_mixed() -> None:
    network = eeg_network()
    window = raw_windows("eeg", 2)
    torch.manual_seed(1)
    rotated = window @ torch.linalg.qr(torch.randn(8, 8)).Q
    torch.testing.assert_close(network.features(window), network.features(rotated), rtol=0.01, atol=0.01)


def test_flicker_stands_out() -> None:
    network = eeg_network()
    frequencies = bin_frequencies(768, 256.0)
    time = torch.arange(768) / 256.0
    torch.manual_seed(0)
    noise = torch.randn(1, 768, 8) @ torch.randn(8, 8)
    flicker = torch.sin(2 * torch.pi * 17.0 * time)[:, None] * torch.randn(8)
    features = network.features(noise + flicker)[0, : len(frequencies)]
    assert float(frequencies[int(features.argmax())]) == 17.0


def test_an_imputed_waveform_has_the_decoded_spectrum() -> None:
    network = eeg_network()
    torch.manual_seed(0)
    decoded = torch.randn(2, *network.target_shape) * 0.5
    again = network.target(network.to_observation(decoded))
    # Not exactly: a sum of sinusoids has a small linear trend, which the analysis takes out.
    torch.testing.assert_close(again, decoded, rtol=0.1, atol=0.1)


def test_observing_keeps_the_band_and_drops_the_rest() -> None:
    network = eeg_network()
    time = torch.arange(768) / 256.0
    within = torch.sin(2 * torch.pi * 20.0 * time)[None, :, None].expand(1, 768, 8)
    line = 5.0 * torch.sin(2 * torch.pi * 60.0 * time)[None, :, None].expand(1, 768, 8)
    observed = network.observe(within + line + 200.0)
    assert float((observed - within).norm() / within.norm()) < 0.05
