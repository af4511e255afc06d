"""The node process of the throughput benchmark: a real node on a real engine, one run per step.

``python -m benchmarks.throughput.node_process SPEC`` with SPEC the JSON of a :class:`NodeSpec`. Then, for every step, a
line ``{"host": [names], "size": ..., "frames": ..., "decisions": ..., "cores": [...]}`` on stdin binds a node and
starts it, and ``{"expected": n}`` ends it as soon as it has taken in n messages; the answer is what it counted. With
``host`` empty there is no node, only a socket that is read: the cost that every program has that waits for messages.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq
from pydantic import BaseModel

from engines.opening import open_session
from engines.session import Fused, Session
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints

DRAIN_LIMIT_S = 1.0
"""What a node has not taken in after this time was lost on the way."""


class NodeSpec(BaseModel):
    """What a node process can host.

    Attributes:
        bundles: size of the frames (``small``, ``vga``) -> path of the bundle that takes them.
        rigs: size -> the rig; hosted under other names.
    """

    bundles: dict[str, str]
    rigs: dict[str, Rig]


def waited_ns() -> int:
    """How long this thread was ready to run and had no core; 0 where the system does not report it."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class MeteredSession(Session):
    """A session that sums the CPU time of its calls, so that the rest of the CPU time is the node's own."""

    def __init__(self, inner: Session) -> None:
        """Share the graphs of an open session."""
        self.__dict__.update(inner.__dict__)
        self.cpu_ns = 0
        self.calls = 0
        self.rows = 0

    def encode(self, modality: str, windows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """As the session's."""
        begin = time.thread_time_ns()
        evidence = super().encode(modality, windows)
        self.cpu_ns += time.thread_time_ns() - begin
        self.calls += 1
        self.rows += len(windows)
        return evidence

    def fuse(self, evidence: Any, presence: npt.NDArray[Any]) -> Fused:
        """As the session's."""
        begin = time.thread_time_ns()
        fused = super().fuse(evidence, presence)
        self.cpu_ns += time.thread_time_ns() - begin
        return fused


class AllTakenIn(threading.Event):
    """Stops a node once it is known how many messages were sent, and the node has taken them in or had time to."""

    def __init__(self, node: Node, greeting: dict[str, Any]) -> None:
        """Begin without knowing how many messages there will be.

        Args:
            node: that is stopped by this.
            greeting: written to stdout as soon as the node has begun to take its turns.
        """
        super().__init__()
        self._node = node
        self._greeting: dict[str, Any] | None = greeting
        self._asked = 0
        self.begun_cpu_ns = 0
        """CPU time of the process when the node began to take its turns."""
        self._expected = 0
        self._limit = 0.0

    def expect(self, messages: int) -> None:
        """Tell how many were sent; from another thread than the node's."""
        self._expected, self._limit = messages, time.monotonic() + DRAIN_LIMIT_S
        self.set()

    def is_set(self) -> bool:
        """Whether the node may stop; called by the thread that runs it, before every turn."""
        if self._greeting is not None:
            self._asked += 1
            if self._asked > 1:
                self.begun_cpu_ns = time.process_time_ns()
                print(json.dumps(self._greeting), flush=True)
                self._greeting = None
        if not super().is_set():
            return False
        counted = self._node.statistics()["messages"]
        return time.monotonic() > self._limit or counted["received"] + counted["lost"] >= self._expected


def step(order: dict[str, Any], rig: Rig, session: MeteredSession) -> dict[str, Any]:
    """Run a node until it has taken in what was sent; returns what it counted, and the engine's time."""
    rigs = [rig.model_copy(update={"name": name}) for name in order["host"]]
    # Before the sockets: their threads stay on the cores where they were started.
    os.sched_setaffinity(0, order["cores"])
    with Node(rigs, session, Endpoints(order["frames"], order["decisions"])) as node:
        taken = AllTakenIn(node, {"hosting": len(rigs)})
        session.cpu_ns = session.calls = session.rows = 0
        # This thread does nothing but wait for one line.
        listener = threading.Thread(
            target=lambda: taken.expect(json.loads(sys.stdin.readline() or '{"expected": 0}')["expected"])
        )
        listener.start()
        waited = waited_ns()
        counted = node.run(taken)
        waited = waited_ns() - waited
        process_cpu = time.process_time_ns() - taken.begun_cpu_ns
        listener.join()
    lateness = counted["latency_ms"].get("tick_lateness", {})
    return {
        "messages": counted["messages"],
        "seconds": counted["seconds"],
        "cpu_seconds": counted["cpu_seconds"],
        "process_cpu_seconds": process_cpu / 1e9,
        "waited_seconds": waited / 1e9,
        "errors": counted["errors"],
        "engine_cpu_seconds": session.cpu_ns / 1e9,
        "encode_calls": session.calls,
        "encode_rows": session.rows,
        "tick_lateness_p99_ms": lateness.get("p99"),
    }


def bare_step(order: dict[str, Any]) -> dict[str, Any]:
    """Read messages and do nothing with them; returns what that costs, from the first message to the last."""
    os.sched_setaffinity(0, order["cores"])
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        ended.set()

    listener = threading.Thread(target=listen)
    received = 0
    first = last = (0, 0)
    with zmq.Context() as context, context.socket(zmq.SUB) as incoming:
        incoming.setsockopt(zmq.SUBSCRIBE, b"")
        incoming.bind(order["frames"])
        print(json.dumps({"hosting": 0}), flush=True)
        listener.start()
        poller = zmq.Poller()
        poller.register(incoming, zmq.POLLIN)
        while True:
            if not poller.poll(100):
                if ended.is_set():
                    break
                continue
            incoming.recv_multipart(copy=False)
            received += 1
            last = time.thread_time_ns(), time.process_time_ns()
            # The first message pays for what is loaded late.
            first = first if received > 1 else last
    listener.join()
    return {
        "received": received,
        "cpu_seconds": (last[0] - first[0]) / 1e9,
        "process_cpu_seconds": (last[1] - first[1]) / 1e9,
    }


def main(argument: str) -> int:
    """The process: one step after another until stdin ends."""
    spec = NodeSpec.model_validate_json(argument)
    sessions: dict[str, MeteredSession] = {}
    with ExitStack() as opened:
        print(json.dumps({"ready": True}), flush=True)
        while line := sys.stdin.readline():
            order = json.loads(line)
            if not order["host"]:
                print(json.dumps(bare_step(order)), flush=True)
                continue
            size = order["size"]
            if size not in sessions:
                session = opened.enter_context(open_session(spec.bundles[size]))
                sessions[size] = MeteredSession(session)
            print(json.dumps(step(order, spec.rigs[size], sessions[size])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
