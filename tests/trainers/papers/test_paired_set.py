"""Sets in memory: absent rows are zeros, groups keep their shares, and sampling resumes exactly."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch

from trainers.data.array_sampler import ArraySampler
from trainers.papers.paired_set import PairedSet


def small_set(rows: int = 12) -> PairedSet:
    numbers = np.arange(rows)
    arrays = {"x": np.repeat(numbers[:, None], 2, 1).astype(np.uint8), "y": numbers[:, None] + 100.0}
    return PairedSet.complete(arrays, numbers % 3)


def test_absent_windows_are_zeros_and_absent_labels_minus_one() -> None:
    given = small_set().without("y", np.array([1, 2])).without_labels(np.array([0]))
    batch = given.batch(np.array([0, 1, 3]))
    assert batch.windows["x"].tolist() == [[0, 0], [1, 1], [3, 3]]
    assert batch.windows["y"].tolist() == [[100], [0], [103]]
    assert batch.presence.tolist() == [[1, 1], [1, 0], [1, 1]]
    assert batch.labels.tolist() == [-1, 1, 0]
    assert [len(b.labels) for b in given.batches(5)] == [5, 5, 2]
    assert given.rows(np.array([2, 0])).labels.tolist() == [2, -1]


def test_groups_keep_their_share_and_visit_every_row_once_an_epoch() -> None:
    few, many = np.array([0, 1, 2]), np.arange(3, 12)
    sampler = ArraySampler(small_set(), ((few, 2), (many, 3)), seed=1)
    drawn = torch.stack([sampler.next().windows["x"][:, 0] for _ in range(6)]).long()
    assert torch.isin(drawn[:, :2], torch.tensor(few)).all()
    assert torch.bincount(drawn[:, :2].reshape(-1), minlength=3).tolist() == [4, 4, 4]
    assert sorted(drawn[:3, 2:].reshape(-1).tolist()) == many.tolist()
    assert sorted(drawn[3:, 2:].reshape(-1).tolist()) == many.tolist()
    assert drawn[:3, 2:].tolist() != drawn[3:, 2:].tolist()


def test_a_group_smaller_than_its_count_is_drawn_over_several_epochs() -> None:
    sampler = ArraySampler(small_set(), ((np.array([4, 5]), 7),), seed=0)
    rows = sampler.next().windows["x"][:, 0].long().tolist()
    assert {tuple(sorted(rows[k : k + 2])) for k in (0, 2, 4)} == {(4, 5)}


def test_sampling_resumes_exactly_and_only_with_the_same_groups() -> None:
    one = ArraySampler(small_set(), 5, seed=3)
    for _ in range(4):
        one.next()
    two = ArraySampler(small_set(), 5, seed=3)
    two.load_state_dict(one.state_dict())
    for _ in range(6):
        assert torch.equal(one.next().windows["x"], two.next().windows["x"])
    with pytest.raises(ValueError, match="seed"):
        ArraySampler(small_set(), 5, seed=4).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="groups"):
        ArraySampler(small_set(), 6, seed=3).load_state_dict(one.state_dict())


def test_impossible_groups_and_uneven_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="group 0"):
        ArraySampler(small_set(), ((np.array([], np.int64), 1),), seed=0)
    with pytest.raises(ValueError, match=r"within 0 \.\. 11"):
        ArraySampler(small_set(), ((np.array([12]), 1),), seed=0)
    with pytest.raises(ValueError, match="rows of everything"):
        PairedSet({"x": np.zeros((3, 2))}, np.zeros(4, np.int64), np.ones((4, 1), np.float32))
