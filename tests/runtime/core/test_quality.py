"""Content checks: what each measure sees, and that calibrated thresholds pass recordings and catch faults."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.bundle import ModalityKind
from runtime.core.quality import judge, measure, thresholds_from

Window = npt.NDArray[Any]
RANDOM = np.random.default_rng(0)


def rgb() -> Window:
    return np.clip(RANDOM.normal(120, 30, (1, 1, 3)) + RANDOM.normal(0, 10, (64, 64, 3)), 10, 240).astype(
        np.uint8
    )


def depth() -> Window:
    image = (900 + np.add.outer(np.arange(64), np.arange(64)) + RANDOM.normal(0, 3, (64, 64))).astype(
        np.uint16
    )
    image[RANDOM.random((64, 64)) < RANDOM.uniform(0.1, 0.4)] = 0
    return image


def audio() -> Window:
    envelope = np.exp(-(((np.arange(16000) - RANDOM.integers(4000, 12000)) / 2000) ** 2))
    return (
        RANDOM.normal(0, RANDOM.uniform(2000, 6000), 16000) * envelope + RANDOM.normal(0, 20, 16000)
    ).astype(np.int16)


def eeg() -> Window:
    return (np.cumsum(RANDOM.normal(0, 1, (768, 8)), axis=0) * 0.3 + RANDOM.normal(0, 5, (768, 8))).astype(
        np.float32
    )


def punch(window: Window) -> Window:
    window = window.copy()
    window[RANDOM.random(window.shape) < 0.9] = 0
    return window


def rail(window: Window) -> Window:
    window = window.copy()
    window[-32:, :2] = 187_500
    return window


def stick(window: Window) -> Window:
    window = window.copy()
    window[-32:, :2] = window[-33, :2]
    return window


def clip(window: Window) -> Window:
    return np.clip(window.astype(np.int32) * 20, -32768, 32767).astype(np.int16)


FAULTS: list[tuple[ModalityKind, Callable[[Window], Window], set[str]]] = [
    ("rgb", np.zeros_like, {"black_share_max"}),
    ("rgb", lambda w: np.full_like(w, 255), {"saturated_share_max"}),
    ("depth", punch, {"hole_share_max"}),
    ("depth", np.zeros_like, {"hole_share_max"}),
    ("audio", clip, {"clipped_share_max"}),
    ("audio", np.zeros_like, {"rms_min"}),
    ("eeg", rail, {"flat_share_max", "offset_max"}),
    ("eeg", stick, {"flat_share_max"}),
    ("eeg", lambda w: w + RANDOM.normal(0, 500, w.shape).astype(np.float32), {"deviation_max", "offset_max"}),
]
NAMES = ["black", "white", "punched", "no reading", "clipped", "silent", "railed", "stuck", "noisy"]
MAKE: dict[ModalityKind, Callable[[], Window]] = {"rgb": rgb, "depth": depth, "audio": audio, "eeg": eeg}


def test_measures_by_hand() -> None:
    image = np.zeros((2, 4, 3), np.uint8)
    image[0] = 255
    image[1, 0] = (7, 7, 8)
    assert measure("rgb", image) == pytest.approx(
        {"black_share": 3 / 8, "saturated_share": 0.5, "mean": (4 * 3 * 255 + 22) / 24, "roughness": 7 / 6}
    )
    assert measure("depth", np.array([[0, 5, 7], [9, 0, 9]], np.uint16)) == pytest.approx(
        {"hole_share": 1 / 3, "roughness": 2.0}
    )
    assert measure("audio", np.array([-32768, 32767, 0, 32767], np.int16)) == pytest.approx(
        {"rms": np.sqrt((32768**2 + 2 * 32767**2) / 4), "clipped_share": 0.25}
    )
    signal = np.array([[0, 1], [2, 1], [0, 1], [2, 1], [0, 1], [2, 1]], np.float32)
    assert measure("eeg", signal) == pytest.approx(
        {"flat_share": 0.5, "offset": 1.0, "deviation": 1.0, "quietest": 0.0}
    )


@pytest.mark.parametrize("kind", MAKE)
def test_the_extreme_values_of_a_dtype_do_not_overflow(kind: ModalityKind) -> None:
    window = MAKE[kind]()
    limits = np.iinfo(window.dtype) if window.dtype.kind in "iu" else np.finfo(np.float32)
    window.reshape(-1)[::2] = min(float(limits.max), 1e6)
    window.reshape(-1)[1::2] = max(float(limits.min), -1e6)
    assert all(np.isfinite(v) and v >= 0 for v in measure(kind, window).values())


@pytest.mark.parametrize(("kind", "fault", "checks"), FAULTS, ids=NAMES)
def test_calibrated_thresholds_pass_new_windows_and_catch_faults(
    kind: ModalityKind, fault: Callable[[Window], Window], checks: set[str]
) -> None:
    make = MAKE[kind]
    thresholds = thresholds_from(kind, [measure(kind, make()) for _ in range(100)])
    fresh = [make() for _ in range(50)]
    assert {judge(kind, measure(kind, w), thresholds) for w in fresh} == {None}
    assert {judge(kind, measure(kind, fault(w)), thresholds) for w in fresh} <= checks


def test_a_check_without_a_threshold_does_not_judge() -> None:
    black = measure("rgb", np.zeros((8, 8, 3), np.uint8))
    assert judge("rgb", black, {}) is None
    assert judge("rgb", black, {"black_share_max": 0.5}) == "black_share_max"


def test_nan_in_a_window_fails() -> None:
    window = eeg()
    window[3, 2] = np.nan
    assert judge("eeg", measure("eeg", window), {"offset_max": 100.0}) == "offset_max"


def test_thresholds_of_nothing_or_of_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one training window"):
        thresholds_from("rgb", [])
    with pytest.raises(ValueError, match="eeg training window: offset must be finite, got nan"):
        thresholds_from(
            "eeg", [dict.fromkeys(("flat_share", "deviation", "quietest"), 1.0) | {"offset": np.nan}]
        )


@cache
def recordings(kind: ModalityKind, split: int) -> list[Window]:
    """Windows of the packs, straight from the files."""
    folder = Path(os.environ.get("AFTERIMAGE_DATA", "../shared/data"))
    pack = {"audio": "speech_commands", "eeg": "ssvep_exo"}.get(kind, "asl_rgbd")
    if not (folder / f"{pack}.npz").is_file():
        pytest.skip(f"no recordings: {folder / pack}.npz is not there")
    with np.load(folder / f"{pack}.npz") as data:
        rows = np.flatnonzero(data["split"] == split)[::4]
        if kind == "eeg":
            signal = data["eeg"][rows] * data["scale_uV"]
            return [w.T[s : s + 768].astype(np.float32) for w in signal for s in (128, 512)]
        return list(data[{"rgb": "rgb", "depth": "depth_mm", "audio": "wave"}[kind]][rows])


@cache
def calibrated(kind: ModalityKind) -> dict[str, float]:
    """Thresholds from the recordings of the training split."""
    return thresholds_from(kind, [measure(kind, w) for w in recordings(kind, 0)])


@pytest.mark.packs
@pytest.mark.parametrize("kind", MAKE)
def test_recordings_pass_the_thresholds_of_others(kind: ModalityKind) -> None:
    test = recordings(kind, 1)
    alarms = [judge(kind, measure(kind, w), calibrated(kind)) for w in test]
    # One subject's electrode is at its converter's rail for part of five test trials: those alarms are right.
    assert sum(a is not None for a in alarms) <= (0.03 if kind == "eeg" else 0.0) * len(test)


@pytest.mark.packs
@pytest.mark.parametrize(("kind", "fault", "checks"), FAULTS, ids=NAMES)
def test_faults_of_recordings_are_caught(
    kind: ModalityKind, fault: Callable[[Window], Window], checks: set[str]
) -> None:
    test = recordings(kind, 1)
    caught = [judge(kind, measure(kind, fault(w)), calibrated(kind)) for w in test]
    # A word spoken so softly that twenty times louder hardly clips stays a good recording.
    assert sum(c is not None for c in caught) >= 0.95 * len(test)
