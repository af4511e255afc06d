"""What stands between sensor and client in the latency benchmark, each in a process of its own.

``floor``: the least that the job can take: two hops of raw ZeroMQ and the engine's calls on a window that is there
already. ``plain``: the loop that a user would write with pyzmq, msgpack and numpy. ``node``: Afterimage's node. All of
them run the same session on one thread and answer the message that completes a window.

``python -m afterimage.bench.latency_middle SPEC`` with SPEC the JSON of a :class:`MiddleSpec`; ends when stdin does,
and says on stdout what it measured of itself.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any, Literal

import msgpack
import numpy as np
import zmq
from pydantic import BaseModel

from engines.opening import open_session
from engines.session import Fused, Session
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.transport.endpoints import Endpoints

DECISION_BYTES = 900
"""About what a decision of four modalities takes on the wire."""


class MiddleSpec(BaseModel):
    """Which contender, with what.

    Attributes:
        kind: the contender.
        bundle: path of the bundle.
        rig: its sensors; for ``node`` with the tick policy to measure.
        frames: endpoint that sensors connect to.
        decisions: endpoint that clients connect to.
    """

    kind: Literal["floor", "plain", "node"]
    bundle: str
    rig: Rig
    frames: str
    decisions: str


class TimedSession(Session):
    """A session that notes how long its calls took, wall and CPU, so that the rest is the node's own."""

    def __init__(self, inner: Session) -> None:
        self.__dict__.update(inner.__dict__)
        self.fused_us: list[float] = []
        self.cpu_ns = 0

    def encode(self, modality: str, windows: Any) -> Any:
        """As the session's."""
        begin = time.thread_time_ns()
        evidence = super().encode(modality, windows)
        self.cpu_ns += time.thread_time_ns() - begin
        return evidence

    def fuse(self, evidence: Any, presence: Any) -> Fused:
        """As the session's."""
        begin, cpu = time.perf_counter_ns(), time.thread_time_ns()
        fused = super().fuse(evidence, presence)
        self.cpu_ns += time.thread_time_ns() - cpu
        self.fused_us.append((time.perf_counter_ns() - begin) / 1e3)
        return fused

    def decode(self, modality: str, latent: Any) -> Any:
        """As the session's; what was fused just before was for it and no tick's."""
        self.fused_us.pop()
        return super().decode(modality, latent)


def main(argument: str) -> int:
    """The process: work until stdin ends."""
    spec = MiddleSpec.model_validate_json(argument)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    with open_session(spec.bundle) as session:
        session.warm_up()
        report = {"floor": _floor, "plain": _plain, "node": _node}[spec.kind](spec, session, stop)
    print(json.dumps(report), flush=True)
    return 0


def _ready() -> None:
    print(json.dumps({"ready": True}), flush=True)


def _sockets(spec: MiddleSpec, context: zmq.Context[Any]) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    incoming, outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
    incoming.setsockopt(zmq.SUBSCRIBE, b"")
    incoming.bind(spec.frames)
    outgoing.bind(spec.decisions)
    return incoming, outgoing


def _floor(spec: MiddleSpec, session: Session, stop: threading.Event) -> dict[str, Any]:
    """Receive, call the engine on windows made beforehand, send."""
    rng = np.random.default_rng(0)
    windows = {
        m.name: (rng.random((1, *m.window_shape)) * 100).astype(m.dtype) for m in session.manifest.modalities
    }
    names = list(windows)
    every = {m.name: max(1, m.hop // spec.rig.sensor(m.name).chunk) for m in session.manifest.modalities}
    presence = {n: np.array([[float(n == o) for o in names]], np.float32) for n in names}
    filler, engine_us = b"x" * (DECISION_BYTES - 100), []
    counts = dict.fromkeys(names, 0)
    context: zmq.Context[Any] = zmq.Context()
    incoming, outgoing = _sockets(spec, context)
    _ready()
    while not stop.is_set():
        if not incoming.poll(100):
            continue
        topic, header, _payload = incoming.recv_multipart(copy=False)
        name = topic.bytes.rsplit(b"/", 1)[-1].decode()
        counts[name] += 1
        if counts[name] % every[name]:
            continue
        begin = time.perf_counter_ns()
        evidence = session.encode(name, windows[name])
        session.fuse({name: evidence}, presence[name])
        if len(engine_us) < 8192:
            engine_us.append((time.perf_counter_ns() - begin) / 1e3)
        outgoing.send_multipart([b"fused", header.bytes, filler])
    context.destroy(linger=0)
    return {"engine_us": _percentiles(engine_us)}


def _plain(spec: MiddleSpec, session: Session, stop: threading.Event) -> dict[str, Any]:
    """One loop, as one writes it: unpack, append, and when there is enough, encode, fuse, publish as JSON."""
    specs = {m.name: m for m in session.manifest.modalities}
    buffers: dict[str, Any] = {}
    fresh = dict.fromkeys(specs, 0)
    evidence: dict[str, Any] = {}
    context: zmq.Context[Any] = zmq.Context()
    incoming, outgoing = _sockets(spec, context)
    poller = zmq.Poller()
    poller.register(incoming, zmq.POLLIN)
    _ready()
    while not stop.is_set():
        if not poller.poll(100):
            continue
        _topic, header, payload = incoming.recv_multipart()
        meta = msgpack.unpackb(header)
        name = meta["modality"]
        samples = np.frombuffer(payload, dtype=meta["dtype"]).reshape(meta["shape"])
        wanted = specs[name]
        if wanted.kind in ("rgb", "depth"):
            window = samples[-1]
        else:
            old = buffers.get(name)
            both = samples if old is None else np.concatenate([old, samples])
            buffers[name] = both[-wanted.window :]
            fresh[name] += len(samples)
            if len(buffers[name]) < wanted.window or fresh[name] < wanted.hop:
                continue
            fresh[name] = 0
            window = buffers[name]
        evidence[name] = session.encode(name, window[np.newaxis])
        presence = np.array([[float(n in evidence) for n in specs]], dtype=np.float32)
        probabilities = session.fuse(evidence, presence).probabilities[0]
        decision = {
            "capture_ns": meta["capture_ns"],
            "label": session.manifest.classes[int(probabilities.argmax())],
            "probabilities": dict(zip(session.manifest.classes, map(float, probabilities), strict=True)),
        }
        outgoing.send_multipart([b"fused", json.dumps(decision).encode()])
    context.destroy(linger=0)
    return {}


def _node(spec: MiddleSpec, session: Session, stop: threading.Event) -> dict[str, Any]:
    """The real node, with its engine calls timed."""
    timed = TimedSession(session)
    with Node(spec.rig, timed, Endpoints(spec.frames, spec.decisions)) as node:
        timed.fused_us.clear()
        timed.cpu_ns = 0
        _ready()
        statistics = node.run(stop)
        ticks = node.durations_ms("tick")
    pairs = min(len(ticks), len(timed.fused_us))
    overhead = [1e3 * t - f for t, f in zip(ticks[:pairs], timed.fused_us[:pairs], strict=True)]
    return {
        "statistics": statistics,
        "engine_cpu_seconds": timed.cpu_ns / 1e9,
        "tick_overhead_us": _percentiles(overhead),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "count": len(values)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
