"""Whether a decision takes the same time whatever is missing: fuse under every pattern, turn by turn.

Even one pattern, measured several times over, gives several 99th percentiles. How far those lie apart is the null
spread: a difference between patterns means something only if it is larger.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engines.bundle import pattern_key, presence_patterns
from engines.measuring.calls import golden_windows
from engines.measuring.interleaving import Call, interleave
from engines.session import Session

CALLS_PER_BLOCK = 10


def measure_failover(
    session: Session, bundle: Path, *, rounds: int, advance: Callable[[float], None] = lambda share: None
) -> dict[str, Any]:
    """Time ``fuse`` and the tick under every missing pattern but the empty one, a row at a time.

    Args:
        session: of the bundle.
        bundle: for its golden windows.
        rounds: of ten calls with each pattern.
        advance: told which share is done.

    Returns:
        ``fuse``: pattern -> figures; ``null``: as many measurements of the full pattern -> figures; ``spread`` and
        ``null_spread``: the largest p99 of each over the p99 of all calls with the full pattern, less 1;
        ``tick``: pattern -> figures of a tick that encodes what is present and fuses.
    """
    names = session.manifest.modality_names
    windows = golden_windows(bundle, names, 1)
    evidence = {n: session.encode(n, w) for n, w in windows.items()}
    patterns = {pattern_key(names, p): np.array([p], np.float32) for p in presence_patterns(len(names))}
    full = "+".join(names)
    fuse: dict[tuple[str, str], Call] = {}
    ticks: dict[str, Call] = {}
    for key, mask in patterns.items():
        fuse["fuse", key] = partial(session.fuse, evidence, mask)
        fuse["null", key] = partial(session.fuse, evidence, patterns[full])
        ticks[key] = partial(session.tick, {n: windows[n] for n in key.split("+")}, {}, mask)
    timed = interleave(
        fuse,
        seconds=float("inf"),
        rounds=(rounds, rounds),
        block=CALLS_PER_BLOCK,
        advance=lambda share: advance(0.7 * share),
    )
    ticked = interleave(
        ticks,
        seconds=float("inf"),
        rounds=(max(rounds // 10, 2), max(rounds // 10, 2)),
        block=CALLS_PER_BLOCK,
        advance=lambda share: advance(0.7 + 0.3 * share),
    )
    streams: dict[str, dict[str, dict[str, float]]] = {"fuse": {}, "null": {}}
    for (kind, key), timings in timed.items():
        streams[kind][key] = timings.summary()
    same = [s for (kind, key), of in timed.items() if kind == "null" or key == full for s in of.all]
    p99_us = 1e6 * float(np.percentile(same, 99))
    return {
        "full_p99_us": round(p99_us, 2),
        "spread": round(max(f["p99_us"] for f in streams["fuse"].values()) / p99_us - 1, 4),
        "null_spread": round(max(f["p99_us"] for f in streams["null"].values()) / p99_us - 1, 4),
        "fuse": streams["fuse"],
        "null": list(streams["null"].values()),
        "tick": {key: timings.summary() for key, timings in ticked.items()},
    }
