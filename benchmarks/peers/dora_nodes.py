"""The same job on dora-rs, as its users write it: a dataflow of a sensor node, a node that encodes and fuses, a client.

Each node has a process of its own, as the sensor, the node and the client of Afterimage have; a daemon starts them and
runs the sensor's timer. ``dora run`` plays one turn: it is daemon and command in one, without a coordinator, listens
only on free ports of this machine, and ends when its nodes do. ``python -m benchmarks.peers.dora_nodes ROLE SPEC`` is
one of the nodes, with SPEC the file of a :class:`~benchmarks.peers.job.PeerSpec`.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from afterimage.bench.latency.sender import playable_messages
from benchmarks.peers.job import Decider, PeerSpec, write_latencies

SPARE_S = 40.0
"""If nobody else stops the nodes, the daemon does so this long after the end of the turn."""

_FOREIGN = ("DORA_", "OTEL_", "ZENOH_")


def executable() -> str | None:
    """The ``dora`` command of this Python's environment, else the one on the path; None if there is none."""
    return shutil.which("dora", path=sysconfig.get_path("scripts")) or shutil.which("dora")


def dataflow(spec: PeerSpec, spec_file: Path) -> dict[str, Any]:
    """The dataflow of a turn, as dora reads it from YAML.

    Args:
        spec: the turn.
        spec_file: where its nodes read it.
    """

    def node(role: str, **edges: Any) -> dict[str, Any]:
        return {
            "id": role,
            "path": sys.executable,
            "args": f"-m benchmarks.peers.dora_nodes {role} {spec_file.name}",
            **edges,
        }

    return {
        "nodes": [
            node("sensor", inputs={"tick": f"dora/timer/hz/{1 / spec.period_s:g}"}, outputs=["samples"]),
            node("fusion", inputs={"samples": "sensor/samples"}, outputs=["decision"]),
            node("client", inputs={"decision": "fusion/decision"}),
        ]
    }


def prepare(spec: PeerSpec, folder: Path) -> list[str]:
    """Write a turn's files; returns the command that plays it, to be run in that folder.

    Args:
        spec: the turn.
        folder: an empty one, for the dataflow and for what dora writes beside it (``out``, logs).
    """
    spec_file, flow = folder / "turn.json", folder / "dataflow.yml"
    spec_file.write_text(spec.model_dump_json())
    flow.write_text(yaml.safe_dump(dataflow(spec, spec_file)))
    seconds = spec.skip_s + spec.seconds + SPARE_S
    return [executable() or "dora", "run", "--stop-after", f"{seconds:.0f}", flow.name]


def environment(inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment of a turn: dora sends no traces, uses no multicast, and writes only to the turn's folder.

    Args:
        inherited: of this process. Variables of dora, its transport and its tracing are left out: dora sends traces
            and metrics only where such a variable tells it to.
        folder: of the turn.
    """
    own = {name: value for name, value in inherited.items() if not name.startswith(_FOREIGN)}
    # Nodes run in the turn's folder, from where this package is not found otherwise.
    root = str(Path(__file__).parents[2])
    return own | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, inherited.get("PYTHONPATH")))),
        "DORA_ZENOH_MULTICAST": "off",  # runs on one network must not find each other
        # dora asks uv for an interpreter before it starts any node
        "UV_CACHE_DIR": str(folder / "uv"),
        "UV_OFFLINE": "1",
        "RUST_BACKTRACE": "0",  # the last lines should say what failed, not list frames of the interpreter
    }


def sensor(spec: PeerSpec) -> None:
    """The node that publishes messages, one on every tick of its timer."""
    import pyarrow as pa
    from dora import Node

    pool = playable_messages(spec.rig, spec.modality)
    node = Node()
    sent = 0
    for event in node:
        if event["type"] == "STOP":
            return
        if event["type"] != "INPUT":
            continue
        samples = pool[sent % len(pool)]
        published = {"published_ns": time.monotonic_ns(), "shape": list(samples.shape)}
        node.send_output("samples", pa.array(samples.ravel()), published)
        sent += 1
        if sent == spec.messages:
            return


def fusion(spec: PeerSpec) -> None:
    """The node that windows, encodes and fuses."""
    import pyarrow as pa
    from dora import Node

    decider = Decider(spec)
    node = Node()  # the dataflow begins when every node has come this far; the engine is warm
    for event in node:
        if event["type"] != "INPUT":
            continue
        sent = event["metadata"]
        decision = decider.decide(_samples(event["value"], sent["shape"]))
        if decision is not None:
            answer = {
                "published_ns": sent["published_ns"],
                "label": decision.label,
                "classes": list(decision.classes),
            }
            node.send_output("decision", pa.array(decision.probabilities), answer)


def client(spec: PeerSpec) -> None:
    """The node that notes when decisions arrive."""
    from dora import Node

    arrivals = []
    for event in Node():
        arrived_ns = time.monotonic_ns()
        if event["type"] == "INPUT":
            arrivals.append((event["metadata"]["published_ns"], arrived_ns))
    write_latencies(spec, arrivals)


def _samples(value: Any, shape: list[int]) -> npt.NDArray[Any]:
    """The samples of a message; Arrow arrays are flat, and the view copies nothing."""
    samples: npt.NDArray[Any] = np.reshape(value.to_numpy(zero_copy_only=True), shape)
    return samples


if __name__ == "__main__":
    role, spec_file = sys.argv[1:]
    work = {"sensor": sensor, "fusion": fusion, "client": client}[role]
    work(PeerSpec.model_validate_json(Path(spec_file).read_text()))
