from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.signals.pairing import pair_within_class, repeated_permutations, stable_fraction


@given(items=st.integers(1, 20), length=st.integers(1, 100), seed=st.integers(0, 99))
def test_draws_use_every_item_equally_often(items: int, length: int, seed: int) -> None:
    drawn = repeated_permutations(np.arange(items) + 7, length, np.random.default_rng(seed))
    uses = np.bincount(drawn - 7, minlength=items)
    assert len(drawn) == length
    assert uses.max() - uses.min() <= 1


def rows(*counts: int, first: int = 0) -> list[np.ndarray]:
    edges = first + np.cumsum((0, *counts))
    return [np.arange(a, b) for a, b in pairwise(edges)]


@given(
    signs=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    words=st.lists(st.integers(1, 6), min_size=3, max_size=3),
    pairings=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_moments_pair_within_class_use_everything_and_stay_balanced(
    signs: list[int], words: list[int], pairings: int, seed: int
) -> None:
    recordings = {"rgb": rows(*signs), "audio": rows(*words, first=100)}
    moments = pair_within_class(recordings, {"depth": "rgb"}, pairings, np.random.default_rng(seed))
    assert len(moments) == 3 * pairings * max(signs + words)
    for modality, per_class in recordings.items():
        for label, of_class in enumerate(per_class):
            played = moments.recordings[modality][moments.labels == label]
            used = {int(r): int((played == r).sum()) for r in of_class}
            assert set(played) == set(of_class), "a recording of another class, or one that is never used"
            assert min(used.values()) >= pairings
    np.testing.assert_array_equal(moments.recordings["depth"], moments.recordings["rgb"])
    for block in moments.labels.reshape(-1, 3):
        assert sorted(block) == [0, 1, 2]


def test_pairing_differs_by_seed_and_repeats_with_it() -> None:
    recordings = {"rgb": rows(9, 9), "audio": rows(9, 9)}
    one, again, other = (pair_within_class(recordings, {}, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.recordings["audio"], again.recordings["audio"])
    assert (one.recordings["audio"] != other.recordings["audio"]).any()


def test_fraction_is_stable_and_spread() -> None:
    assert stable_fraction("speaker") == 0.16062390422018777
    fractions = np.array([stable_fraction(str(n)) for n in range(2000)])
    assert abs((fractions < 0.2).mean() - 0.2) < 0.03
