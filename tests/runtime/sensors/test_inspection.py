from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_bench import rig_of, sensor_of, write_plugin

from runtime.sensors.inspection import content_problems, inspect_rig

# What a sensor of kind eeg can do to whoever inspects it.
PLUGIN = """
import os, threading, time
import numpy as np
from runtime.sensors.sample_source import Delivery, SampleBlock, SourceLostError
class Odd:
    def __init__(self, options, sensor):
        self.how, self.counts = options["how"], {"overflowed": 2}
    def open(self):
        if self.how == "hangs":
            threading.Event().wait()
        if self.how == "crashes":
            os.abort()
        if self.how == "away":
            raise SourceLostError("cannot_open", "nothing at /dev/none")
        return Delivery((4,), "float32", "uV", 250.0, description="odd")
    def read(self, timeout_s):
        time.sleep(0.08)
        noise = np.random.default_rng().normal(0, 20, (10, 4)).astype(np.float32)
        return SampleBlock(noise, time.monotonic_ns() - 400_000_000)
    def close(self): ...
"""


@pytest.fixture(autouse=True)
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plugin(tmp_path, "odd", "odd_sensors", PLUGIN, "Odd")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_every_sensor_of_a_rig_is_opened_and_told_of(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for n in range(3):
        cv2.imwrite(
            str(images / f"{n}.png"), np.random.default_rng(n).integers(500, 900, (48, 64)).astype(np.uint16)
        )
    folder = {"kind": "depth-images", "folder": str(images), "loop": True}

    def eeg(how: str, **options: Any) -> Any:
        return sensor_of("eeg", {"kind": "odd", "how": how, **options}, modality=how)

    rig = rig_of(
        sensor_of("depth", folder, {"from_unit": "mm"}),
        sensor_of("depth", folder, {"from_unit": "m"}, modality="metres"),
        sensor_of("depth", folder, modality="unsaid"),
        eeg("slow"),
        eeg("hangs", open_s=0.3),
        eeg("crashes"),
        eeg("away", open_s=1.0),
    )
    good, metres, unsaid, slow, hangs, crashes, away = inspect_rig(rig, seconds=1.0)
    assert good.good, good
    assert good.rate_hz == pytest.approx(30, rel=0.02)
    assert good.interval_ms["p50"] == pytest.approx(33.3, abs=0.2)
    assert (good.shape, good.dtype, good.unit, good.clock) == ((48, 64), "uint16", "mm", "playback")
    assert (good.offset_ns, good.uncertainty_ns) == (0, 0)
    assert good.counts["opened"] == 1
    assert any("millimetres" in p for p in metres.problems)
    assert unsaid.problems == (
        "sensor 'unsaid': unit is mm in the rig, its source gives none; add `transform: {from_unit: mm}` if that is it",
    )
    told = " | ".join(slow.problems)
    for part in ("too slow: ", "late: samples are ", "overflowed: 2"):
        assert part in told
    assert slow.notes == ("stamped on arrival: the time from the sensor to here is not in its stamps",)
    assert "hung" in hangs.problems[0]
    assert "died with code -6" in crashes.problems[0]
    assert away.problems == ("cannot_open: nothing at /dev/none",)
    assert away.counts["lost"]["cannot_open"] >= 2


@pytest.mark.parametrize(
    ("kind", "samples", "changes", "word"),
    [
        ("rgb", np.zeros((1, 8, 8, 3), np.uint8), 5, "black"),
        ("rgb", np.full((1, 8, 8, 3), 255, np.uint8), 5, "saturated"),
        ("rgb", np.full((1, 8, 8, 3), 99, np.uint8), 0, "frozen"),
        ("depth", np.zeros((1, 8, 8), np.uint16), 5, "hardly any reading"),
        ("depth", np.full((1, 8, 8), 2, np.uint16), 5, "below 2 mm"),
        ("depth", np.full((1, 8, 8), 40_000, np.uint16), 5, "beyond 40 m"),
        ("audio", np.zeros(1000, np.int16), 5, "silent"),
        ("audio", np.full(1000, 32767, np.int16), 5, "clipped: 100%"),
        ("eeg", np.zeros((500, 4), np.float32), 5, "flat"),
        ("eeg", np.random.default_rng(0).normal(0, 2e-5, (500, 4)).astype(np.float32), 5, "microvolts"),
        ("eeg", np.random.default_rng(0).normal(0, 2e4, (500, 4)).astype(np.float32), 5, "microvolts"),
        ("eeg", np.full((500, 4), np.nan, np.float32), 5, "not finite"),
    ],
)
def test_what_is_wrong_with_samples_is_said(kind: str, samples: Any, changes: int, word: str) -> None:
    problems = content_problems(sensor_of(kind, {"kind": "odd"}), samples, changes)
    assert any(word in p for p in problems), problems


@pytest.mark.parametrize(
    ("kind", "samples"),
    [
        ("rgb", np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3), np.uint8)),
        ("depth", np.random.default_rng(0).integers(400, 4000, (1, 8, 8)).astype(np.uint16)),
        ("audio", np.random.default_rng(0).normal(0, 500, 4000).astype(np.int16)),
        ("eeg", np.random.default_rng(0).normal(0, 20, (500, 4)).astype(np.float32)),
    ],
)
def test_good_samples_are_not_blamed(kind: str, samples: Any) -> None:
    assert content_problems(sensor_of(kind, {"kind": "odd"}), samples, 5) == []
