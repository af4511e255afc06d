"""What it costs to tell of silence sooner where messages came evenly: false alarms against the share of the rule.

Gaps of a sensor that is never silent, delayed (half-normal, in order) and with messages lost, go through the node's own
:class:`~runtime.core.silence.SilenceLimit`; a gap beyond its limit is a false alarm.
Usage: python benchmarks/even_silence.py [--period-ms 33.33] [--messages 200000] [--seed 0]
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from runtime.core.silence import SilenceLimit
from runtime.rig import HealthPolicy

SHARES = (1.0, 0.9, 0.85, 0.8)
LOST = (0.0, 0.01, 0.05)
JITTERS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def false_alarms(gaps_ns: list[int], share: float, period_s: float) -> int:
    """How many of the gaps a limit calls silence."""
    health = HealthPolicy()
    most_ns = round(1e9 * max(health.silence_periods * period_s, health.silence_floor_s))
    limit, alarms = SilenceLimit(most_ns, round(most_ns * share), round(1e9 * period_s)), 0
    for gap_ns in gaps_ns:
        alarms += gap_ns > limit.ns
        limit.gap(gap_ns)
    return alarms


def main() -> None:
    """Print a row for each share of lost messages and jitter."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--period-ms", type=float, default=100 / 3)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, period_s = np.random.default_rng(args.seed), args.period_ms / 1000
    table = Table("lost", "jitter, share of a period", *(f"{share:.0%} of the rule" for share in SHARES))
    for lost in LOST:
        for jitter in JITTERS:
            captured = np.arange(args.messages) * period_s
            delay = np.abs(chance.normal(size=args.messages)) * jitter * period_s
            arrived = np.maximum.accumulate(captured + delay)[chance.random(args.messages) >= lost]
            gaps_ns = [round(gap) for gap in np.diff(arrived) * 1e9]
            alarms = (str(false_alarms(gaps_ns, share, period_s)) for share in SHARES)
            table.add_row(f"{lost:.0%}", f"{jitter:g}", *alarms)
    Console().print(table)


if __name__ == "__main__":
    main()
