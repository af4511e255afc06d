"""The demo's live terminal view: sensors, states, decision, truth and latency, redrawn in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

STATE_STYLES = {
    "live": "bold green",
    "late": "yellow",
    "missing": "bold white on grey37",
    "frozen": "bold white on blue",
    "corrupt": "bold white on red",
    "bad_clock": "bold white on dark_orange3",
    "implausible": "bold white on magenta",
    "waiting": "dim",
}


@dataclass(frozen=True)
class LiveState:
    """What the view shows of one moment of the run."""

    elapsed_s: float
    total_s: float
    fault: str
    states: Mapping[str, str]
    ages_ms: Mapping[str, float | None]
    imputed: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    label: str
    truth: str
    others: Mapping[str, str]
    frame_to_decision_ms: float
    ticks: int
    missed: int


def render(live: LiveState) -> RenderableType:
    """Lay one state out as a panel."""
    sensors = Table(box=None, pad_edge=False, expand=False)
    for heading in ("sensor", "state", "age", "used as"):
        sensors.add_column(heading, min_width=10)
    for name, state in live.states.items():
        age = live.ages_ms.get(name)
        used = Text("IMPUTED", "bold magenta") if name in live.imputed else Text("measured", "green")
        sensors.add_row(
            name,
            Text(f" {state} ", STATE_STYLES.get(state, "")),
            "–" if age is None else f"{age:6.0f} ms",
            used,
        )
    decision = Table(box=None, pad_edge=False, show_header=False)
    for name, p in zip(live.classes, live.probabilities, strict=True):
        chosen = name == live.label
        decision.add_row(
            Text(name, "bold" if chosen else "dim"), Text("█" * round(30 * p), "cyan"), f"{p:5.2f}"
        )
    right = live.label == live.truth
    verdict = Text.assemble(
        "decided ", (live.label, "bold green" if right else "bold red"), "   truth ", (live.truth, "bold"), "   ",
        *((f"{policy} {label}  ", "green" if label == live.truth else "red") for policy, label in live.others.items()),
    )  # fmt: skip
    foot = Text(
        f"{live.elapsed_s:5.1f} / {live.total_s:.0f} s   frame to decision {live.frame_to_decision_ms:.1f} ms   "
        f"ticks {live.ticks}   missed {live.missed}",
        "dim",
    )
    fault = Text(f"now: {live.fault}", "bold red" if live.fault != "all sensors healthy" else "dim")
    return Panel(
        Group(fault, Text(), sensors, Text(), decision, Text(), verdict, foot),
        title="afterimage demo",
        width=84,
    )
