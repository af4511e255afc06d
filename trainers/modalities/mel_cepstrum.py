"""Mel spectra and MFCC as plain matrix products, so that they export.

``torch.stft`` has no counterpart in the engines; a strided convolution with the windowed Fourier basis does
the same. The mel filter bank and the DCT are torchaudio's own, so the numbers agree with
``torchaudio.transforms.MFCC`` (checked to 1e-4 in the tests).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor, nn

FRAME = 400
HOP = 160
BANDS = 40
TOP_DB = 80.0


class MelSpectrum(nn.Module):
    """Waveform -> mel spectrum in dB, as ``torchaudio.transforms.MFCC`` computes it on the way.

    Frames of 400 samples every 160, Hann window, centred with reflection, power, 40 mel bands (HTK scale, 0
    to half the rate), ``10 log10`` floored at 1e-10 and at 80 dB below the window's own maximum.
    """

    def __init__(self, rate_hz: float) -> None:
        super().__init__()
        bins = FRAME // 2 + 1
        time = torch.arange(FRAME, dtype=torch.float64)
        angle = 2.0 * math.pi / FRAME * torch.arange(bins, dtype=torch.float64)[:, None] * time
        taper = torch.hann_window(FRAME, periodic=True, dtype=torch.float64)
        basis = torch.cat([angle.cos() * taper, -angle.sin() * taper])
        # A frame is five blocks of 80 samples and a hop is two: as a convolution over 80-channel blocks
        # this is a dense matrix product, several times faster than a one-channel convolution of length 400.
        self.block = math.gcd(FRAME, HOP)
        kernel = basis.unflatten(1, (FRAME // self.block, self.block)).transpose(1, 2)
        self.register_buffer("kernel", kernel.float().contiguous(), persistent=False)
        bank = torchaudio.functional.melscale_fbanks(bins, 0.0, float(rate_hz // 2), BANDS, int(rate_hz))
        self.register_buffer("bank", bank.T.contiguous(), persistent=False)
        cosines = torchaudio.functional.create_dct(BANDS, BANDS, "ortho")
        self.register_buffer("cosines", cosines.T.contiguous(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, samples) in -1..1 -> (B, 40, 1 + samples // 160) in dB."""
        padded = F.pad(wave.unsqueeze(1), (FRAME // 2, FRAME // 2), mode="reflect").squeeze(1)
        blocks = padded.unflatten(1, (-1, self.block)).transpose(1, 2)
        spectrum = F.conv1d(blocks, self.kernel, stride=HOP // self.block)
        half = spectrum.shape[1] // 2
        power = spectrum[:, :half].square() + spectrum[:, half:].square()
        decibel = (10.0 / math.log(10.0)) * torch.log(torch.matmul(self.bank, power).clamp_min(1e-10))
        return torch.maximum(decibel, decibel.amax((1, 2), keepdim=True) - TOP_DB)

    def cepstrum(self, decibel: Tensor) -> Tensor:
        """Mel spectrum in dB (B, 40, frames) -> MFCC (B, 40, frames), an orthonormal change of basis."""
        return torch.matmul(self.cosines, decibel)


def centre_energy(decibel: Tensor, cosine: Tensor) -> Tensor:
    """Roll a mel spectrum in time, as on a circle, until its energy is centred.

    The centre is the frame c that maximises ``sum_t e_t cos(2 pi (t - c) / hops)``, e_t being the root of the power:
    the circular mean of the energy's position. On a circle it is defined also for a word that runs over the edge
    of the window. Written with ArgMax and GatherElements, since there is no atan2 to export.

    A window of N hops has N + 1 frames, the last on the same place of the circle as the first; it is left out of
    the circle and the first of the rolled frames is repeated at the end.

    Args:
        decibel: (B, bands, N + 1).
        cosine: (N, N), from :func:`circular_cosine`.

    Returns:
        (B, bands, N + 1), the centre moved to frame N // 2.
    """
    frames, hops = decibel.shape[2], cosine.shape[0]
    # The root of the power (an amplitude) lets soft consonants have their say beside a loud vowel.
    energy = torch.exp(decibel[:, :, :hops] * (math.log(10.0) / 10.0)).sum(1).sqrt()
    centre = torch.argmax(torch.matmul(energy, cosine), dim=1, keepdim=True)
    place = torch.arange(frames, device=decibel.device) + centre + (hops - hops // 2)
    place = torch.remainder(place, hops)
    return torch.gather(decibel, 2, place.unsqueeze(1).expand(-1, decibel.shape[1], -1))


def circular_cosine(hops: int) -> Tensor:
    """The matrix ``cos(2 pi (t - c) / hops)``, t by c, for :func:`centre_energy`."""
    place = torch.arange(hops, dtype=torch.float64)
    return torch.cos(2.0 * math.pi / hops * (place[:, None] - place)).float()
