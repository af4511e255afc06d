"""A whole tick on a session: the decision of encoding and fusing apart, and what a bad window costs."""

from __future__ import annotations

import numpy as np
import pytest

from engines.errors import InputError
from engines.opening import open_session


@pytest.fixture(scope="module")
def session(tiny_bundle):
    with open_session(tiny_bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def golden(tiny_bundle):
    with np.load(tiny_bundle / "golden.npz") as arrays:
        return dict(arrays)


def windows_of(golden, *names):
    return {n: golden[f"window_{n}"] for n in names}


@pytest.mark.parametrize("due", [(), ("rgb",), ("audio", "eeg"), ("rgb", "depth", "audio", "eeg")])
def test_a_tick_decides_as_encoding_and_fusing_apart(session, golden, due):
    names = session.manifest.modality_names
    evidence = {n: golden[f"evidence_{n}"] for n in names if n not in due}
    mask = np.ones((4, 4), np.float32)
    tick = session.tick(windows_of(golden, *due), evidence, mask)
    encoded = {n: session.encode(n, golden[f"window_{n}"]) for n in due}
    apart = session.fuse({**evidence, **encoded}, mask)
    assert tick.refused == ()
    assert tick.evidence.keys() == set(due)
    np.testing.assert_array_equal(tick.fused.logits, apart.logits)
    np.testing.assert_array_equal(tick.fused.probabilities, apart.probabilities)
    for name in due:
        np.testing.assert_array_equal(tick.evidence[name], encoded[name])


def test_absent_modalities_stay_absent(session, golden):
    mask = np.tile(np.array([1, 0, 1, 0], np.float32), (4, 1))
    garbage = np.full_like(golden["evidence_depth"], np.nan)
    tick = session.tick(
        windows_of(golden, "rgb"), {"audio": golden["evidence_audio"], "depth": garbage}, mask
    )
    apart = session.fuse(
        {"rgb": session.encode("rgb", golden["window_rgb"]), "audio": golden["evidence_audio"]}, mask
    )
    np.testing.assert_array_equal(tick.fused.logits, apart.logits)


def test_a_window_without_finite_evidence_costs_only_its_own_modality(session, golden):
    eeg = golden["window_eeg"].copy()
    eeg[0, 0] = np.nan
    mask = np.ones((4, 4), np.float32)
    evidence = {n: golden[f"evidence_{n}"] for n in ("rgb", "depth")}
    tick = session.tick({**windows_of(golden, "audio"), "eeg": eeg}, evidence, mask)
    assert tick.refused == ("eeg",)
    assert tick.evidence.keys() == {"audio"}
    mask[:, 3] = 0
    without = session.fuse({**evidence, "audio": tick.evidence["audio"]}, mask)
    np.testing.assert_array_equal(tick.fused.logits, without.logits)


def test_a_window_of_an_absent_modality_or_beside_its_evidence_is_refused(session, golden):
    mask = np.ones((4, 4), np.float32)
    evidence = {n: golden[f"evidence_{n}"] for n in ("rgb", "depth", "audio", "eeg")}
    with pytest.raises(InputError, match=r"'rgb': expected a window or evidence, got both"):
        session.tick(windows_of(golden, "rgb"), evidence, mask)
    del evidence["rgb"]
    mask[2, 0] = 0
    with pytest.raises(InputError, match=r"window of 'rgb'.*got 4 for 4 rows of which 3 say present"):
        session.tick(windows_of(golden, "rgb"), evidence, mask)
    with pytest.raises(InputError, match=r"window of 'rgb'.*got 2 for 4 rows"):
        session.tick({"rgb": golden["window_rgb"][:2]}, evidence, np.ones((4, 4), np.float32))
