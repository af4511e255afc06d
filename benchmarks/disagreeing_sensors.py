"""How soon a healthy signal of something else is told, how long until it is believed again, and who is accused wrongly.

Every sensor of a rig in turn delivers what it saw a while ago as new (the fault ``stale``): no content check can tell.
Moments of a source play through the node's own pipeline and engine on a virtual clock, faster than in real time.
Usage: python benchmarks/disagreeing_sensors.py BUNDLE [--data recorded|synthetic] [--odds 1e6] [--seeds 3] [--json F]
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from engines.opening import open_session
from engines.session import Session
from runtime.record.replayer import replay_freely
from runtime.rig import Rig, load_rig
from runtime.signals.faults import Fault, FaultSchedule
from runtime.signals.moments import MomentSource
from runtime.signals.opening import open_source
from runtime.signals.playback import Playback, plan_for
from runtime.wire import HealthEvent, JournalEntry, encode_frame

START_NS = 10**13
ON_THE_WAY_NS = 1_000_000


def frames(rig: Rig, source: MomentSource, seconds: float, seed: int) -> Iterator[JournalEntry]:
    """What a recording of the playing sensors would hold."""
    settings = {"rig": rig.model_dump(mode="json"), "start_ns": START_NS, "compare": []}
    yield JournalEntry("begin", 0, START_NS, settings=settings)
    plan = plan_for(source, "test", seed)
    playing = {m: Playback(source, m, plan) for m in rig.modality_names}
    due = [(p.elapsed_ns(0), m, 0) for m, p in playing.items()]
    heapq.heapify(due)
    order = 1
    while due[0][0] <= seconds * 1e9:
        elapsed_ns, modality, index = heapq.heappop(due)
        captured_ns = START_NS + elapsed_ns
        parts = encode_frame(
            rig.name,
            modality,
            index,
            playing[modality].read(index).samples,
            capture_ns=captured_ns,
            unit=rig.sensor(modality).unit,
        )
        yield JournalEntry(
            "frame", order, captured_ns + ON_THE_WAY_NS, index, modality, parts=tuple(bytes(p) for p in parts)
        )
        order += 1
        heapq.heappush(due, (playing[modality].elapsed_ns(index + 1), modality, index + 1))


def play(
    rig: Rig, source: MomentSource, session: Session, stale: str | None, args: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """One run; times in seconds from the fault's beginning, and from its end."""
    begin_s, end_s = args.before, args.before + args.fault
    faults = FaultSchedule()
    if stale is not None:
        faults = FaultSchedule(
            faults=(Fault(kind="stale", modalities=(stale,), start_s=begin_s, end_s=end_s),)
        )
    total_s = end_s + args.after
    events: list[tuple[float, HealthEvent]] = []
    for replayed in replay_freely(frames(rig, source, total_s, seed), session, faults=faults):
        events += [((e.at_ns - START_NS) / 1e9, e) for e in replayed.events]
    told = [(at, e.modality) for at, e in events if e.state == "implausible"]
    back = [at for at, e in events if e.modality == stale and e.previous == "implausible" and at > end_s]
    rightly = [at for at, m in told if m == stale and begin_s < at <= end_s]
    return {
        "stale": stale,
        "seed": seed,
        "seconds": total_s,
        "told_s": rightly[0] - begin_s if rightly else None,
        "back_s": back[0] - end_s if back and rightly else None,
        # After the fault too the sum may still say so, of what was heard during it.
        "wrongly": [[round(at, 1), m] for at, m in told if not (m == stale and at > begin_s)],
    }


def main() -> None:
    """Play, and print one line for each sensor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rig", default="commands-4")
    parser.add_argument("--data", default="synthetic", choices=("recorded", "synthetic"))
    parser.add_argument("--odds", type=float, default=1e6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--before", type=float, default=30, help="seconds without a fault")
    parser.add_argument("--fault", type=float, default=180, help="seconds of it")
    parser.add_argument("--after", type=float, default=120, help="seconds after it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    plain = load_rig(args.rig)
    rig = plain.model_copy(update={"health": plain.health.model_copy(update={"implausible_odds": args.odds})})
    source = open_source(args.data)
    wanted = [(m, seed) for m in (None, *rig.modality_names) for seed in range(args.seeds)]
    with open_session(args.bundle) as session:
        runs = [
            play(rig, source, session, m, args, seed)
            for m, seed in track(wanted, console=Console(stderr=True))
        ]
    table = Table("stale sensor", "told after, s", "believed again after, s", "others accused")
    for modality in (None, *rig.modality_names):
        of_it = [r for r in runs if r["stale"] == modality]
        table.add_row(
            modality or "none",
            ", ".join("never" if r["told_s"] is None else f"{r['told_s']:.0f}" for r in of_it),
            ", ".join("never" if r["back_s"] is None else f"{r['back_s']:.0f}" for r in of_it),
            f"{sum(len(r['wrongly']) for r in of_it)} in {sum(r['seconds'] for r in of_it) / 60:.0f} min",
        )
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps({"odds": args.odds, "data": args.data, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
