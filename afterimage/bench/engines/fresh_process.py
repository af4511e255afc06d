"""What opening a model costs a fresh process: time until it is loaded and has decided once, and memory.

``python -m afterimage.bench.engines.fresh_process TASK`` is such a process; :func:`measure_fresh` starts some and reads
their figures.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.measuring.calls import golden_windows
from engines.measuring.process import BenchmarkProcess

if TYPE_CHECKING:
    from engines.session import Session

TIMEOUT_S = 600.0


def measure_fresh(task: Mapping[str, Any], repeats: int) -> dict[str, float]:
    """Start fresh processes one after another; the median of each figure.

    Args:
        task: ``bundle``, ``threads``, and either ``engine`` or ``checkpoint`` with ``compiled``.
        repeats: how many processes.

    Returns:
        ``import_s`` (libraries), ``load_s``, ``first_tick_s``, ``first_decision_s`` (from starting the process to its
        first decision), ``library_mib``, ``load_mib``, ``first_tick_mib`` (growth of resident memory by each step) and
        ``peak_mib``.

    Raises:
        ProcessError: a process failed or took too long.
    """
    runs = [_one(task) for _ in range(repeats)]
    return {key: round(float(np.median([r[key] for r in runs])), 4) for key in runs[0]}


def _one(task: Mapping[str, Any]) -> dict[str, float]:
    begin = time.time()
    with BenchmarkProcess.of_module(
        "afterimage.bench.engines.fresh_process", json.dumps(dict(task))
    ) as process:
        figures = process.answer(TIMEOUT_S)
    figures["first_decision_s"] = figures.pop("decided_at") - begin
    return figures


def _run(task: Mapping[str, Any]) -> dict[str, float]:
    """Open a model and decide once."""
    from engines.bundle import load_manifest

    bundle = Path(task["bundle"])
    start_mib, begin = _resident_mib(), time.perf_counter()
    if "engine" not in task:
        from trainers.torch_sessions import open_torch_session
    else:
        import onnxruntime  # noqa: F401

        from engines.opening import open_session
    imported, imported_mib = time.perf_counter(), _resident_mib()
    session: Session
    if "engine" in task:
        session = open_session(task["engine"], threads=task["threads"])
    else:
        session = open_torch_session(
            Path(task["checkpoint"]),
            load_manifest(bundle),
            compiled=task["compiled"],
            threads=task["threads"],
        )
    loaded, loaded_mib = time.perf_counter(), _resident_mib()
    names = session.manifest.modality_names
    windows = golden_windows(bundle, names, 1)
    prepared = time.perf_counter()
    session.tick(windows, {}, np.ones((1, len(names)), np.float32))
    decided = time.perf_counter()
    return {
        "import_s": imported - begin,
        "load_s": loaded - imported,
        "first_tick_s": decided - prepared,
        "library_mib": imported_mib - start_mib,
        "load_mib": loaded_mib - imported_mib,
        "first_tick_mib": _resident_mib() - loaded_mib,
        "peak_mib": _peak_mib(),
        "decided_at": time.time(),
    }


def _resident_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak_mib() -> float:
    """Largest resident memory of this process; not getrusage's, which begins with that of the parent."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    print(json.dumps(_run(json.loads(sys.argv[1]))))
