"""`afterimage bench throughput`: what it calls too much, how it searches, and one real step with its processes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.throughput.measurement import ThroughputEffort, measure_throughput
from benchmarks.throughput.processes import Processes
from benchmarks.throughput.report import throughput_tables
from benchmarks.throughput.search import Step, conclusion, judged, rise
from engines.measuring.process import ProcessError
from runtime.rig import Rig, load_rig


def node_counts(received: int = 100, **changes: object) -> dict[str, object]:
    messages = {
        "received": received,
        "lost": 0,
        "unaccounted": 0,
        "dropped": {},
        "windows": {"encoded": 90, "superseded": 0},
        "ticks": {"published": 20, "missed": 0},
    }
    return {
        "messages": messages | changes,
        "seconds": 1.5,
        "cpu_seconds": 0.375,
        "engine_cpu_seconds": 0.125,
        "waited_seconds": 0.0,
        "process_cpu_seconds": 0.5,
        "encode_calls": 45,
        "encode_rows": 90,
        "tick_lateness_p99_ms": 1.0,
    }


def one(asked_hz: float = 100.0, sent: int = 100, **changes: object) -> Step:
    return judged(1.0, asked_hz, [{"messages": sent, "seconds": 1.0}], [node_counts(**changes)])


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, None),
        ({"windows": {"encoded": 10, "superseded": 90}, "dropped": {"superseded": 90}}, None),
        ({"dropped": {"broken_window": 3, "corrupt": 1}}, None),
        ({"received": 98, "lost": 2}, "lost"),
        ({"received": 98}, "lost"),
        ({"unaccounted": 1}, "unaccounted"),
        ({"dropped": {"bad_header": 1}}, "refused"),
        ({"ticks": {"published": 19, "missed": 1}}, "ticks"),
    ],
)
def test_what_is_too_much(changes: dict[str, object], broken: str | None) -> None:
    assert one(**changes).broken == broken


def test_messages_that_were_sent_and_never_seen_are_told_from_gaps() -> None:
    step = one(received=90, lost=4)
    assert (step.gaps, step.unseen) == (4, 6)


def test_shares_are_of_the_time_that_was_played_and_engine_calls_are_not_the_nodes() -> None:
    step = one()
    assert step.node_share == pytest.approx(0.25)
    assert step.engine_share == pytest.approx(0.125)
    assert step.process_cpu_seconds == pytest.approx(0.375)
    assert step.rows_per_call == 2.0


def test_several_nodes_and_senders_are_summed() -> None:
    nodes = [node_counts(), node_counts(received=97, lost=3)]
    step = judged(2.0, 200.0, [{"messages": 120, "seconds": 1.0}, {"messages": 80, "seconds": 2.0}], nodes)
    assert (step.sent, step.received, step.gaps, step.unseen) == (200, 197, 3, 0)
    assert step.sent_hz == pytest.approx(160.0)
    assert step.out_of_reach


class Machine:
    """Carries less than a limit; cannot be sent more than a reach."""

    def __init__(self, limit: float, reach: float = 1e9) -> None:
        self.limit, self.reach, self.loads = limit, reach, []

    def __call__(self, load: float) -> Step:
        self.loads.append(load)
        lost = int(load >= self.limit)
        sent = round(min(load, self.reach))
        counts = node_counts(received=sent - lost, lost=lost)
        return judged(load, load, [{"messages": sent, "seconds": 1.0}], [counts])


@pytest.mark.parametrize("limit", [130, 999, 1000, 1001, 5000])
def test_the_limit_is_enclosed(limit: float) -> None:
    found = conclusion(list(rise(Machine(limit), 1000.0, 2.0, 128_000.0, 6)))
    assert found["carried"] < limit <= found["broken_at"]
    assert found["broken_at"] / found["carried"] < 1.02
    assert found["broken_by"] == "lost"


def test_a_first_load_that_is_too_much_is_lowered_only_so_often() -> None:
    machine = Machine(1.0)
    found = conclusion(list(rise(machine, 1000.0, 2.0, 128_000.0, 2)))
    assert machine.loads == [1000.0, 500.0, 250.0, 125.0]
    assert (found["carried"], found["broken_at"]) == (0.0, 125.0)


def test_a_sender_at_its_end_ends_the_rise() -> None:
    machine = Machine(1e9, reach=3000)
    found = conclusion(list(rise(machine, 1000.0, 2.0, 128_000.0, 2)))
    assert machine.loads == [1000.0, 2000.0, 4000.0]
    assert (found["limit"], found["broken_at"], found["carried_hz"]) == ("sender", None, 3000.0)


def test_rigs_are_whole_and_no_load_is_tried_twice() -> None:
    machine = Machine(7)
    found = conclusion(list(rise(machine, 4.0, 2.0, 64.0, 6, whole=True)))
    assert (found["carried"], found["broken_at"]) == (6.0, 7.0)
    assert len(set(machine.loads)) == len(machine.loads)
    assert all(load.is_integer() for load in machine.loads)


def test_the_load_from_which_windows_are_shed_is_told_apart() -> None:
    shed = one(windows={"encoded": 10, "superseded": 90})
    assert conclusion([shed])["engine_full_at"] == 1.0
    assert conclusion([one()])["engine_full_at"] is None


@pytest.mark.parametrize(
    ("took", "limit"),
    [
        ({}, "node"),
        ({"cpu_seconds": 0.9, "engine_cpu_seconds": 0.7}, "engine"),
        ({"waited_seconds": 0.5}, "cores"),
        ({"waited_seconds": 0.5, "cpu_seconds": 0.9}, "node"),
    ],
)
def test_what_ran_out_is_named(took: dict[str, float], limit: str) -> None:
    broken = judged(
        1.0, 100.0, [{"messages": 100, "seconds": 1.0}], [node_counts(received=98, lost=2) | took]
    )
    assert conclusion([broken])["limit"] == limit


@pytest.fixture
def images_rig() -> Rig:
    rig = load_rig("commands-4")
    return rig.model_copy(update={"sensors": rig.sensors[:2]})


def test_every_message_of_a_real_step_is_counted(images_bundle: Path, images_rig: Rig) -> None:
    """Two nodes, then one of two rigs, then tcp: what was sent was received or is known to be lost."""
    rates = {"rgb": 50.0, "depth": 30.0}
    with Processes({"small": images_rig}, {"small": images_bundle}) as processes:
        apart = processes.step(2.0, rates, 0.5, hosted=(1, 1))
        together = processes.step(2.0, rates, 0.5, hosted=(2,), pinned=True)
        tcp = processes.step(1.0, rates, 0.5, transport="tcp")
    for step, rigs in ((apart, 2), (together, 2), (tcp, 1)):
        assert 0 < step.sent <= 41 * rigs
        assert step.sent == step.received + step.gaps + step.unseen
        assert step.unaccounted == 0
        assert step.refused == {}
        assert step.ticks > 0
        assert step.node_cpu_seconds > 0
        assert step.engine_cpu_seconds > 0
        assert 0 < step.windows + step.superseded <= step.received
    assert together.rows_per_call > 1, "windows of two rigs went to the engine together"
    assert apart.rows_per_call == 1


def test_a_process_that_cannot_start_says_why(images_rig: Rig, tmp_path: Path) -> None:
    with (
        Processes({"small": images_rig}, {"small": tmp_path}) as processes,
        pytest.raises(ProcessError, match=r"node_process ended; the last that it wrote: .*manifest"),
    ):
        processes.step(1.0, {"rgb": 10.0}, 0.1)


def test_the_whole_measurement_on_a_short_leash(images_bundle: Path, images_rig: Rig, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the VGA bundle is made with onnx, which is not installed")
    pytest.importorskip("matplotlib")
    from benchmarks.throughput.plot import draw_throughput

    effort = ThroughputEffort(
        step_s=0.2,
        rigs_step_s=0.3,
        cost_s=0.3,
        cost_times=(8.0,),
        first_hz=50.0,
        first_vga_hz=10.0,
        factor=1e6,  # one step each
        refinements=0,
        transports=("ipc",),
        vga=True,
        largest_nodes=1,
    )
    shares = []
    report = measure_throughput(images_bundle, images_rig, effort, lambda _what, share: shares.append(share))
    small = {(s["modality"], s["size"], s["transport"]) for s in report["single"]}
    assert small == {(m, size, "ipc") for m in ("rgb", "depth") for size in ("small", "vga")}
    assert report["single"][-2]["message_bytes"] == 480 * 640 * 3
    assert shares == sorted(shares)
    assert set(report["cpu_per_message"]) == {"rgb", "depth", "idle"}
    draw_throughput(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    console = Console(file=io.StringIO(), width=160)
    for table in throughput_tables(report):
        console.print(table)
    assert "until the first drop" in console.file.getvalue()
