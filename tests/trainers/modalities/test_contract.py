"""What every modality network promises to systems, whatever its kind."""

from __future__ import annotations

import pytest
import torch
from modality_windows import LATENT, SENSORS, WindowForm, raw_windows
from torch import Tensor

from trainers.modalities import NETWORKS, ModalityNetwork, build_modality

RANGES = {"rgb": (0.0, 255.0), "depth": (0.0, 65535.0), "audio": (-32768.0, 32767.0), "eeg": (-1e3, 1e3)}
UNITS = {"rgb": "intensity", "depth": "mm", "audio": "MFCC", "eeg": "uV"}
OBSERVATIONS = {"rgb": (64, 64, 3), "depth": (64, 64), "audio": (40, 101), "eeg": (768, 8)}


def test_every_kind_is_tested() -> None:
    assert set(NETWORKS) == set(SENSORS)


def test_shapes_and_units(kind: str, network: ModalityNetwork, windows: Tensor) -> None:
    assert network.window_shape == windows.shape[1:]
    assert network.observation_shape == OBSERVATIONS[kind]
    assert network.observation_unit == UNITS[kind]
    assert network.trunk(windows).shape == (5, network.hidden_size)
    target = network.target(windows)
    assert target.shape == (5, *network.target_shape) == network.target_weight(windows).shape
    decoded = network.decode(torch.randn(5, LATENT))
    assert decoded.shape == target.shape
    assert network.to_observation(decoded).shape == (5, *network.observation_shape)
    assert network.observe(windows).shape == (5, *network.observation_shape)


def test_features_are_of_order_one(network: ModalityNetwork, windows: Tensor) -> None:
    spread = network.features(windows).std()
    assert 0.1 < float(spread) < 10.0


def test_targets_are_of_order_one(network: ModalityNetwork, windows: Tensor) -> None:
    assert float(network.target(windows).abs().mean()) < 5.0


