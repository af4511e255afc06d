"""The latency benchmark, briefly: the figures come from real processes and are of the right frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="bundles of large images are made with onnx, which is not installed")
pytest.importorskip("psutil", reason="CPU of processes is read with psutil, which is not installed")

from afterimage.bench import latency
from afterimage.bench.full_rate import measure_full_rate
from afterimage.bench.latency_report import ratios
from afterimage.bench.latency_sender import FACTOR, stamped
from afterimage.bench.vga_bundle import make_vga_bundle, vga_rig
from engines.opening import open_session
from runtime.rig import load_rig


def test_a_stamp_says_its_modality_and_hardly_differs() -> None:
    for number in range(FACTOR):
        stamp = stamped(1_000_003, number)
        assert stamp % FACTOR == number
        assert abs(stamp - 1_000_003) < FACTOR


def test_every_contender_answers_the_frames_it_was_sent(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(latency.COUNTED_S, "rgb", 1.0)
    case = latency.measure_case(tiny_bundle, load_rig("commands-4"), "rgb", 1, ezmsg=False, imputed="depth")
    for name in (latency.FLOOR, latency.ARRIVAL, latency.RATE, latency.PLAIN):
        assert case[name]["count"] > 3, name
        assert 0 < case[name]["p50_us"] <= case[name]["p99_us"], name
    assert case["imputed"]["count"] > 0
    assert case["messages"]["unaccounted"] == 0
    assert set(ratios(case)) == {"vs_floor_p50", "vs_floor_p99", "vs_plain_p50", "vs_plain_p99"}


def test_strides_before_the_graphs_change_nothing_but_the_size(tiny_bundle: Path, tmp_path: Path) -> None:
    make_vga_bundle(tiny_bundle, tmp_path / "vga")
    small, large = np.load(tiny_bundle / "golden.npz"), np.load(tmp_path / "vga" / "golden.npz")
    with open_session(tiny_bundle) as before, open_session(tmp_path / "vga") as after:
        for modality in ("rgb", "depth"):
            window = large[f"window_{modality}"]
            assert window.shape[1:3] == (480, 640)
            np.testing.assert_allclose(
                after.encode(modality, window),
                before.encode(modality, small[f"window_{modality}"]),
                atol=1e-5,
            )


def test_at_full_rate_everything_is_live_and_accounted_for(tiny_bundle: Path, tmp_path: Path) -> None:
    make_vga_bundle(tiny_bundle, tmp_path / "vga")
    report = measure_full_rate(tmp_path / "vga", vga_rig(load_rig("commands-4")), 1.0)
    assert report["unaccounted"] == 0
    assert report["received"] > 200
    assert set(report["states"]) == {"rgb", "depth", "audio", "eeg"}
    assert report["cores"]["all"] > 0
