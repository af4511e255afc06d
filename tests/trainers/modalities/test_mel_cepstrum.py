from __future__ import annotations

import pytest
import torch
import torchaudio
from modality_windows import LATENT, SENSORS, raw_windows

from trainers.modalities import build_modality
from trainers.modalities.mel_cepstrum import MelSpectrum, centre_energy, circular_cosine


def test_agrees_with_torchaudio() -> None:
    reference = torchaudio.transforms.MFCC(
        sample_rate=16000, n_mfcc=40, melkwargs={"n_fft": 400, "hop_length": 160, "n_mels": 40}
    )
    mel = MelSpectrum(16000.0)
    waves = raw_windows("audio", 4) / 32768.0
    ours = mel.cepstrum(mel(waves))
    # One window at a time: torchaudio's 80 dB floor is relative to the whole batch.
    theirs = torch.stack([reference(wave) for wave in waves])
    assert ours.shape == (4, 40, 101)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_the_cepstrum_is_an_orthonormal_change_of_basis() -> None:
    mel = MelSpectrum(16000.0)
    decibel = torch.randn(2, 40, 101) * 20
    torch.testing.assert_close(mel.cepstrum(decibel).norm(dim=1), decibel.norm(dim=1), rtol=1e-4, atol=0)
    basis = mel.cepstrum(torch.eye(40).unsqueeze(0))[0]
    torch.testing.assert_close(basis @ basis.T, torch.eye(40), rtol=0, atol=1e-5)


def on_a_circle(decibel: torch.Tensor, shift: int) -> torch.Tensor:
    """Frames of the same sound, rolled by some hops; the last frame is on the place of the first."""
    rolled = decibel[..., :-1].roll(shift, -1)
    return torch.cat([rolled, rolled[..., :1]], -1)


@pytest.mark.parametrize("hops", [100, 51])
def test_centring_takes_any_rotation_out(hops: int) -> None:
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(hops + 1)
    # An uneven burst, so that the centre is not simply the maximum.
    burst = 40.0 * torch.exp(-(((place - 30.0) / 5.0) ** 2)) + 30.0 * torch.exp(
        -(((place - 40.0) / 3.0) ** 2)
    )
    decibel = on_a_circle(burst + torch.rand(1, 40, hops + 1, generator=generator), 0)
    cosine = circular_cosine(hops)
    expected = centre_energy(decibel, cosine)
    for shift in (1, 17, hops // 2, hops - 1):
        torch.testing.assert_close(centre_energy(on_a_circle(decibel, shift), cosine), expected)


def test_centre_is_in_the_middle() -> None:
    decibel = torch.full((1, 40, 101), -60.0)
    # The word runs over the edge: frames 96 to 103 on a circle of 100.
    decibel[:, :, 96:] = 0.0
    decibel[:, :, :4] = 0.0
    centred = centre_energy(decibel, circular_cosine(100))
    loud = torch.nonzero(centred[0, 0] > -30).flatten().tolist()
    assert len(loud) == 8
    assert loud[0] in (46, 47)


def test_a_word_is_the_same_wherever_it_lies_in_the_window() -> None:
    network = build_modality(SENSORS["audio"], LATENT).eval()
    time = torch.arange(16000) / 16000.0
    envelope = torch.exp(-((time - 0.4) ** 2) / 0.003)
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    window = (4000.0 * envelope * torch.sin(2 * torch.pi * 440.0 * time) + 3.0 * noise)[None]
    here = network.observe(window)
    there = network.observe(window.roll(160 * 25, 1))
    # The word itself: the frame at the seam sees the window's edges mirrored, not joined.
    middle = slice(35, 66)
    relative = (here - there)[..., middle].norm() / here[..., middle].norm()
    assert float(relative) < 0.01


def test_louder_is_only_louder() -> None:
    network = build_modality(SENSORS["audio"], LATENT).eval()
    window = raw_windows("audio", 2)
    torch.testing.assert_close(network.features(window), network.features(window / 4), rtol=1e-3, atol=1e-3)
