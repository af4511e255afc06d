"""`python -m benchmarks soak`: a small run of every fault over real sockets, its ledgers, the slope of memory."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from process_under_test import python, run_to_end
from typer.testing import CliRunner

from benchmarks.soak.bank import fill_bank
from benchmarks.soak.command import soak
from benchmarks.soak.memory import MemorySample, memory_report, sample_memory, slope_per_million
from benchmarks.soak.run import SoakPlan, run_soak
from benchmarks.virtual_node.catalogue import FAULTS
from benchmarks.virtual_node.ledger import SensorLedger
from benchmarks.virtual_node.payloads import MessageForm, Payload
from engines.bundle import load_manifest, save_manifest
from runtime.core.accounting import Ledger
from runtime.core.order import Place, StreamOrder
from runtime.rig import load_rig
from runtime.signals.opening import open_source
from runtime.wire import FrameDecoder, Reason, decode_frame, encode_frame

THRESHOLDS = {
    "rgb": {"black_share_max": 0.5, "roughness_max": 31.0},
    "depth": {"hole_share_max": 0.65, "roughness_max": 67.0},
    "audio": {"rms_min": 8.5, "clipped_share_max": 0.002},
    "eeg": {"flat_share_max": 0.02, "offset_max": 100.0, "deviation_max": 113.0},
}
# Long messages and short pauses: a few minutes of the node's time, with every fault in them.
SMALL = SoakPlan(
    messages=20_000,
    seed=3,
    chunks={"audio": 160, "eeg": 8},
    calm_s={"rgb": 0.7, "depth": 0.7, "audio": 1.2, "eeg": 1.2},
)


@pytest.fixture(scope="module")
def checked_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with content checks."""
    folder = tmp_path_factory.mktemp("checked") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    save_manifest(folder, load_manifest(folder).model_copy(update={"health_thresholds": THRESHOLDS}))
    return folder


@pytest.fixture(scope="module")
def report(checked_bundle: Path) -> dict[str, Any]:
    return run_soak(checked_bundle, SMALL)


def test_every_message_of_every_fault_is_accounted_for(report: dict[str, Any]) -> None:
    assert report["discrepancies"] == []
    assert report["unaccounted"] == 0
    assert report["messages"] >= SMALL.messages
    counters = report["counters"]
    assert sum(report["sent"].values()) == report["messages"]
    assert report["messages"] + report["hellos"] == counters["received"] + report["lost_in_queues"]
    assert report["errors"] == {}
    json.dumps(report)


def test_every_fault_was_injected_and_every_refusal_happened(report: dict[str, Any]) -> None:
    every: Counter[str] = Counter()
    for of in report["injected"].values():
        every.update(of)
    assert set(every) == {f.name for f in FAULTS if f.is_predictable and f.in_soak}
    dropped = report["counters"]["dropped"]
    assert {r.value for r in Reason} - set(dropped) == set(), "some reason was never given"
    assert report["lost_in_queues"] > 0
    assert report["counters"]["clock_reanchored"] > 0
    assert report["readers"]["observations"] > 0
    assert {"rgb corrupt black_share_max", "eeg missing silence"} <= set(report["health_events"])


def test_ticks_follow_their_numbers_to_the_nanosecond(report: dict[str, Any]) -> None:
    ticks = report["ticks"]
    assert ticks["published"] == ticks["read"] == int(report["virtual_seconds"] * 20 + 1e-6)
    assert ticks["missed"] == ticks["gaps"] == 0
    assert report["deadline_drift_ns"] == report["tick_lateness_ns"] == 0
    assert set(report["states_at_the_end"].values()) == {"live"}


def test_memory_is_sampled_throughout(report: dict[str, Any]) -> None:
    at = [s["messages"] for s in report["memory"]]
    assert at == sorted(at)
    assert 60 <= len(at) <= 100
    assert report["rss_slope_se"] >= 0


