"""The latency benchmark, briefly: the figures come from real processes and are of the right frames."""

from __future__ import annotations

import contextlib
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="bundles of large images are made with onnx, which is not installed")
pytest.importorskip("psutil", reason="CPU of processes is read with psutil, which is not installed")

import psutil

from afterimage.bench.latency import measurement
from afterimage.bench.latency.report import ratios
from benchmarks.latency import report as latency_report
from benchmarks.latency.full_rate import measure_full_rate
from benchmarks.peers import dora_nodes, playing
from benchmarks.vga_bundle import make_vga_bundle, vga_rig
from engines.measuring.process import BenchmarkProcess
from engines.opening import open_session
from runtime.rig import load_rig


def test_every_contender_answers_the_frames_it_was_sent(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(measurement.COUNTED_S, "rgb", 1.0)
    case = measurement.measure_case(
        tiny_bundle, load_rig("commands-4"), "rgb", 1, middles=latency_report.MIDDLES, imputed="depth"
    )
    for name in latency_report.MIDDLES:
        assert case[name]["count"] > 3, name
        assert 0 < case[name]["p50_us"] <= case[name]["p99_us"], name
    assert case["imputed"]["count"] > 0
    assert case["messages"]["unaccounted"] == 0
    found = ratios(case, latency_report.COMPARED_WITH)
    assert set(found) == {"vs_floor_p50", "vs_floor_p99", "vs_plain_p50", "vs_plain_p99"}


def processes_in(folder: Path) -> list[psutil.Process]:
    """What else works in a folder or below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.cwd().startswith(str(folder)):
                found.append(process)
    return found


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A working folder, which peers have to leave as it is, and one that they may write to."""
    here, own = folder / "here", folder / "own"
    here.mkdir()
    own.mkdir()
    monkeypatch.chdir(here)
    return here, own


def play_turn(name: str, bundle: Path, skip_s: float, counted_s: float, folder: Path) -> list[float]:
    rig = load_rig("commands-4")
    return playing.play_turn(playing.PEERS[name], bundle, rig, "rgb", skip_s, counted_s, folder)


@pytest.mark.parametrize("name", playing.PEERS)
def test_a_peer_answers_the_frames_it_was_sent_and_leaves_nothing(
    name: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (why := playing.absence(name)) is not None:
        pytest.skip(why)
    here, own = elsewhere(tmp_path, monkeypatch)
    took = play_turn(name, tiny_bundle, 0.5, 1.5, own)
    assert 0.75 * 45 <= len(took) <= 45  # of 1.5 s at 30 Hz; a busy machine may lose a few
    assert all(0 < each < 2 for each in took)
    assert not list(here.iterdir())
    assert not list(own.iterdir())
    assert not processes_in(tmp_path)


@pytest.mark.parametrize("name", playing.PEERS)
def test_a_peer_that_does_not_end_is_stopped_with_all_its_processes(
    name: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (why := playing.absence(name)) is not None:
        pytest.skip(why)
    _, own = elsewhere(tmp_path, monkeypatch)
    seen: list[psutil.Process] = []
    close = BenchmarkProcess.close

    def look_and_close(process: BenchmarkProcess) -> None:
        seen.extend(processes_in(tmp_path))
        close(process)

    monkeypatch.setattr(BenchmarkProcess, "close", look_and_close)
    monkeypatch.setattr(playing, "STARTING_S", -56.0)
    with pytest.raises(playing.PeerError, match=f"the {playing.PEERS[name].title} peer took too long"):
        play_turn(name, tiny_bundle, 0.0, 60.0, own)
    assert len(seen) >= 4  # a daemon or a parent, and three that do the work
    assert not [p for p in seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not list(own.iterdir())


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    if (why := playing.absence("dora")) is not None:
        pytest.skip(why)
    with pytest.raises(
        playing.PeerError, match=r"(?s)the dora-rs peer ended with 1; .*nowhere: not a bundle"
    ):
        play_turn("dora", tmp_path / "nowhere", 0.5, 1.0, tmp_path)


def test_a_report_says_why_a_peer_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_command(package: str) -> str:
        if package == "dora-rs-cli":
            raise PackageNotFoundError(package)
        return {"dora-rs": "1.0", "ezmsg": "3.0"}.get(package) or version(package)

    asked: list[list[str]] = []

    def measure(*_: Any, peers: dict[str, Any], **__: Any) -> dict[str, Any]:
        asked.append(list(peers))
        figures = {"p50_us": 2.0, "p99_us": 4.0, "count": 1}
        names = (*latency_report.MIDDLES, *peers)
        return dict.fromkeys(names, figures) | {"tick_overhead_us": {"p50": 9.0}, "imputed": figures}

    full = dict.fromkeys(("received", "lost", "unaccounted", "ticks", "missed_ticks"), 0) | {
        "tick_lateness_ms": {"p50": 1.0, "p99": 2.0},
        "tick_overhead_us": {"p50": 8.0},
        "imputed_at_client_ms": {"p50": 1.0, "p99": 2.0, "modality": "depth"},
        "cores": dict.fromkeys(("all", "node", "sensors", "client"), 0.1),
    }
    monkeypatch.setattr(playing, "version", without_the_command)
    monkeypatch.setattr(latency_report, "measure_case", measure)
    monkeypatch.setattr(latency_report, "make_vga_bundle", lambda *_: None)
    monkeypatch.setattr(latency_report, "measure_full_rate", lambda *_: full)
    report = latency_report.measure_latency(tmp_path, load_rig("commands-4"), quick=True)
    assert asked == [["ezmsg"]]
    assert report["peers"]["ezmsg"]["p50_us"] == 2.0
    assert report["peers"]["dora"] == {
        "absent": "dora-rs-cli is not installed; run: pip install 'afterimage[bench]'"
    }
    assert not [name for name in report["ratios"] if "dora" in name]
    assert "dora-rs did not take part: dora-rs-cli is not installed" in latency_report.latency_summary(report)


def test_dora_is_told_of_nothing_outside_its_folder(tmp_path: Path) -> None:
    inherited = {"DORA_OTLP_ENDPOINT": "x", "OTEL_SERVICE_NAME": "x", "ZENOH_CONFIG": "x", "PYTHONPATH": "p"}
    given = dora_nodes.environment(inherited | {"HOME": "h"}, tmp_path)
    assert not set(given) & (set(inherited) - {"PYTHONPATH"})
    assert given["HOME"] == "h"
    assert given["PYTHONPATH"].endswith(f"{os.pathsep}p")
    assert Path(given["UV_CACHE_DIR"]).parent == tmp_path


def test_a_dora_of_two_versions_does_not_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "version", {"dora-rs": "1.1.0", "dora-rs-cli": "1.0.0"}.__getitem__)
    monkeypatch.setattr(dora_nodes, "executable", lambda: "/usr/bin/dora")
    assert playing.absence("dora") == "dora-rs 1.1.0 and dora-rs-cli 1.0.0 must have the same version"
    monkeypatch.setattr(dora_nodes, "executable", lambda: None)
    assert "command dora was not found" in str(playing.absence("dora"))


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
    assert report["imputed_at_client_ms"]["count"] > 5  # 20 a second, less the while that subscribing takes
    assert 0 < report["imputed_at_client_ms"]["p50"] <= report["imputed_at_client_ms"]["p99"]
