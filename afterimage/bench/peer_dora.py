"""The same job on dora-rs, as its users write it: a dataflow of a sensor node, a node that encodes and fuses, a client.

Each node has a process of its own, as the sensor, the node and the client of Afterimage have; a daemon starts them and
ticks the sensor's timer. ``dora run`` plays one turn: it is daemon and command in one, without a coordinator, listens
on free ports of this machine only, and ends when its nodes do. ``python -m afterimage.bench.peer_dora ROLE SPEC`` is
one of the nodes, with SPEC the file of a :class:`~afterimage.bench.peer_job.PeerSpec`.
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

from afterimage.bench.latency_sender import chunks
from afterimage.bench.peer_job import Decider, PeerSpec, write_latencies

SPARE_S = 40.0
"""The daemon stops the nodes this long after a turn should have ended, should nobody else do so."""

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
            "args": f"-m afterimage.bench.peer_dora {role} {spec_file.name}",
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
    """Write a turn's files; gives the command that plays it, to be run in that folder.

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
    """The environment of a turn: nothing is sent anywhere, nothing found by multicast, nothing written elsewhere.

    Args:
        inherited: of this process. What it says to dora, its transport and its tracing is left out: dora sends
            traces and metrics only to where such a variable tells it to.
        folder: of the turn.
    """
    own = {name: value for name, value in inherited.items() if not name.startswith(_FOREIGN)}
    root = str(
        Path(__file__).parents[2]
    )  # nodes run in the turn's folder, from where this package may not be found
    return (
        own
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, (root, inherited.get("PYTHONPATH")))),
            "DORA_ZENOH_MULTICAST": "off",  # two runs on one network need not know each other
            # dora asks uv for an interpreter before it starts any node
            "UV_CACHE_DIR": str(folder / "uv"),
            "UV_OFFLINE": "1",
            "RUST_BACKTRACE": "0",  # what failed should be the last that it says, not thirty frames of an interpreter
        }
    )


def sensor(spec: PeerSpec) -> None:
    """The node that publishes chunks, one on every tick of its timer."""
    import pyarrow as pa
    from dora import Node

    pool = chunks(spec.rig, spec.modality)
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
    node = Node()  # the dataflow begins when every node has come this far, with the engine warm
    for event in node:
        if event["type"] != "INPUT":
            continue
        said = event["metadata"]
        decision = decider.decide(_samples(event["value"], said["shape"]))
        if decision is not None:
            word = {
                "published_ns": said["published_ns"],
                "label": decision.label,
                "classes": list(decision.classes),
            }
            node.send_output("decision", pa.array(decision.probabilities), word)


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
    """Arrow arrays are flat; the view copies nothing."""
    samples: npt.NDArray[Any] = np.reshape(value.to_numpy(zero_copy_only=True), shape)
    return samples


if __name__ == "__main__":
    role, spec_file = sys.argv[1:]
    work = {"sensor": sensor, "fusion": fusion, "client": client}[role]
    work(PeerSpec.model_validate_json(Path(spec_file).read_text()))
