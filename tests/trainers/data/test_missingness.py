from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainers.data.missingness import MissingnessPlan

NAMES = ("rgb", "depth", "audio")


def test_nothing_is_missing_by_default() -> None:
    labelled, presence = MissingnessPlan().masks(10, NAMES)
    assert labelled.all()
    assert presence.dtype == np.float32
    assert (presence == 1).all()


@given(labels=st.floats(0, 1), audio=st.floats(0, 1), unpaired=st.floats(0, 1), seed=st.integers(0, 9))
def test_shares_are_met_and_nobody_loses_everything(
    labels: float, audio: float, unpaired: float, seed: int
) -> None:
    plan = MissingnessPlan(
        labels=labels, modalities={"audio": audio, "rgb": 0.5}, unpaired=unpaired, seed=seed
    )
    labelled, presence = plan.masks(200, NAMES)
    assert (~labelled).sum() == round(labels * 200)
    assert (presence.sum(axis=1) >= 1).all()
    assert (presence.sum(axis=1) == 1).sum() >= round(unpaired * 200)
    if unpaired == 0:
        assert (presence[:, 2] == 0).sum() == round(audio * 200)
        assert (presence[:, 1] == 1).all()
    again = plan.masks(200, NAMES)
    np.testing.assert_array_equal(labelled, again[0])
    np.testing.assert_array_equal(presence, again[1])


def test_unpaired_rows_share_the_modalities_out() -> None:
    _, presence = MissingnessPlan(unpaired=1.0).masks(3000, NAMES)
    assert (presence.sum(axis=1) == 1).all()
    assert np.abs(presence.mean(axis=0) - 1 / 3).max() < 0.05


def test_all_missing_leaves_one() -> None:
    _, presence = MissingnessPlan(modalities=dict.fromkeys(NAMES, 1.0)).masks(50, NAMES)
    assert (presence.sum(axis=1) == 1).all()


def test_faults_of_the_plan_are_named() -> None:
    with pytest.raises(ValueError, match=r"names modalities \['lidar'\]"):
        MissingnessPlan(modalities={"lidar": 0.1}).masks(5, NAMES)
    with pytest.raises(ValueError, match=r"lie in 0 \.\. 1, got \{'rgb': 1\.5\}"):
        MissingnessPlan(modalities={"rgb": 1.5}).masks(5, NAMES)
    with pytest.raises(ValidationError, match="label"):
        MissingnessPlan(label=0.5)  # type: ignore[call-arg]
