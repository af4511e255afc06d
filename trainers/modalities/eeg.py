"""EEG: a window of multichannel microvolts, read as a spectrum.

Preprocessing is a discrete Fourier transform at the window's own bins (a bin is 1 / window length wide)
between LOWEST_HZ and HIGHEST_HZ, which is band filter and spectral analysis in one matrix product. Slow
drifts, which would leak into all bins, are projected out of the basis beforehand, so this costs nothing at
run time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.modalities.images import uniform
from trainers.modalities.network import ModalityNetwork, WindowSpec

LOWEST_HZ = 4.0
HIGHEST_HZ = 48.0
DRIFT_HZ = 2.0
FLOOR_UV = 0.05
"""Added to amplitudes before the logarithm: below the amplifier's own noise in any bin."""


def bin_frequencies(window: int, rate_hz: float) -> Tensor:
    """The window's own Fourier frequencies between LOWEST_HZ and HIGHEST_HZ, (F,) float64."""
    seconds = window / rate_hz
    first, last = math.ceil(LOWEST_HZ * seconds), math.floor(HIGHEST_HZ * seconds)
    return torch.arange(first, last + 1, dtype=torch.float64) / seconds


def fourier_basis(window: int, rate_hz: float) -> tuple[Tensor, Tensor]:
    """Analysis and synthesis matrices of the band.

    Returns:
        analysis (2F, T): rows give ``2/T sum_t x_t cos`` then ``2/T sum_t x_t sin`` (amplitudes in the unit
        of x), blind to polynomials of degree 3 and oscillations below DRIFT_HZ; synthesis (T, 2F): their
        inverse on the band.
    """
    time = torch.arange(window, dtype=torch.float64)
    angle = 2.0 * math.pi * bin_frequencies(window, rate_hz)[:, None] * time / rate_hz
    waves = torch.cat([angle.cos(), angle.sin()])
    line = 2.0 * time / (window - 1) - 1.0
    slow = torch.arange(1, int(DRIFT_HZ * window / rate_hz) + 1, dtype=torch.float64)[:, None]
    drift = torch.cat(
        [
            torch.stack([line**k for k in range(4)]),
            torch.cos(2.0 * math.pi * slow * time / window),
            torch.sin(2.0 * math.pi * slow * time / window),
        ]
    )
    orthonormal = torch.linalg.qr(drift.T).Q
    blind = waves - (waves @ orthonormal) @ orthonormal.T
    return (2.0 / window * blind).float(), waves.T.contiguous().float()


