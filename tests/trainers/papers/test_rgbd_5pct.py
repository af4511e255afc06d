"""rgbd-5pct: its draws, its fixed features and their classifier, its error, and that features are shared by arms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch

from trainers.papers.networks import ImageSpec
from trainers.papers.oriented_gradients import BINS, oriented_gradients
from trainers.papers.packs import Recordings
from trainers.papers.paired_set import PairedSet
from trainers.papers.rgbd_5pct import MISSING_ARM, RgbdFivePercent, accuracies, decide, normalized_error
from trainers.papers.rgbd_features import FEATURES, PICTURE, FeatureNetwork, pictures
from trainers.papers.rgbd_setting import (
    draw_setting,
    grey_frames,
    logistic_regression,
    shared_features,
    thinned,
)
from trainers.systems.hmvae import HmvaeConfig
from trainers.systems.registry import make_system


def recordings(per_class: int = 40) -> Recordings:
    """Two hand signs, a bar that stands or lies, in both modalities."""
    rng = np.random.default_rng(0)
    labels = np.arange(2 * per_class) % 2
    rgb = rng.integers(0, 40, (len(labels), 64, 64, 3)).astype(np.uint8)
    depth = (1500 + rng.integers(-20, 20, (len(labels), 64, 64))).astype(np.uint16)
    for i, label in enumerate(labels):
        place = int(rng.integers(20, 36))
        where = (slice(None), slice(place, place + 8)) if label else (slice(place, place + 8), slice(None))
        rgb[i][where] = 200
        depth[i][where] = 800
    rows = np.arange(len(labels), dtype=np.int64)
    cut, end = int(0.6 * len(rows)), int(0.8 * len(rows))
    return Recordings(
        {"rgb": rgb, "depth": depth}, labels.astype(np.int64), rows[:cut], rows[cut:end], rows[end:]
    )


def test_draws_label_equally_many_of_every_class_and_never_touch_what_is_held_out() -> None:
    found = recordings(100)
    for held_out, rest in (("test", found.test), ("validation", found.validation)):
        setting = draw_setting(found, 0, 0.25, held_out=held_out)  # type: ignore[arg-type]
        assert np.array_equal(setting.held_out, rest)
        assert not set(setting.train) & set(rest)
        assert set(setting.labelled) <= set(setting.train)
        counts = np.bincount(found.labels[setting.labelled])
        assert counts.tolist() == [round(0.05 * len(setting.train) / 2)] * 2
        assert len(setting.without_depth) == round(0.25 * len(setting.train))
        assert set(setting.without_depth) <= set(setting.train)
    assert len(draw_setting(found, 0, 0.0).train) == len(found.train) + len(found.validation)
    again, other = draw_setting(found, 0, 0.25), draw_setting(found, 1, 0.25)
    assert np.array_equal(again.labelled, draw_setting(found, 0, 0.25).labelled)
    assert not np.array_equal(again.labelled, other.labelled)
    few = thinned(found, 12)
    assert [np.bincount(few.labels[r]).tolist() for r in (few.train, few.validation, few.test)] == [
        [12, 12]
    ] * 3
    assert len(few.labels) == 72
    first = np.flatnonzero((found.arrays["rgb"] == few.arrays["rgb"][few.test[0]]).all((1, 2, 3)))
    assert first[0] in found.test


def test_oriented_gradients_of_a_ramp_fall_into_its_own_direction() -> None:
    across = torch.arange(64.0).expand(1, 64, 64)
    for image, bins in ((across, {0, BINS - 1}), (across.transpose(1, 2), {BINS // 2})):
        cells = oriented_gradients(image).view(7, 7, BINS, 4)[3, 3, :, 0]
        assert {int(i) for i in torch.nonzero(cells > 0.01)} == bins
    block = oriented_gradients(across.transpose(1, 2)).view(7, 7, 4 * BINS)[3, 3]
    assert block.square().sum().item() == pytest.approx(1.0, abs=1e-4)
    assert block.max().item() == pytest.approx(0.5, abs=1e-4)
    torch.testing.assert_close(
        oriented_gradients(3.0 * across + 7.0), oriented_gradients(across), atol=1e-3, rtol=0
    )


def test_logistic_regression_is_the_minimum_of_its_own_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 3, generator=generator), torch.arange(30) % 2
    x[:, 0] += 2.0 * y
    slope = logistic_regression(x, y, torch.eye(3), 2) - logistic_regression(x, y, torch.zeros(3, 3), 2)
    bias = logistic_regression(x, y, torch.zeros(1, 3), 2)

    def loss(weight: torch.Tensor) -> float:
        fit = torch.nn.functional.cross_entropy(x @ weight + bias, y, reduction="sum")
        return float(fit + 0.5 * weight.square().sum())

    best = loss(slope)
    for _ in range(20):
        assert loss(slope + 0.01 * torch.randn(3, 2, generator=generator)) > best
    assert (logistic_regression(x, y, x, 2).argmax(1) == y).float().mean() > 0.8


def test_error_is_a_ratio_of_norms_in_physical_units() -> None:
    measured = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    assert normalized_error("rgb", torch.zeros_like(measured), measured) == pytest.approx(1.0)
    assert normalized_error("rgb", measured + torch.tensor([0.0, 1.0]), measured) == pytest.approx(0.2)
    shifted = normalized_error("depth", measured.log() + math.log(1.1), measured.log())
    assert shifted == pytest.approx(0.1, rel=1e-5)


def test_relief_leaves_out_what_is_far_or_unread() -> None:
    depth = np.full((1, 64, 64), 3000, np.uint16)
    depth[0, :8], depth[0, 8:16], depth[0, 16:20] = 800, 925, 0
    relief = grey_frames("depth", depth)[0]
    assert relief[[0, 8, 16, 40], 0].tolist() == pytest.approx([255.0, 127.5, 0.0, 0.0])


def test_a_window_is_its_features_and_its_picture() -> None:
    frames = recordings(4).arrays["rgb"]
    picture = pictures("rgb", frames)
    assert picture.shape == (8, 3, PICTURE, PICTURE)
    np.testing.assert_allclose(picture[:, :, 0, 0], frames[:, :4, :4].mean((1, 2)) / 255.0, rtol=1e-5)
    windows = np.concatenate([np.ones((8, FEATURES), np.float32), picture.reshape(8, -1)], axis=1)
    network = FeatureNetwork(ImageSpec("rgb", windows.shape[1:]), 4, FEATURES, channels=3)
    given = torch.from_numpy(windows)
    assert torch.equal(network.trunk(given), torch.ones(8, FEATURES))
    assert torch.equal(network.target(given), torch.from_numpy(picture))
    assert network.decode(torch.zeros(8, 4)).shape == network.target(given).shape


def test_features_are_made_once_and_know_only_labelled_depth(tmp_path: Path) -> None:
    setting = draw_setting(recordings(), 0, 0.5)
    path = tmp_path / "features" / "0.npz"
    stages: list[str] = []
    made = shared_features(setting, 2, 0, path, lambda what, done, of: stages.append(what))
    again = shared_features(setting, 2, 0, path, lambda what, done, of: pytest.fail("made twice"))
    assert sorted(set(stages)) == ["fine-tune depth", "fine-tune rgb"]
    for name in ("rgb", "depth"):
        assert np.array_equal(made[name].features, again[name].features)
    assert sorted(p.name for p in path.parent.iterdir()) == ["0.npz"]


def test_arms_name_their_missing_ratios() -> None:
    protocol = RgbdFivePercent()
    assert [a for a in protocol.arms("full") if a.startswith(MISSING_ARM)] == [
        f"{MISSING_ARM}{r}" for r in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    assert {"hog", "network", "ss-hmvae", "ss-hmvae-kl", "ss-hmvae-kl, labelled only"} <= set(
        protocol.arms("small")
    )
    logits = {"both": torch.eye(4)}
    assert accuracies(logits, torch.tensor([0, 1, 2, 0])) == {"both": 75.0}


def test_decisions_are_made_for_unlabelled_training_rows_from_what_they_have() -> None:
    setting = draw_setting(recordings(), 0, 0.5)
    windows = {
        n: np.random.default_rng(0).normal(size=(80, FEATURES + 768)).astype(np.float32)
        for n in ("rgb", "depth")
    }
    config = HmvaeConfig(kl=True, latent_size=4, z_size=2, hidden_size=8)
    torch.manual_seed(0)
    networks = {
        n: FeatureNetwork(ImageSpec(n, w.shape[1:]), 4, FEATURES, channels=3) for n, w in windows.items()
    }
    system = make_system(networks, 2, config).eval()
    every = PairedSet.complete(windows, setting.recordings.labels)
    unlabelled = np.setdiff1d(setting.train, setting.labelled)
    whole = decide(system, every, setting, sure=0.0)
    assert np.array_equal(whole.rows, unlabelled)
    presence = np.ones((80, 2), np.float32)
    presence[setting.without_depth, 1] = 0.0
    with torch.no_grad():
        evidence = {n: system.encode(n, torch.from_numpy(w)) for n, w in windows.items()}
        expected = system.infer(evidence, torch.from_numpy(presence)).logits.softmax(1)
    assert np.array_equal(whole.labels[unlabelled], expected.argmax(1).numpy()[unlabelled])
    assert np.array_equal(whole.labels[setting.labelled], setting.recordings.labels[setting.labelled])
    assert (whole.labels[setting.held_out] == -1).all()
    middle = float(np.median(expected.amax(1).numpy()[unlabelled]))
    some = decide(system, every, setting, sure=middle)
    assert set(some.rows) == {r for r in unlabelled if expected[r].max() >= middle}
    assert (some.labels[np.setdiff1d(unlabelled, some.rows)] == -1).all()
    none = decide(system, every, setting, sure=1.1)
    assert np.array_equal(none.rows, setting.labelled)
