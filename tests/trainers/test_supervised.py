from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.signals.opening import find_data_dir
from runtime.signals.recorded import RecordedSource
from trainers.build import SensorWindow
from trainers.data.sampler import BatchSampler
from trainers.evaluation.supervised import ReferenceClassifier, accuracy, predict, train_classifier
from trainers.modalities import build_modality


def two_blobs(seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 2, 64))
    inputs = torch.from_numpy(rng.normal(size=(64, 2)).astype(np.float32)) + 4.0 * labels[:, None]
    return inputs, labels


def test_learns_what_is_there_to_learn() -> None:
    torch.manual_seed(0)
    seeds = iter(range(1000))
    losses: list[float] = []
    model = train_classifier(
        nn.Linear(2, 2),
        lambda: two_blobs(next(seeds)),
        steps=150,
        learning_rate=0.1,
        progress=lambda step, loss: losses.append(loss),
    )
    assert not model.training
    assert len(losses) == 150
    assert losses[-1] < losses[0]
    assert accuracy(model, [two_blobs(5000)]) > 0.95


def test_rows_without_a_label_are_left_out() -> None:
    inputs, labels = two_blobs(0)
    hidden = torch.where(torch.arange(64) < 32, labels, -1)
    torch.manual_seed(0)
    # Rows without a label hold values that would break the training if they were used.
    poisoned = torch.where((hidden < 0)[:, None], torch.nan, inputs)
    model = train_classifier(nn.Linear(2, 2), lambda: (poisoned, hidden), steps=100, learning_rate=0.1)
    assert bool(torch.isfinite(next(model.parameters())).all())
    assert accuracy(model, [(inputs, hidden)]) > 0.9


def test_faults_are_named() -> None:
    inputs, labels = two_blobs(0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        train_classifier(nn.Linear(2, 2), lambda: (inputs, labels), steps=0)
    with pytest.raises(ValueError, match="without a label"):
        train_classifier(nn.Linear(2, 2), lambda: (inputs, torch.full((64,), -1)), steps=1)
    with pytest.raises(ValueError, match="no labelled row"):
        accuracy(nn.Linear(2, 2), [(inputs, torch.full((64,), -1))])


def test_predicting_in_batches_is_predicting() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9)).train()
    inputs, _ = two_blobs(0)
    expected = model.eval()(inputs).argmax(1)
    model.train()
    assert torch.equal(predict(model, inputs, batch_size=7), expected)
    assert model.training


def test_a_trunk_with_a_linear_layer() -> None:
    class Sensor:
        name, kind, sample_shape, rate_hz, window = "eeg", "eeg", (4,), 256.0, 256

    model = ReferenceClassifier(build_modality(Sensor(), latent_size=4, hidden_size=16), classes=5)
    assert model(torch.randn(3, 256, 4)).shape == (3, 5)


@pytest.mark.packs
@pytest.mark.parametrize(
    ("modality", "window", "steps", "floor"), [("rgb", 1, 100, 0.9), ("eeg", 768, 300, 0.55)]
)
def test_real_recordings_are_told_apart(modality: str, window: int, steps: int, floor: float) -> None:
    # On validation, that is on other frames, sessions and people; chance is 0.25, full trainings reach 1.0 and 0.73.
    folder = find_data_dir(None)
    if folder is None:
        pytest.skip("recorded packs not found: set AFTERIMAGE_DATA or give ../shared/data")
    source = RecordedSource(folder, modalities=(modality,))
    sampler = BatchSampler(source, {modality: window}, "train", 32, seed=0)
    torch.manual_seed(0)
    sensor = source.rig.sensor(modality)
    spec = SensorWindow(modality, sensor.kind, sensor.sample_shape, sensor.rate_hz, window)
    network = build_modality(spec, latent_size=4)
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Tensor, Tensor]:
        batch = sampler.next()
        return network.augment(batch.windows[modality], generator), batch.labels

    model = train_classifier(ReferenceClassifier(network, len(source.classes)), draw, steps=steps)
    held_out = BatchSampler(source, {modality: window}, "validation", 64, seed=1)
    batches = [held_out.next() for _ in range(10)]
    assert accuracy(model, [(b.windows[modality], b.labels) for b in batches]) > floor
