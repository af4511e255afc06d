"""The peers of the latency benchmark: which there are, whether one can take part here, and how one plays a turn."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.peers import dora_nodes
from benchmarks.peers.job import PeerSpec
from configs.errors import AfterimageError
from engines.measuring.process import BenchmarkProcess
from runtime.rig import Rig

STARTING_S = 60.0
"""A peer may take this much longer than its turn, for its processes to start and to end."""


class PeerError(AfterimageError):
    """A peer that failed, took too long or measured nothing; the message has the end of what it wrote."""


def _start_ezmsg(spec: PeerSpec, folder: Path) -> BenchmarkProcess:
    command = [sys.executable, "-m", "benchmarks.peers.ezmsg_units", spec.model_dump_json()]
    return BenchmarkProcess(command, talks=False)


def _start_dora(spec: PeerSpec, folder: Path) -> BenchmarkProcess:
    command = dora_nodes.prepare(spec, folder)
    environment = dora_nodes.environment(os.environ, folder)
    return BenchmarkProcess(command, talks=False, environment=environment, folder=folder)


def _dora_obstacle() -> str | None:
    """Why dora's command cannot be used although the packages are there."""
    if dora_nodes.executable() is None:
        return "dora-rs-cli is installed, but its command dora was not found"
    node, command = version("dora-rs"), version("dora-rs-cli")
    if node != command:
        return f"dora-rs {node} and dora-rs-cli {command} must have the same version"
    return None


@dataclass(frozen=True)
class Peer:
    """A runtime that Afterimage is compared with.

    Attributes:
        title: for people.
        needs: distributions that have to be installed.
        start: starts its processes for a turn, given an empty folder to write to; they end by themselves.
        obstacle: why it cannot take part although the distributions are there, or None.
    """

    title: str
    needs: tuple[str, ...]
    start: Callable[[PeerSpec, Path], BenchmarkProcess]
    obstacle: Callable[[], str | None] = lambda: None


PEERS = {
    "ezmsg": Peer("ezmsg", ("ezmsg",), _start_ezmsg),
    "dora": Peer("dora-rs", ("dora-rs", "dora-rs-cli"), _start_dora, _dora_obstacle),
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
    peer: Peer, bundle: Path, rig: Rig, modality: str, skip_s: float, counted_s: float, folder: Path
) -> list[float]:
    """Let a peer play one turn; whatever happens, none of its processes is left.

    Args:
        peer: the runtime.
        bundle: of the engine.
        rig: that feeds it.
        modality: the sensor that plays.
        skip_s: seconds at the beginning that do not count.
        counted_s: seconds that count.
        folder: the peer writes only to a temporary folder in it.

    Returns:
        Seconds from a message's publication to its decision's arrival.

    Raises:
        PeerError: it failed, took too long or measured nothing.
    """
    with tempfile.TemporaryDirectory(prefix="peer-", dir=folder) as own:
        result = Path(own) / "latencies.json"
        spec = PeerSpec(
            bundle=str(bundle.absolute()),
            rig=rig,
            modality=modality,
            skip_s=skip_s,
            seconds=counted_s,
            result=str(result),
        )
        with peer.start(spec, Path(own)) as process:
            code = process.wait(skip_s + counted_s + STARTING_S)
            if code != 0 or not result.is_file():
                how = "took too long" if code is None else f"ended with {code}"
                raise PeerError(f"the {peer.title} peer {how}; the last that it wrote: {process.written}")
        took_ns: list[int] = json.loads(result.read_text())
        if not took_ns:
            raise PeerError(f"no decision of the {peer.title} peer arrived in the time that counts")
    return [ns / 1e9 for ns in took_ns]