def test_the_same_seed_sends_and_refuses_the_same(checked_bundle: Path, report: dict[str, Any]) -> None:
    again = run_soak(checked_bundle, SMALL)
    assert again["injected"] == report["injected"]
    assert again["sent"] == report["sent"]
    for modality, of in again["counters"]["modalities"].items():
        before = report["counters"]["modalities"][modality]
        # How much a full queue loses, and which window comes first, is up to the threads of ZeroMQ.
        assert of["lost"] - before["lost"] == before["received"] - of["received"]
        for reason in ("duplicate", "out_of_order", "future", "backward", "payload_length", "not_finite"):
            assert of["dropped"].get(reason) == before["dropped"].get(reason)


def test_headers_with_new_keys_grow_memory_once_and_the_soak_has_that_behind_it() -> None:
    if sample_memory(0).heap_kib is None:
        pytest.skip("this C library does not say how much memory is in use")
    # In a process of its own: in this one the table may have grown already.
    code = """
import msgpack, runtime.node.node
from benchmarks.soak.memory import grow_interned_strings, sample_memory
def read(name):
    for number in range(100_000):
        msgpack.unpackb(msgpack.packb({f"{name} {number}": 1}))
    return sample_memory(0).heap_kib
grow_interned_strings()
before = sample_memory(0).heap_kib
print(read("once") - before, read("more") - before)
"""
    said = run_to_end(python(code)).stdout
    assert all(abs(int(kib)) < 100 for kib in said.split()), said


BRIEF = SoakPlan(messages=10_000, seed=3, chunks=SMALL.chunks, calm_s=SMALL.calm_s)


