"""The latency benchmark from end to end: Afterimage's own path beside peers, then every sensor at its full rate."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from afterimage.bench.latency import report as own
from afterimage.bench.latency.measurement import FLOOR, OWN_PATH, measure_case
from benchmarks.latency.full_rate import measure_full_rate
from benchmarks.peers.playing import PEERS, absence, play_turn
from benchmarks.vga_bundle import make_vga_bundle, vga_rig
from runtime.rig import Rig

PLAIN = "plain"
MIDDLES = OWN_PATH | {PLAIN: "benchmarks.peers.pyzmq_loop"}
CONTENDERS = (
    own.CONTENDERS | {PLAIN: "a plain pyzmq loop"} | {name: peer.title for name, peer in PEERS.items()}
)
COMPARED_WITH = (FLOOR, *PEERS, PLAIN)


def measure_latency(
    bundle: Path, rig: Rig, *, quick: bool = False, say: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Measure all of it.

    Args:
        bundle: of commands-4.
        rig: that feeds it.
        quick: one modality, few turns, and a short time at full rate.
        say: told what is being measured.

    Returns:
        As :func:`afterimage.bench.latency.report.measure_latency`, and ``peers`` (peer -> its figures, or ``absent``:
        why it did not take part) and ``full_rate``: every sensor at once, with images of 640 x 480.

    Raises:
        ProcessError: a process of the benchmark failed.
        PeerError: a peer failed.
    """
    absent = {name: why for name in PEERS if (why := absence(name)) is not None}

    def measure(bundle: Path, rig: Rig, modality: str, rounds: int, **options: Any) -> dict[str, Any]:
        present = {name: peer for name, peer in PEERS.items() if name not in absent}
        peers = {name: partial(play_turn, peer, bundle, rig, modality) for name, peer in present.items()}
        return measure_case(bundle, rig, modality, rounds, middles=MIDDLES, peers=peers, **options)

    report = own.measure_latency(
        bundle, rig, quick=quick, measure=measure, compared_with=COMPARED_WITH, say=say
    )
    headline = report["modalities"][own.HEADLINE]
    report["peers"] = {n: {"absent": absent[n]} if n in absent else headline[n] for n in (*PEERS, PLAIN)}
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        say("every sensor at its full rate, images of 640 x 480")
        make_vga_bundle(bundle, Path(folder) / "vga")
        report["full_rate"] = measure_full_rate(Path(folder) / "vga", vga_rig(rig), 5.0 if quick else 20.0)
    return report


def latency_summary(report: Mapping[str, Any]) -> str:
    """What the table does not show, in words."""
    full = report["full_rate"]
    lateness, also = full["tick_lateness_ms"], full["imputed_at_client_ms"]
    cores = ", ".join(f"{name} {full['cores'][name]:.2f}" for name in ("node", "sensors", "client"))
    absent = {CONTENDERS[n]: p["absent"] for n, p in report["peers"].items() if "absent" in p}
    lines = [
        own.latency_summary(report) + f", at full rate {full['tick_overhead_us']['p50']:.0f} us",
        f"full rate, 640 x 480: {full['lost']} of {full['received']} messages lost, {full['unaccounted']} unaccounted "
        f"for, {full['missed_ticks']} of {full['ticks']} ticks missed; decisions {lateness['p50']:.2f} ms (p50), "
        f"{lateness['p99']:.2f} ms (p99) after their deadline, imputed {also['modality']} "
        f"{also['p50']:.2f} ms, {also['p99']:.2f} ms at the client; {full['cores']['all']:.2f} cores in all ({cores})",
        *(f"{name} did not take part: {why}" for name, why in absent.items()),
    ]
    return "\n".join(lines)
