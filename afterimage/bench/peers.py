"""The peers of the latency benchmark: which there are, whether they can be had here, and how one plays a turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from afterimage.bench import peer_dora
from afterimage.bench.peer_job import PeerSpec
from runtime.rig import Rig

STARTING_S = 60.0
"""A peer may take this much longer than its turn, for its processes to start and to end."""

STOPPING_S = 15.0
"""A peer that is told to stop has this long; then its processes are killed."""


@dataclass(frozen=True)
class Start:
    """How a turn is started.

    Attributes:
        command: that plays it and ends.
        environment: it runs in.
        folder: it runs in; None for this process's own.
    """

    command: list[str]
    environment: dict[str, str]
    folder: Path | None = None


def _start_ezmsg(spec: PeerSpec, folder: Path) -> Start:
    command = [sys.executable, "-m", "afterimage.bench.peer_ezmsg", spec.model_dump_json()]
    return Start(command, dict(os.environ))


def _start_dora(spec: PeerSpec, folder: Path) -> Start:
    return Start(peer_dora.prepare(spec, folder), peer_dora.environment(os.environ, folder), folder)


def _no_dora_command() -> str | None:
    """Why the command cannot be used although the packages are there."""
    if peer_dora.executable() is None:
        return "dora-rs-cli is installed, but its command dora is not to be found"
    node, command = version("dora-rs"), version("dora-rs-cli")
    if node != command:
        return f"dora-rs {node} and dora-rs-cli {command} have to be of one version"
    return None


@dataclass(frozen=True)
class Peer:
    """A runtime that Afterimage is held against.

    Attributes:
        needs: distributions that have to be installed.
        start: how it plays a turn, given an empty folder to write to.
        obstacle: why it cannot although they are, or None.
    """

    needs: tuple[str, ...]
    start: Callable[[PeerSpec, Path], Start]
    obstacle: Callable[[], str | None] = lambda: None


PEERS = {
    "ezmsg": Peer(("ezmsg",), _start_ezmsg),
    "dora": Peer(("dora-rs", "dora-rs-cli"), _start_dora, _no_dora_command),
}


def absence(name: str) -> str | None:
    """Why a peer cannot take part here; None if it can.

    Args:
        name: of :data:`PEERS`.
    """
    peer = PEERS[name]
    missing = [package for package in peer.needs if not _installed(package)]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        return f"{' and '.join(missing)} {are} not installed; run: pip install 'afterimage[bench]'"
    return peer.obstacle()


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def play_turn(
    name: str, bundle: Path, rig: Rig, modality: str, skip_s: float, counted_s: float, folder: Path
) -> list[float]:
    """Let a peer play one turn; whatever happens, none of its processes is left.

    Args:
        name: of :data:`PEERS`.
        bundle: of the engine.
        rig: that feeds it.
        modality: the sensor that plays.
        skip_s: seconds at the beginning that do not count.
        counted_s: seconds that count.
        folder: that a temporary one is made in, for all that the peer writes.

    Returns:
        Microseconds from a message's publication to its decision's arrival.

    Raises:
        RuntimeError: it failed, took too long or measured nothing; with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as own:
        result, log = Path(own) / "latencies.json", Path(own) / "said.txt"
        spec = PeerSpec(
            bundle=str(bundle.absolute()),
            rig=rig,
            modality=modality,
            skip_s=skip_s,
            seconds=counted_s,
            result=str(result),
        )
        code = _run(PEERS[name].start(spec, Path(own)), log, skip_s + counted_s + STARTING_S)
        if code != 0 or not result.is_file():
            how = "took too long" if code is None else f"ended with {code}"
            said = log.read_text(errors="replace").strip()[-1500:]
            raise RuntimeError(f"the {name} peer {how}: {said}")
        took: list[int] = json.loads(result.read_text())
        if not took:
            raise RuntimeError(f"no decision of the {name} peer arrived in the time that counts")
    return [ns / 1e3 for ns in took]


def _run(start: Start, log: Path, limit_s: float) -> int | None:
    """Run a command to its end; gives its status, None if it did not end by itself in time."""
    with log.open("wb") as said:
        process = subprocess.Popen(
            start.command,
            cwd=start.folder,
            env=start.environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the peer in order
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a command, in order if it lets itself, and with it everything in its session."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: ezmsg waits for all of its processes
            process.wait(STOPPING_S)
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        left = [p for pid in psutil.pids() if (p := _of_session(pid, process.pid)) is not None]
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left, timeout=STOPPING_S)
        process.wait()


def _of_session(pid: int, session: int) -> psutil.Process | None:
    """The process if it is of a session."""
    try:
        return psutil.Process(pid) if os.getsid(pid) == session else None
    except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return None
