"""EEG: a window of multichannel microvolts, read as a spectrum.

Preprocessing is a discrete Fourier transform at the window's own bins (a bin is 1 / window length wide) between
LOWEST_HZ and HIGHEST_HZ, which is band filter and spectral analysis in one matrix product. Offset and linear drift,
which would leak into all bins, are projected out of the basis beforehand, so this costs nothing at run time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.modalities.images import uniform
from trainers.modalities.network import ModalityNetwork, WindowSpec

LOWEST_HZ = 4.0
HIGHEST_HZ = 48.0
WHITEN_FROM_HZ = 8.0
"""Slower rhythms are left out of the covariance: eye movements and drowsiness would dominate it."""
SMOOTHING_HZ = 3.0
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
        analysis (2F, T): rows give ``2/T sum_t x_t cos`` then ``2/T sum_t x_t sin`` (amplitudes in the unit of x),
        blind to an offset and a linear drift; synthesis (T, 2F): the inverse on the band.
    """
    time = torch.arange(window, dtype=torch.float64)
    angle = 2.0 * math.pi * bin_frequencies(window, rate_hz)[:, None] * time / rate_hz
    waves = torch.cat([angle.cos(), angle.sin()])
    line = torch.stack([torch.ones_like(time), time - time.mean()])
    orthonormal = line / line.norm(dim=1, keepdim=True)
    blind = waves - (waves @ orthonormal.T) @ orthonormal
    return (2.0 / window * blind).float(), waves.T.contiguous().float()


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    r"""Largest eigenvalue of symmetric positive semidefinite (..., K, K) matrices, from above, to a few per cent.

    :math:`\lambda_1 \le (\mathrm{tr} M^{16})^{1/16} \le K^{1/16} \lambda_1`, by four squarings of the
    matrix over its trace; plain products, so that it exports. The bound is loosest when all eigenvalues are
    equal.
    """
    # Not diagonal(): it exports as a dozen operators on shapes that depend on the batch.
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    trace = (matrix * unit).sum((-2, -1))[..., None, None] + 1e-12
    power = matrix / trace
    for _ in range(3):
        power = torch.matmul(power, power)
    return (power.square().sum((-2, -1)) + 1e-30).pow(1.0 / 16.0) * trace[..., 0, 0]


def invert_covariance(matrix: Tensor) -> Tensor:
    """Inverse of symmetric positive definite matrices (B, C, C) by Gauss-Jordan elimination without pivoting.

    Unrolled over C steps of plain products, so that it exports; positive definite matrices need no pivoting.
    """
    size = matrix.shape[-1]
    unit = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    work = torch.cat([matrix, matrix * 0.0 + unit], 2)
    for step in range(size):
        pivot = work[:, step : step + 1] / work[:, step : step + 1, step : step + 1]
        column = work[:, :, step : step + 1] - unit[step][:, None]
        work = work - column * pivot
    return work[:, :, size:]