def test_rows_do_not_depend_on_each_other(network: ModalityNetwork, windows: Tensor) -> None:
    whole, alone = network.trunk(windows), network.trunk(windows[2:3])
    torch.testing.assert_close(whole[2:3], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        network.observe(windows)[2:3], network.observe(windows[2:3]), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_degenerate_windows_stay_finite(network: ModalityNetwork, value: float) -> None:
    window = torch.full((2, *network.window_shape), value)
    for result in (network.trunk(window), network.target(window), network.observe(window)):
        assert bool(torch.isfinite(result).all())


def test_extreme_windows_stay_finite(kind: str, network: ModalityNetwork) -> None:
    low, high = RANGES[kind]
    noise = torch.rand(2, *network.window_shape, generator=torch.Generator().manual_seed(1))
    window = torch.where(noise < 0.5, low, high)
    for result in (network.trunk(window), network.target(window), network.observe(window)):
        assert bool(torch.isfinite(result).all())


def test_observation_of_a_perfect_decoder_is_what_observe_gives(
    kind: str, network: ModalityNetwork, windows: Tensor
) -> None:
    if kind == "eeg":
        pytest.skip("EEG decoders know no phase; see test_eeg for the spectrum")
    torch.testing.assert_close(network.to_observation(network.target(windows)), network.observe(windows))


def test_nll_is_least_at_the_target(network: ModalityNetwork, windows: Tensor) -> None:
    target, weight = network.target(windows), network.target_weight(windows)
    perfect = network.reconstruction_nll(target, target, weight)
    worse = network.reconstruction_nll(target + 0.1, target, weight)
    assert perfect.shape == (5,)
    assert bool((perfect == 0).all())
    assert bool((worse > perfect).all())


def test_gradients_reach_every_parameter(network: ModalityNetwork, windows: Tensor) -> None:
    network.train()
    torch.manual_seed(0)
    hidden = network.trunk(windows)
    mixing = torch.randn(network.hidden_size, LATENT) / network.hidden_size**0.5
    decoded = network.decode(hidden @ mixing)
    network.reconstruction_nll(
        decoded, network.target(windows), network.target_weight(windows)
    ).sum().backward()
    lost = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert lost == []


def test_augmentation_keeps_shape_range_and_seed(
    kind: str, network: ModalityNetwork, windows: Tensor
) -> None:
    before = windows.clone()
    once = network.augment(windows, torch.Generator().manual_seed(3))
    again = network.augment(windows, torch.Generator().manual_seed(3))
    other = network.augment(windows, torch.Generator().manual_seed(4))
    assert torch.equal(windows, before)
    assert once.shape == windows.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    low, high = RANGES[kind]
    assert float(once.min()) >= low
    assert float(once.max()) <= high


def test_rgb_and_depth_move_together() -> None:
    # A bright, near square on black, far ground: after augmentation from equal generators it is in one place.
    size = 64
    square = torch.zeros(6, size, size)
    square[:, 20:40, 24:44] = 1.0
    rgb = build_modality(SENSORS["rgb"], LATENT).augment(
        (square * 200.0).unsqueeze(-1).expand(-1, -1, -1, 3), torch.Generator().manual_seed(5)
    )
    depth = build_modality(SENSORS["depth"], LATENT).augment(
        3000.0 - 2000.0 * square, torch.Generator().manual_seed(5)
    )

    def centre(mask: Tensor) -> Tensor:
        place = torch.arange(size, dtype=torch.float32)
        mass = mask.sum((1, 2))
        return torch.stack([(mask.sum(1) * place).sum(1), (mask.sum(2) * place).sum(1)], 1) / mass[:, None]

    seen = centre((rgb.mean(-1) > 60).float())
    near = centre(((depth > 0) & (depth < 2000)).float())
    # Holes and missing boxes shift a centre of mass a little; independent geometry would shift it by up to 8.
    assert float((seen - near).abs().median()) < 2.0
    assert float((seen - torch.tensor([33.5, 29.5])).abs().max()) > 2.0


@pytest.mark.parametrize(
    ("sensor", "words"),
    [
        (WindowForm("cam", "rgb", (64, 48, 3), 30.0, 1), "cam.*64, 48, 3"),
        (WindowForm("cam", "rgb", (64, 64, 3), 30.0, 2), "window of 1 frame"),
        (WindowForm("tof", "depth", (60, 60), 30.0, 1), "multiple of 16"),
        (WindowForm("mic", "audio", (2,), 16000.0, 16000), "mic.*scalar"),
        (WindowForm("mic", "audio", (), 16000.0, 16001), "multiple of 160"),
        (WindowForm("cap", "eeg", (8,), 64.0, 192), "rate of 96 Hz or more"),
        (WindowForm("cap", "eeg", (1,), 256.0, 768), "2 or more channels"),
        (WindowForm("nose", "smell", (8,), 256.0, 768), "no network for kind 'smell'"),
    ],
)
def test_sensors_that_cannot_be_read_are_refused(sensor: WindowForm, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_modality(sensor, LATENT)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="latent_size and hidden_size"):
        build_modality(SENSORS["rgb"], 0)


@pytest.mark.parametrize("seconds", [1, 2])
def test_shorter_eeg_windows_work(seconds: int) -> None:
    sensor = WindowForm("eeg", "eeg", (8,), 256.0, 256 * seconds)
    network = build_modality(sensor, LATENT).eval()
    window = raw_windows("eeg", 2)[:, : 256 * seconds]
    assert network.trunk(window).shape == (2, network.hidden_size)
    assert network.target_shape == (8, 44 * seconds + 1)


def test_decoding_starts_from_the_mean_target(network: ModalityNetwork, windows: Tensor) -> None:
    before = network.decode(torch.zeros(1, LATENT))
    network.start_from(windows)
    weight = network.target_weight(windows)
    mean = (network.target(windows) * weight).sum(0) / weight.sum(0).clamp(min=1e-6)
    torch.testing.assert_close(network.decode(torch.zeros(1, LATENT)) - before, mean.unsqueeze(0))
    network.target_mean.zero_()