def invert_covariance(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive definite matrices (B, C, C) by Gauss-Jordan elimination without pivoting.

    Unrolled over C steps of plain products, so that it exports; positive definite matrices need no pivoting.
    """
    size = matrix.shape[-1]
    work = torch.cat([matrix, torch.eye(size, dtype=matrix.dtype, device=matrix.device).expand_as(matrix)], 2)
    unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    for step in range(size):
        pivot = work[:, step : step + 1] / work[:, step : step + 1, step : step + 1]
        column = work[:, :, step : step + 1] - unit[step][:, None]
        work = work - column * pivot
    return work[:, :, size:]


class EegNetwork(ModalityNetwork):
    """A window of microvolts in, an amplitude spectrum out.

    The decoder estimates ``ln(amplitude / 1 uV)`` per channel and bin, (C, F). Phase is not part of it: the
    phase of an oscillation relative to the window cannot be foretold from other sensors.
    :meth:`to_observation` makes a waveform of the spectrum with fixed phases, so an imputed EEG has the
    right rhythms and arbitrary phases.
    """

    def __init__(self, spec: WindowSpec, latent_size: int, hidden_size: int = 128) -> None:
        super().__init__(spec, latent_size, hidden_size)
        shape = tuple(spec.sample_shape)
        if (
            len(shape) != 1
            or shape[0] < 2
            or spec.window < 0.5 * spec.rate_hz
            or spec.rate_hz < 2.0 * HIGHEST_HZ
        ):
            raise ValueError(
                f"modality {spec.name!r} (eeg): expected samples of shape (channels,) with 2 or more channels, a rate of "
                f"{2 * HIGHEST_HZ:.0f} Hz or more and a window of half a second or more, got sample_shape {shape}, "
                f"rate {spec.rate_hz} Hz, window {spec.window}"
            )
        channels = shape[0]
        analysis, synthesis = fourier_basis(spec.window, spec.rate_hz)
        bins = len(analysis) // 2
        self.window_shape = self.observation_shape = (spec.window, channels)
        self.target_shape = (channels, bins)
        self.observation_unit = "uV"
        self.noise_scale = 0.6
        self.effective_size = 60.0
        self.register_buffer("analysis", analysis, persistent=False)
        self.register_buffer("synthesis", synthesis, persistent=False)
        # Schroeder's phases keep the crest factor of a sum of cosines low.
        index = torch.arange(bins, dtype=torch.float64)
        phase = -math.pi * index * (index - 1.0) / bins
        self.register_buffer("phase_cosine", phase.cos().float(), persistent=False)
        self.register_buffer("phase_sine", -phase.sin().float(), persistent=False)
        self.register_buffer("neighbours", self._neighbour_mean(spec, bins), persistent=False)
        self.encoder = nn.Sequential(
            nn.Linear(3 * bins, hidden_size),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 128),
            nn.ReLU(),
            nn.Linear(128, channels * bins),
            nn.Unflatten(1, (channels, bins)),
        )

    @staticmethod
    def _neighbour_mean(spec: WindowSpec, bins: int) -> Tensor:
        """(F, F): the mean over bins up to 2 Hz to either side, without the bin itself."""
        reach = max(1, round(2.0 * spec.window / spec.rate_hz))
        apart = (torch.arange(bins)[:, None] - torch.arange(bins)).abs()
        near = ((apart > 0) & (apart <= reach)).double()
        return (near / near.sum(0)).float()

    def _coefficients(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) uV -> cosine and sine coefficients, each (B, F, C) uV."""
        both = torch.matmul(self.analysis, window)
        half = both.shape[1] // 2
        return both[:, :half], both[:, half:]

    def features(self, window: Tensor) -> Tensor:
        r"""(B, T, C) uV -> (B, 3, F): spatially whitened power, its contrast to neighbours, plain contrast.

        With :math:`z_f` the channels' complex coefficients and :math:`C = \sum_f \Re z_f z_f^H` their
        covariance over the band, the whitened power is the largest eigenvalue of the 2x2 matrix :math:`[\Re
        z, \Im z]^T C^{-1} [\Re z, \Im z]`: the squared canonical correlation between the channels and a
        sinusoid of frequency f, that is CCA with one harmonic, in closed form. It adapts to each person's
        scalp pattern without any subject's data.
        """
        real, imaginary = self._coefficients(window)
        covariance = torch.matmul(real.transpose(1, 2), real) + torch.matmul(
            imaginary.transpose(1, 2), imaginary
        )
        channels = covariance.shape[-1]
        unit = torch.eye(channels, dtype=window.dtype, device=window.device)
        trace = (covariance * unit).sum((1, 2), keepdim=True) / channels
        inverse = invert_covariance(covariance / (trace + 1e-6) + 1e-3 * unit)
        inverse = inverse / (trace + 1e-6)
        left, right = torch.matmul(real, inverse), torch.matmul(imaginary, inverse)
        a, b, d = (left * real).sum(2), (left * imaginary).sum(2), (right * imaginary).sum(2)
        largest = 0.5 * (a + d) + torch.sqrt(0.25 * (a - d).square() + b.square() + 1e-12)
        whitened = torch.log(largest + 1e-3) + 4.0
        power = (torch.log(real.square() + imaginary.square() + FLOOR_UV**2)).mean(2)
        contrast = power - torch.matmul(power, self.neighbours)
        return torch.stack([whitened, whitened - torch.matmul(whitened, self.neighbours), contrast], 1)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, T, C) uV -> (B, hidden_size)."""
        return self.encoder(self.features(window).flatten(1))

    def target(self, window: Tensor) -> Tensor:
        """(B, T, C) uV -> (B, C, F): ln of the amplitude in uV, floored at FLOOR_UV."""
        real, imaginary = self._coefficients(window)
        return 0.5 * torch.log(real.square() + imaginary.square() + FLOOR_UV**2).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, C, F): ln of the amplitude in uV."""
        return self.decoder(latent)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, C, F) ln amplitudes -> (B, T, C) uV: a sum of sinusoids with fixed (Schroeder) phases."""
        amplitude = torch.exp(decoded.clamp(-6.0, 6.0))
        both = torch.cat([amplitude * self.phase_cosine, amplitude * self.phase_sine], 2)
        return torch.matmul(self.synthesis, both.transpose(1, 2))

    def observe(self, window: Tensor) -> Tensor:
        """(B, T, C) uV -> (B, T, C) uV: the window within the band, its own phases kept."""
        return torch.matmul(self.synthesis, torch.matmul(self.analysis, window))

    def augment(self, window: Tensor, generator: torch.Generator) -> Tensor:
        """Gains, mixing between channels, a lost channel, sensor noise, polarity."""

        def normal(*shape: int) -> Tensor:
            return torch.randn((len(window), *shape), generator=generator, device=generator.device).to(
                window.device
            )

        channels = window.shape[2]
        gain = torch.exp(uniform(generator, window, -0.5, 0.5, 1, 1) + 0.1 * normal(1, channels))
        mixing = torch.eye(channels, device=window.device) + 0.1 * normal(channels, channels)
        signal = torch.matmul(window - window.mean(1, keepdim=True), mixing) * gain
        kept = (uniform(generator, window, 0.0, 1.0, 1, channels) > 0.08).to(window.dtype)
        noise = normal(*window.shape[1:]) * uniform(generator, window, 0.0, 2.0, 1, 1)
        sign = torch.where(uniform(generator, window, 0.0, 1.0, 1, 1) < 0.5, -1.0, 1.0)
        return signal * kept * sign + noise