class SparseInput(nn.Module):
    """Scales every input by the square of a learned gate that starts small, after dropping many of them.

    Of some two hundred spectral features only those at the flicker frequencies and their harmonics tell the
    classes apart, and which these are differs between experiments. With squared gates a feature's growth is
    proportional to its size, so the few that pay soon outgrow the rest, much as under an L1 penalty.
    """

    def __init__(self, size: int, start: float = 0.07, drop: float = 0.5) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(size, affine=False)
        self.drop = nn.Dropout(drop)
        self.gate = nn.Parameter(torch.full((size,), start))

    def forward(self, features: Tensor) -> Tensor:
        """(B, size) -> (B, size)."""
        if self.training:
            scaled = self.scale(features)
        else:
            # As BatchNorm1d, written out: the exporter needs a size there that it loses track of upstream.
            assert self.scale.running_mean is not None
            assert self.scale.running_var is not None
            scaled = (features - self.scale.running_mean) * torch.rsqrt(
                self.scale.running_var + self.scale.eps
            )
        return self.drop(scaled) * self.gate.square()


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
                f"modality {spec.name!r} (eeg): expected samples of shape (channels,) with 2 or more channels, a rate "
                f"of {2 * HIGHEST_HZ:.0f} Hz or more and a window of half a second or more, got sample_shape {shape}, "
                f"rate {spec.rate_hz} Hz, window {spec.window}"
            )
        channels = shape[0]
        analysis, synthesis = fourier_basis(spec.window, spec.rate_hz)
        bins = len(analysis) // 2
        self.window_shape = self.observation_shape = (spec.window, channels)
        self.target_shape = (channels, bins)
        self.register_buffer("target_mean", torch.zeros(self.target_shape))
        self.observation_unit = "uV"
        self.noise_scale = 0.6
        self.effective_size = 60.0
        self.register_buffer("analysis", analysis, persistent=False)
        self.register_buffer("synthesis", synthesis, persistent=False)
        # Drawn once and for all: with regular phases (Schroeder's, say) the waveform would sweep through the band.
        drawn = torch.rand(bins, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        phase = 2.0 * math.pi * drawn
        self.register_buffer("phase_cosine", phase.cos().float(), persistent=False)
        self.register_buffer("phase_sine", -phase.sin().float(), persistent=False)
        self.register_buffer("smoothing", self._smoothing(spec, bins), persistent=False)
        counted = bin_frequencies(spec.window, spec.rate_hz) >= WHITEN_FROM_HZ
        self.register_buffer("counted", counted.float()[:, None], persistent=False)
        first = math.ceil(LOWEST_HZ * spec.window / spec.rate_hz)
        self.octave = slice(first, None, 2)  # bin k + octave[k] has twice the frequency of bin k
        self.encoder = nn.Sequential(
            SparseInput(bins + len(range(bins)[self.octave])),
            nn.Linear(bins + len(range(bins)[self.octave]), hidden_size),
            nn.ReLU(),
            nn.Dropout(0.3),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, 128),
            nn.ReLU(),
            nn.Linear(128, channels * bins),
            nn.Unflatten(1, (channels, bins)),
        )

    @staticmethod
    def _smoothing(spec: WindowSpec, bins: int) -> Tensor:
        """(F, F): the mean over bins up to SMOOTHING_HZ to either side."""
        reach = round(SMOOTHING_HZ * spec.window / spec.rate_hz)
        near = ((torch.arange(bins)[:, None] - torch.arange(bins)).abs() <= reach).double()
        return (near / near.sum(0)).float()

    def _coefficients(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) uV -> cosine and sine coefficients, each (B, F, C) uV."""
        both = torch.matmul(self.analysis, window)
        half = both.shape[1] // 2
        return both[:, :half], both[:, half:]

    def features(self, window: Tensor) -> Tensor:
        r"""(B, T, C) uV -> (B, F + H): ln of spatially whitened power per bin, and per bin with its octave.

        The spectrum is first flattened (divided by the root of its own power, averaged over channels and
        over 3 Hz to either side), so that no rhythm dominates. With :math:`z_f` the channels' complex
        coefficients and :math:`C = \sum_f \Re z_f z_f^H` their covariance over the band, the whitened power
        is the largest eigenvalue of the 2x2 matrix :math:`[\Re z_f, \Im z_f]^T C^{-1} [\Re z_f, \Im z_f]`:
        the squared canonical correlation between the channels and a sinusoid of frequency f, which is CCA
        with one harmonic. The second part is CCA with two: the 4x4 matrix of f and 2f. It adapts to each
        person's scalp pattern without any data of that person.
        """
        real, imaginary = self._coefficients(window)
        power = (real.square() + imaginary.square()).mean(2) + FLOOR_UV**2
        flatten = torch.rsqrt(torch.matmul(power, self.smoothing)).unsqueeze(2)
        real, imaginary = real * flatten, imaginary * flatten
        counted = torch.cat([real * self.counted, imaginary * self.counted], 1)
        covariance = torch.matmul(counted.transpose(1, 2), counted)
        channels = covariance.shape[-1]
        unit = torch.eye(channels, dtype=window.dtype, device=window.device)
        # A window of zeros has no covariance; the floor keeps its inverse finite.
        trace = (covariance * unit).sum((1, 2), keepdim=True) / channels + 1e-3
        inverse = invert_covariance(covariance / trace + 1e-3 * unit) / trace
        waves = torch.stack([real, imaginary], 2)
        whitened = torch.matmul(waves, inverse.unsqueeze(1))
        single = torch.matmul(whitened, waves.transpose(2, 3))
        a, b, d = single[:, :, 0, 0], single[:, :, 0, 1], single[:, :, 1, 1]
        largest = 0.5 * (a + d) + torch.sqrt(0.25 * (a - d).square() + b.square() + 1e-12)
        upper = waves[:, self.octave]
        count = upper.shape[1]
        both = torch.cat([waves[:, :count], upper], 2)
        both_whitened = torch.cat([whitened[:, :count], whitened[:, self.octave]], 2)
        pair = largest_eigenvalue(torch.matmul(both_whitened, both.transpose(2, 3)))
        # Powers are shares of the whole band; times the number of bins they are of order one at any window
        # length.
        bins = largest.shape[1]
        return torch.log(torch.cat([largest, pair], 1) * bins + 0.1)

    def trunk(self, window: Tensor) -> Tensor:
        """(B, T, C) uV -> (B, hidden_size)."""
        return self.encoder(self.features(window))

    def target(self, window: Tensor) -> Tensor:
        """(B, T, C) uV -> (B, C, F): ln of the amplitude in uV, floored at FLOOR_UV."""
        real, imaginary = self._coefficients(window)
        return 0.5 * torch.log(real.square() + imaginary.square() + FLOOR_UV**2).transpose(1, 2)

    def deviation(self, latent: Tensor) -> Tensor:
        """(B, latent_size) -> (B, C, F): ln of the amplitude in uV."""
        return self.decoder(latent)

    def to_observation(self, decoded: Tensor) -> Tensor:
        """(B, C, F) ln amplitudes -> (B, T, C) uV: a sum of sinusoids with fixed phases."""
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
        noise = normal(*window.shape[1:]) * uniform(generator, window, 0.0, 0.5, 1, 1)
        sign = torch.where(uniform(generator, window, 0.0, 1.0, 1, 1) < 0.5, -1.0, 1.0)
        return signal * kept * sign + noise
