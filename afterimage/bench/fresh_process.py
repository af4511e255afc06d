"""What opening a model costs a fresh process: time until it is loaded and has decided once, and memory.

``python -m afterimage.bench.fresh_process`` is such a process; :func:`measure_fresh` starts some and reads what they
say.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
        RuntimeError: the process failed; with the last line it said.
    """
    runs = [_one(task) for _ in range(repeats)]
    return {key: round(float(np.median([r[key] for r in runs])), 4) for key in runs[0]}


def _one(task: Mapping[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "afterimage.bench.fresh_process"]
    begin = time.time()
    try:
        done = subprocess.run(
            command, input=json.dumps(dict(task)), capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as e:
        raise RuntimeError(f"a fresh process took more than {TIMEOUT_S:.0f} s") from e
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"a fresh process failed: {lines[-1][:300]}")
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    said["first_decision_s"] = said.pop("decided_at") - begin
    return said


def golden_windows(bundle: Path, names: Sequence[str], rows: int) -> dict[str, Any]:
    """Raw windows of the bundle's golden values, repeated to so many rows."""
    with np.load(bundle / "golden.npz") as golden:
        found = {n: golden[f"window_{n}"] for n in names}
    return {n: np.ascontiguousarray(w[np.arange(rows) % len(w)]) for n, w in found.items()}


def _run(task: Mapping[str, Any]) -> dict[str, float]:
    """Open a model and decide once."""
    from engines.bundle import load_manifest

    bundle = Path(task["bundle"])
    start_mib, begin = _resident_mib(), time.perf_counter()
    if "engine" not in task:
        from afterimage.bench.torch_runners import open_torch_session
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
    print(json.dumps(_run(json.load(sys.stdin))))
