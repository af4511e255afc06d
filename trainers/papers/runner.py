"""Running a protocol: every arm with every seed is a cell; finished cells are kept, so a run can go on in slices."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.papers.protocol import Budget, Cell, Metrics, Protocol, ProtocolError, Report
from trainers.papers.registry import find_protocol
from trainers.papers.tables import markdown_table

CellReport = Callable[[str, int, str, int, int], None]
"""Called while cells run: arm, seed, what is being done, steps done, steps planned (0 of 0 when a cell is done)."""


@dataclass(frozen=True)
class ProtocolRun:
    """What was asked of a protocol, and every cell that answers it."""

    protocol: Protocol
    budget: Budget
    seeds: int
    cells: tuple[Cell, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-serialisable: settings, machine, cells, and the paper's own numbers."""
        return {
            "protocol": self.protocol.name,
            "title": self.protocol.title,
            "reference": self.protocol.reference,
            "budget": self.budget,
            "seeds": self.seeds,
            "machine": machine(),
            "cells": [asdict(cell) for cell in self.cells],
            "published": {row: dict(values) for row, values in self.protocol.published.items()},
        }


def run_protocol(
    name: str,
    budget: Budget,
    data: Path,
    out: Path,
    *,
    seeds: int = 1,
    jobs: int = 1,
    arms: Sequence[str] | None = None,
    report: CellReport | None = None,
) -> ProtocolRun:
    """Run a protocol and write ``results.json``, ``results.md`` and the figures into ``out``.

    Args:
        name: of the protocol.
        budget: smoke, small or full.
        data: folder of the recorded packs.
        out: of the run. Cells that an earlier run with the same budget finished are not run again, and an
            interrupted one goes on from its checkpoint.
        seeds: seeds 0 .. seeds - 1.
        jobs: cells at a time, each in a process of its own; 1 runs them here.
        arms: only these; all by default.
        report: progress.

    Raises:
        ProtocolError: an unknown protocol or arm, no seed, or a folder of another protocol or budget.
        PackError, TrainingError: see :meth:`Protocol.run`.
    """
    protocol = find_protocol(name)
    wanted = _checked_arms(protocol, budget, arms)
    if seeds < 1 or jobs < 1:
        raise ProtocolError(f"expected at least one seed and one job, got {seeds} and {jobs}")
    _claim(out, protocol, budget)
    asked = [(arm, seed) for seed in range(seeds) for arm in wanted]
    todo = [(arm, seed) for arm, seed in asked if not (_folder(out, arm, seed) / "cell.json").exists()]
    if jobs == 1 or len(todo) < 2:
        for arm, seed in todo:
            run_cell(name, arm, seed, budget, data, _folder(out, arm, seed), _reporter(arm, seed, report))
            _done(arm, seed, report)
    else:
        _run_in_processes(name, todo, budget, data, out, jobs, report)
    run = ProtocolRun(protocol, budget, seeds, tuple(_read_cell(_folder(out, *cell)) for cell in asked))
    (out / "results.json").write_text(json.dumps(run.as_json(), indent=1) + "\n")
    pictures = protocol.figures(run.cells, out)
    (out / "results.md").write_text(markdown_table(protocol, run.cells, budget, machine(), pictures))
    return run


def run_cell(
    name: str, arm: str, seed: int, budget: Budget, data: Path, folder: Path, report: Report | None = None
) -> Cell:
    """Train and measure one cell and write its ``cell.json``, last of all, so that it marks what is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    metrics: Metrics = find_protocol(name).run(
        arm, seed, budget, data, folder, report or (lambda what, done, of: None)
    )
    cell = Cell(
        arm, seed, {k: round(float(v), 4) for k, v in metrics.items()}, round(time.monotonic() - begin, 1)
    )
    partial = folder / "cell.json.partial"
    partial.write_text(json.dumps(asdict(cell), indent=1) + "\n")
    partial.replace(folder / "cell.json")
    return cell


def machine() -> dict[str, Any]:
    """What this ran on: processor, cores, libraries."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _run_in_processes(
    name: str,
    todo: Sequence[tuple[str, int]],
    budget: Budget,
    data: Path,
    out: Path,
    jobs: int,
    report: CellReport | None,
) -> None:
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(jobs, context) as pool:
        waiting: dict[Future[Cell], tuple[str, int]] = {
            pool.submit(run_cell, name, arm, seed, budget, data, _folder(out, arm, seed)): (arm, seed)
            for arm, seed in todo
        }
        try:
            for finished in as_completed(waiting):
                finished.result()
                _done(*waiting[finished], report)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children start with one OpenMP thread: threads of several processes on the same cores wait for each other."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _checked_arms(protocol: Protocol, budget: Budget, arms: Sequence[str] | None) -> tuple[str, ...]:
    known = protocol.arms(budget)
    unknown = sorted(set(arms or ()) - set(known))
    if unknown:
        raise ProtocolError(f"protocol {protocol.name!r} has no arms {unknown}; there are {list(known)}")
    return tuple(arm for arm in known if arms is None or arm in arms)


def _claim(out: Path, protocol: Protocol, budget: Budget) -> None:
    """Mark the folder as this protocol's at this budget, or refuse one that is another's."""
    mine = {"protocol": protocol.name, "budget": budget}
    mark = out / "run.json"
    if mark.exists():
        theirs = json.loads(mark.read_text())
        if theirs != mine:
            raise ProtocolError(f"{out} holds a run of {theirs}, asked for {mine}; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(mine) + "\n")


def _folder(out: Path, arm: str, seed: int) -> Path:
    return out / "cells" / arm.replace("/", "-").replace(" ", "-") / str(seed)


def _read_cell(folder: Path) -> Cell:
    return Cell(**json.loads((folder / "cell.json").read_text()))


def _reporter(arm: str, seed: int, report: CellReport | None) -> Report | None:
    if report is None:
        return None

    def on_step(what: str, done: int, of: int) -> None:
        report(arm, seed, what, done, of)

    return on_step


def _done(arm: str, seed: int, report: CellReport | None) -> None:
    if report is not None:
        report(arm, seed, "done", 0, 0)