def test_a_duplicate_that_is_not_counted_is_found(
    checked_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = Ledger.drop

    def forgets_some(self: Ledger, reason: Reason) -> None:
        if reason is not Reason.DUPLICATE or self.dropped[reason] % 10 < 9:
            drop(self, reason)
        else:
            self.dropped[Reason.OUT_OF_ORDER] += 1

    monkeypatch.setattr(Ledger, "drop", forgets_some)
    wrong = run_soak(checked_bundle, BRIEF)["discrepancies"]
    assert any("duplicate" in line for line in wrong)


def test_a_message_that_goes_nowhere_is_found(checked_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "discard", lambda self, reason: self._pending.clear())
    found = run_soak(checked_bundle, BRIEF)
    assert found["unaccounted"] > 0
    assert any("unaccounted" in line for line in found["discrepancies"])


def test_losses_that_are_off_by_one_are_found(checked_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = StreamOrder.accept

    def counts_one_more(self: StreamOrder, place: Place, sequence: int, capture_ns: int) -> None:
        accept(self, place, sequence, capture_ns)
        self.lost += place is Place.AFTER_LOSS

    monkeypatch.setattr(StreamOrder, "accept", counts_one_more)
    wrong = run_soak(checked_bundle, BRIEF)["discrepancies"]
    assert any(": lost: must be" in line for line in wrong)


def test_headers_that_are_patched_are_those_that_are_packed() -> None:
    rig = load_rig("commands-4")
    decoder = FrameDecoder()
    for sensor in rig.sensors:
        samples = np.ones((sensor.chunk, *sensor.sample_shape), sensor.dtype)
        form = MessageForm(rig, sensor, sensor.chunk)
        for sequence, capture_ns in ((0, 0), (5, 10**15), (2**63 - 1, 2**63 - 1)):
            parts = [form.topic, form.header(sequence, capture_ns), samples.tobytes()]
            packed = encode_frame(
                rig.name, sensor.modality, sequence, samples, capture_ns=capture_ns, unit=sensor.unit
            )
            assert parts[1] == packed[1]
            frame = decoder.decode(parts)
            assert (frame.sequence, frame.capture_ns) == (sequence, capture_ns)
            np.testing.assert_array_equal(frame.samples, decode_frame(packed).samples)


def test_banks_never_repeat_themselves() -> None:
    rig = load_rig("commands-4")
    source = open_source("synthetic", seed=1)
    for sensor in rig.sensors:
        bank = fill_bank(source, sensor, images=4)
        assert all(a.data != b.data for a, b in zip(bank, [*bank[1:], bank[0]], strict=True))
        assert all(p.finite for p in bank)
    short = rig.sensor("eeg").model_copy(update={"sample_shape": (3,)})
    with pytest.raises(ValueError, match=r"'eeg': the source has float32 \(8,\), the rig float32 \(3,\)"):
        fill_bank(source, short)


def test_ledgers_know_a_frozen_stream_from_a_flat_one() -> None:
    def after(payload: Payload, times: int) -> SensorLedger:
        ledger = SensorLedger(frozen_frames=5)
        for sequence in range(times):
            ledger.accept(sequence, payload)
        return ledger

    varied = after(Payload.of(np.array([[1], [2]]), is_image=False), 8)
    assert (varied.accepted, varied.dropped[Reason.FROZEN]) == (4, 4)
    flat = after(Payload.of(np.array([[1], [1]]), is_image=False), 8)
    assert (flat.accepted, flat.dropped[Reason.FROZEN]) == (8, 0)


def test_the_slope_is_that_of_the_line_and_its_error_that_of_least_squares() -> None:
    x = np.arange(0, 10_000_000, 100_000)
    slope, error = slope_per_million(x, 5000 + 12.5e-6 * x)
    assert slope == pytest.approx(12.5)
    assert error == pytest.approx(0, abs=1e-6)
    noise = np.random.default_rng(0).normal(0, 30, len(x))
    slope, error = slope_per_million(x, 5000 + noise)
    _, covariance = np.polyfit(x / 1e6, 5000 + noise, 1, cov=True)
    assert error == pytest.approx(np.sqrt(covariance[0, 0]), rel=0.05)
    assert abs(slope) < 4 * error
    assert slope_per_million([0, 1], [0, 1]) is None


def test_growth_during_the_warm_up_is_left_out_and_growth_after_it_is_seen() -> None:
    def samples(growth: int, warm_up: int) -> list[MemorySample]:
        return [
            MemorySample(i, 1000 + growth * i + min(i, warm_up), 500 + growth * i, 30, 50 + 2 * growth * i)
            for i in range(101)
        ]

    level = memory_report(samples(0, 10), 100)
    assert level["rss_slope_kb_per_million"] == pytest.approx(0, abs=1e-3)
    assert level["heap_slope_kb_per_million"] == pytest.approx(0, abs=1e-3)
    growing = memory_report(samples(1, 0), 100)
    assert growing["rss_slope_kb_per_million"] == pytest.approx(1e6)
    assert growing["heap_slope_kb_per_million"] == pytest.approx(1e6)
    assert growing["objects_slope_per_million"] == pytest.approx(2e6)
    assert growing["blocks_slope_per_million"] == pytest.approx(0, abs=1e-3)
    assert memory_report(samples(0, 0)[:2], 100)["rss_slope_kb_per_million"] is None


def test_a_sample_sees_what_is_allocated_and_freed() -> None:
    before = sample_memory(0)
    # More than the 32 MiB from which glibc always asks the system, whatever other tests left free in the heap.
    held = np.ones(80_000_000, np.uint8)
    during = sample_memory(1)
    del held
    after = sample_memory(2)
    assert 77_000 < during.resident_kib - before.resident_kib < 84_000
    assert abs(after.resident_kib - before.resident_kib) < 5_000
    if before.heap_kib is not None and during.heap_kib is not None and after.heap_kib is not None:
        assert 77_000 < during.heap_kib - before.heap_kib < 80_000
        assert abs(after.heap_kib - before.heap_kib) < 1_000


def test_the_command_writes_report_and_picture(checked_bundle: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(soak)
    out, picture = tmp_path / "soak.json", tmp_path / "soak.png"
    arguments = [str(checked_bundle), "--messages", "20000", "--json", str(out), "--plot", str(picture)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert {"messages", "unaccounted", "rss_slope_kb_per_million"} <= report.keys()
    assert report["unaccounted"] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    for words in ("0 unaccounted for", "where every message went", "faults that were injected", "agree"):
        assert words in result.output
