"""The measurement behind ``afterimage bench engines``: graphs and whole ticks on every contender, in one run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afterimage.bench.engines.contenders import PYTORCH, REFERENCE, Contender, Field
from afterimage.bench.engines.fresh_process import measure_fresh
from engines.bundle import graph_names, load_manifest
from engines.errors import EngineError
from engines.measuring.calls import TICK, KnownOutputs, session_calls
from engines.measuring.failover import measure_failover
from engines.measuring.interleaving import Call, Say, interleave, paired_ratio
from engines.measuring.machine import describe_machine
from engines.measuring.process import ProcessError
from engines.session import Session


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        batches: rows at a time.
        seconds: per batch size.
        rounds: of blocks per batch size, at least and at most.
        failover_rounds: of ten calls of every missing pattern.
        fresh_processes: per contender.
    """

    batches: tuple[int, ...] = (1, 8, 32, 128)
    seconds: float = 20.0
    rounds: tuple[int, int] = (7, 150)
    failover_rounds: int = 300
    fresh_processes: int = 3


QUICK = Effort(batches=(1, 8), seconds=1.0, rounds=(5, 20), failover_rounds=10, fresh_processes=1)


def measure_engines(
    bundle: Path, checkpoint: Path | None, field: Field, effort: Effort, *, threads: int, say: Say
) -> dict[str, Any]:
    """Measure every contender; one that cannot run the bundle after all is moved to the absent.

    Args:
        bundle: the bundle's folder.
        checkpoint: what it was exported from, where PyTorch takes part.
        field: what takes part; its sessions are used, not closed.
        effort: how much is measured.
        threads: that the contenders were opened with.
        say: for a progress bar.

    Returns:
        The report without ratios and floors; see :mod:`afterimage.bench.engines.report`. Figures are those of
        :meth:`~engines.measuring.interleaving.Timings.summary`, and ``over_reference``: how many times as long as on
        the CPU engine, round by round.
    """
    manifest = load_manifest(bundle)
    begin = time.monotonic()
    _warm_up(bundle, field, effort.batches, say)
    names = [c.name for c in field.present]
    tick: dict[str, Any] = {n: {} for n in names}
    graphs: dict[str, Any] = {g: {n: {} for n in names} for g in graph_names(manifest)}
    overhead: dict[str, Any] = {}
    for done, batch in enumerate(effort.batches):
        share = 0.3 + 0.4 * done / len(effort.batches)

        def advance(part: float, share: float = share, batch: int = batch) -> None:
            say(f"batch {batch}", share + 0.4 * part / len(effort.batches))

        cases = _cases(bundle, field.present, batch)
        timed = interleave(cases, seconds=effort.seconds, rounds=effort.rounds, seed=batch, advance=advance)
        for (name, graph), timings in timed.items():
            figures = timings.summary(rows=batch)
            figures["over_reference"] = paired_ratio(timings, timed[REFERENCE, graph])
            if name == "session":
                overhead[str(batch)] = figures
            elif graph == TICK:
                tick[name][str(batch)] = figures
            else:
                graphs[graph][name][str(batch)] = figures
    failover = _failover(bundle, field.present, effort, say)
    fresh = _fresh(bundle, checkpoint, field, effort, threads, say)
    return {
        "bundle": {"name": manifest.name, "hash": manifest.hash, "data": manifest.data},
        "threads": threads,
        "seconds": round(time.monotonic() - begin, 1),
        "tick": tick,
        "graphs": graphs,
        "session_overhead": overhead,
        "failover": failover,
        "fresh_process": fresh,
        "contenders": {
            c.name: {"device": c.device, "precision": c.precision, "parity": c.parity} for c in field.present
        },
        "absent": dict(field.absent),
        "machine": describe_machine(),
    }


def _warm_up(bundle: Path, field: Field, batches: Sequence[int], say: Say) -> None:
    """Run every case once at each batch, so that PyTorch compiles it; a contender that fails is taken out."""
    kept = []
    for done, contender in enumerate(field.present):
        try:
            for batch in batches:
                for (name, graph), call in _cases(bundle, [contender], batch).items():
                    say(f"warming up {name}: {graph}", 0.3 * done / len(field.present))
                    call()
            kept.append(contender)
        except EngineError as e:
            contender.session.close()
            field.absent[contender.name] = str(e)
            if contender.name == REFERENCE:
                raise
    field.present[:] = kept


def _cases(bundle: Path, contenders: Sequence[Contender], batch: int) -> dict[tuple[str, str], Call]:
    """(contender, graph or ``tick``) -> a call on golden windows; and ``session``: a tick whose graphs cost nothing."""
    cases: dict[tuple[str, str], Call] = {}
    for contender in contenders:
        limit = contender.session.maximum_batch
        if limit is not None and batch > limit:
            continue
        for graph, call in session_calls(bundle, contender.session, batch).items():
            cases[contender.name, graph] = call
    if contenders and contenders[0].name == REFERENCE:
        session = Session(contenders[0].session.manifest, KnownOutputs(bundle, contenders[0].session, batch))
        cases["session", TICK] = session_calls(bundle, session, batch, tick_only=True)[TICK]
    return cases


def _failover(bundle: Path, contenders: Sequence[Contender], effort: Effort, say: Say) -> dict[str, Any]:
    """Missing patterns on the reference, and on everything that runs on a GPU."""
    chosen = [c for c in contenders if c.name == REFERENCE or c.device == "gpu"]
    found = {}
    for done, contender in enumerate(chosen):

        def advance(part: float, done: int = done, name: str = contender.name) -> None:
            say(f"missing patterns on {name}", 0.7 + 0.15 * (done + part) / len(chosen))

        found[contender.name] = measure_failover(
            contender.session, bundle, rounds=effort.failover_rounds, advance=advance
        )
    return found


def _fresh(
    bundle: Path, checkpoint: Path | None, field: Field, effort: Effort, threads: int, say: Say
) -> dict[str, Any]:
    """Load time, memory and time to the first decision, each in processes of their own."""
    found: dict[str, Any] = {}
    for done, contender in enumerate(field.present):
        say(f"a fresh process with {contender.name}", 0.85 + 0.15 * done / len(field.present))
        task: dict[str, Any] = {"bundle": str(bundle), "threads": threads}
        if contender.name in PYTORCH:
            task |= {"checkpoint": str(checkpoint), "compiled": contender.name == "pytorch-compiled"}
        else:
            task |= {"engine": str(contender.engine)}
        compiled = contender.name == "pytorch-compiled"
        try:
            found[contender.name] = measure_fresh(task, 1 if compiled else effort.fresh_processes)
        except ProcessError as e:
            found[contender.name] = {"error": str(e)}
    return found
