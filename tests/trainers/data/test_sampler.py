from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training data are torch tensors, and torch is not installed")
import torch

from runtime.signals.moments import MomentSource
from runtime.signals.recorded import RecordedSource
from runtime.signals.synthetic import SyntheticSource
from trainers.data.missingness import MissingnessPlan
from trainers.data.pairing_record import save_pairing_record
from trainers.data.sampler import Batch, BatchSampler

PLAN = MissingnessPlan(labels=0.5, modalities={"eeg": 0.4}, unpaired=0.2)


def equal(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.labels, b.labels)
        and torch.equal(a.presence, b.presence)
        and all(torch.equal(a.windows[m], b.windows[m]) for m in a.windows)
    )


@pytest.fixture(params=["recorded", "synthetic"])
def source(request: pytest.FixtureRequest) -> MomentSource:
    return request.getfixturevalue(request.param)


def test_batches_are_float32_with_zeros_where_absent(source: MomentSource, lengths: dict[str, int]) -> None:
    sampler = BatchSampler(source, lengths, "train", 6, 0, PLAN)
    for _ in range(4):
        batch = sampler.next()
        assert list(batch.windows) == list(lengths)
        assert batch.windows["depth"].shape == (6, 64, 64)
        assert batch.windows["eeg"].shape == (6, 768, 8)
        assert batch.labels.dtype == torch.int64
        assert batch.presence.shape == (6, 4)
        for column, window in enumerate(batch.windows.values()):
            assert window.dtype == torch.float32
            silent = (window.flatten(1) == 0).all(dim=1)
            assert silent[batch.presence[:, column] == 0].all()


def test_labels_follow_the_signals(recorded: RecordedSource, lengths: dict[str, int]) -> None:
    """Rows of the small packs tell their letter: row 30 k .. is letter k of a, g, l, r, s."""
    sampler = BatchSampler(recorded, lengths, "train", 8, 0)
    for _ in range(9):
        batch = sampler.next()
        letter = (batch.windows["rgb"][:, 0, 0, 0] // 30).long() - 1
        assert [("go", "left", "right", "stop")[k] for k in letter] == [
            recorded.classes[c] for c in batch.labels
        ]


def test_an_epoch_visits_every_moment_once_and_epochs_differ(recorded: RecordedSource) -> None:
    sampler = BatchSampler(recorded, {"eeg": 256}, "train", 4, 0)
    count = len(sampler)
    assert sampler.batches_per_epoch * 4 == count
    epochs = []
    for _ in range(2):
        seen = [sampler.next().windows["eeg"][:, 0, 0] for _ in range(sampler.batches_per_epoch)]
        epochs.append(torch.cat(seen))
    assert not torch.equal(*epochs)
    uses = Counter(np.round(10 * recorded.moments("train").recordings["eeg"] * 0.1).astype(int).tolist())
    for epoch in epochs:
        assert Counter(torch.round(epoch * 10).int().tolist()) == uses


def test_recorded_windows_end_at_new_places_every_epoch(recorded: RecordedSource) -> None:
    sampler = BatchSampler(recorded, {"audio": 16}, "validation", 1, 0)
    firsts = {sampler.next().windows["audio"][0, 0].item() for _ in range(3 * sampler.batches_per_epoch)}
    assert len(firsts) > 2.5 * len(sampler)


def test_synthetic_windows_are_rendered_once(
    synthetic: SyntheticSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[tuple[int, str]] = Counter()
    original = synthetic.read

    def counted(split: str, moment: int, modality: str, start: int, count: int) -> np.ndarray:
        reads[moment, modality] += 1
        return original(split, moment, modality, start, count)  # type: ignore[arg-type]

    monkeypatch.setattr(synthetic, "read", counted)
    sampler = BatchSampler(synthetic, {"audio": 160, "eeg": 64}, "train", 4, 0)
    for _ in range(4 * sampler.batches_per_epoch):
        sampler.next()
    assert set(reads.values()) == {1}
    assert len(reads) == 2 * len(sampler)


def test_views_bound_the_windows_of_a_moment(synthetic: SyntheticSource) -> None:
    sampler = BatchSampler(synthetic, {"eeg": 64}, "validation", 4, 0, views=3)
    seen = {w.numpy().tobytes() for _ in range(30) for w in sampler.next().windows["eeg"]}
    assert len(seen) == 3 * len(sampler)


@pytest.mark.parametrize("taken_after", [0, 2, 7])
def test_resume_is_exact(source: MomentSource, taken_after: int) -> None:
    """A sampler restored from JSON gives the very batches that the first one gives, across an epoch's end."""
    sampler, restored = (BatchSampler(source, {"eeg": 128, "rgb": 1}, "train", 4, 5, PLAN) for _ in range(2))
    for _ in range(taken_after):
        sampler.next()
    restored.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    for _ in range(sampler.batches_per_epoch + 1):
        assert equal(sampler.next(), restored.next())


def test_seed_decides(recorded: RecordedSource) -> None:
    a, b, c = (BatchSampler(recorded, {"eeg": 128}, "train", 8, seed) for seed in (1, 1, 2))
    first = a.next()
    assert equal(first, b.next())
    assert not equal(first, c.next())


def test_a_state_of_another_run_is_refused(recorded: RecordedSource) -> None:
    sampler = BatchSampler(recorded, {"eeg": 128}, "train", 4, 5)
    with pytest.raises(ValueError, match="has seed 6, this sampler 5"):
        sampler.load_state_dict({**sampler.state_dict(), "seed": 6})
    with pytest.raises(ValueError, match="should have"):
        sampler.load_state_dict({"epoch": 1})


def test_batch_size_must_fit(recorded: RecordedSource) -> None:
    with pytest.raises(
        ValueError, match=r"batch_size 999: the test split has 48 moments, valid are 1 \.\. 48"
    ):
        BatchSampler(recorded, {"eeg": 128}, "test", 999, 0)


def test_batches_never_write_into_the_source(recorded: RecordedSource) -> None:
    before = recorded.read("train", 0, "eeg", 0, 1280)
    sampler = BatchSampler(recorded, {"eeg": 768}, "train", 8, 0)
    for _ in range(sampler.batches_per_epoch):
        sampler.next().windows["eeg"].fill_(1e6)
    np.testing.assert_array_equal(recorded.read("train", 0, "eeg", 0, 1280), before)


def test_pairing_record_holds_every_index(recorded: RecordedSource, tmp_path: Path) -> None:
    save_pairing_record(recorded, tmp_path / "pairing.json")
    record = json.loads((tmp_path / "pairing.json").read_text())
    assert record["data"] == "recorded"
    assert record["classes"] == ["stop", "go", "left", "right"]
    for split, part in record["splits"].items():
        moments = recorded.moments(split)
        assert part["labels"] == moments.labels.tolist()
        assert {m: np.array(r).tolist() for m, r in moments.recordings.items()} == part["recordings"]
