"""Pairs of a share of the recordings, what is drawn of them, the speech network, and how autoencoders are shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch

from trainers.evaluation.diversity import relative_diversity, spread_within_classes
from trainers.modalities.audio import AudioNetwork
from trainers.papers.association import (
    Domain,
    MatchedRows,
    Pairing,
    autoencoder,
    generate,
    join,
    match_by_class,
    share_of,
)
from trainers.papers.networks import GreyImageNetwork, ImageSpec
from trainers.papers.packs import Recordings
from trainers.papers.spoken_digits import SpeechSpec, SpeechSpectrumNetwork

CLASSES = np.arange(10)


def nothing(what: str, done: int, of: int) -> None:
    """No report."""


def domain(name: str, per_class: int, steps: int = 30, seed: int = 0) -> Domain:
    """Images with one bright row per class, in a place of the modality's own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(CLASSES, per_class)
    images = rng.integers(0, 4, (len(labels), 12, 12)).astype(np.uint8)
    images[np.arange(len(labels)), (labels + len(name)) % 10] = 250
    every = np.arange(len(labels))
    split = Recordings({"image": images}, labels, every[::2], every[1::4], every[3::4])
    return Domain(name, split, lambda: GreyImageNetwork(ImageSpec(name, (12, 12)), 64, 64), steps)


def test_matched_rows_agree_in_class_and_every_row_of_the_largest_set_occurs_once() -> None:
    one, two = np.repeat(CLASSES, 3), np.tile(CLASSES, 8)
    rows = match_by_class([one, two], [np.arange(30), np.arange(80)], np.random.default_rng(0))
    assert rows.shape == (80, 2)
    assert np.array_equal(one[rows[:, 0]], two[rows[:, 1]])
    assert sorted(rows[:, 1]) == list(range(80))
    uses = np.bincount(rows[:, 0], minlength=30)
    assert set(uses) == {2, 3}
    with pytest.raises(ValueError, match="every class"):
        match_by_class([one, two], [np.arange(30), np.array([0, 1])], np.random.default_rng(0))


def test_a_share_is_the_same_of_every_class_and_never_nothing() -> None:
    labels = np.repeat(CLASSES, 40)
    few = share_of(labels, np.arange(400), 0.05, np.random.default_rng(1))
    assert np.bincount(labels[few]).tolist() == [2] * 10
    least = share_of(labels, np.arange(400), 0.001, np.random.default_rng(1))
    assert np.bincount(labels[least]).tolist() == [1] * 10
    assert not np.array_equal(few, share_of(labels, np.arange(400), 0.05, np.random.default_rng(2)))


def test_a_share_of_pairs_has_any_row_and_a_share_of_rows_has_few() -> None:
    two = [domain("a", 200), domain("bb", 20)]
    every = Pairing(1.0).moments(two, 0)
    assert len(every) == 1000
    assert len(np.unique(every[:, 1])) == 100
    pairs, rows = Pairing(0.2).moments(two, 0), Pairing(0.2, "rows").moments(two, 0)
    assert len(pairs) == len(rows) == 200
    assert len(np.unique(pairs[:, 1])) > 60
    assert len(np.unique(rows[:, 1])) == 20
    for found in (pairs, rows):
        assert np.array_equal(two[0].recordings.labels[found[:, 0]], two[1].recordings.labels[found[:, 1]])
        assert np.isin(found[:, 0], two[0].recordings.train).all()
        assert np.isin(found[:, 1], two[1].recordings.train).all()
    # Every addition draws the same rows of a modality, however many are joined.
    three = Pairing(0.2, "rows").moments([*two, domain("ccc", 10)], 0)
    assert set(three[:, 1]) == set(rows[:, 1])


def test_pairs_carry_no_labels() -> None:
    two = [domain("a", 4), domain("bb", 6)]
    labels, train = [d.recordings.labels for d in two], [d.recordings.train for d in two]
    rows = match_by_class(labels, train, np.random.default_rng(0))
    batch = MatchedRows(two, rows).batch(np.array([0, 5]))
    assert batch.labels.tolist() == [-1, -1]
    assert batch.presence.tolist() == [[1, 1], [1, 1]]
    assert batch.windows["bb"].shape == (2, 12, 12)


def test_autoencoders_are_shared_and_associators_carry_the_class_across(tmp_path: Path) -> None:
    domains = {d.name: d for d in (domain("a", 40, 400, 1), domain("bb", 40, 400, 2))}
    shared = tmp_path / "shared"
    one = autoencoder(domains["a"], 0, tmp_path / "one", shared, nothing)
    two = autoencoder(domains["bb"], 0, tmp_path / "one", shared, nothing)
    trained: list[str] = []
    again = autoencoder(
        domains["a"], 0, tmp_path / "two", shared, lambda what, done, of: trained.append(what)
    )
    assert trained == []
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in one.state_dict().items())

    larger = join(
        one,
        two,
        [("bb", "a")],
        domains,
        Pairing(0.5),
        steps=300,
        seed=0,
        folder=tmp_path / "one",
        report=nothing,
    )
    source = domains["bb"].recordings
    made = generate(larger, ("bb", "a"), source.images[source.test])
    brightest = made.mean(2).argmax(1).numpy()
    assert ((brightest - len("a")) % 10 == source.labels[source.test]).mean() > 0.8
    drawn = generate(larger, ("bb", "a"), source.images[source.test], torch.Generator().manual_seed(0))
    assert not torch.equal(made, drawn)


def test_speech_spectra_are_what_the_audio_network_works_out_itself() -> None:
    wave = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)) * 3000.0
    wave[:, :2500] *= 0.01
    audio = AudioNetwork(SpeechSpec(), 8, 16).eval()
    speech = SpeechSpectrumNetwork(SpeechSpec(), 8, 16).eval()
    window = audio.centred_spectrum(wave)
    assert tuple(window.shape[1:]) == speech.window_shape == (40, 51)
    torch.testing.assert_close(speech.features(window), audio.features(wave))
    torch.testing.assert_close(speech.target(window), audio.target(wave))
    torch.testing.assert_close(speech.observe(window), audio.observe(wave))
    assert speech.trunk(window).shape == (3, 16)
    assert speech.decode(torch.zeros(3, 8)).shape == (3, 40, 51)
    changed = speech.augment(window, torch.Generator().manual_seed(1))
    assert changed.shape == window.shape
    assert not torch.equal(changed, window)
    assert torch.equal(changed, speech.augment(window, torch.Generator().manual_seed(1)))


def test_spread_is_the_distance_between_samples_of_a_class() -> None:
    samples = np.array([[0.0, 0.0], [3.0, 4.0], [10.0, 10.0], [10.0, 11.0], [7.0, 7.0]])
    labels = np.array([0, 0, 1, 1, 2])
    assert spread_within_classes(samples, labels) == pytest.approx(np.sqrt((25.0 + 1.0) / 2))
    alike = np.repeat(samples[:2], 2, axis=0)
    assert relative_diversity(alike, np.array([0, 0, 1, 1]), samples, labels) == 0.0
    assert relative_diversity(2 * samples, labels, samples, labels) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="two samples"):
        spread_within_classes(samples[:2], np.array([0, 1]))
    with pytest.raises(ValueError, match="alike"):
        relative_diversity(samples, labels, alike, np.array([0, 0, 1, 1]))


def test_three_samples_by_hand() -> None:
    """Distances 1, 2 and 3 between three points on a line: mean square (1 + 4 + 9) / 3."""
    assert spread_within_classes(np.array([0.0, 1.0, 3.0]), np.zeros(3, np.int64)) == pytest.approx(
        np.sqrt(14 / 3)
    )
