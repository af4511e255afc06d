"""The loop that a user would write with pyzmq, msgpack and numpy: no health, order, counters or checks.

``python -m benchmarks.peers.pyzmq_loop SPEC`` is such a process; see :mod:`afterimage.bench.latency.middle`.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import msgpack
import numpy as np
import zmq

from afterimage.bench.latency.middle import MiddleSpec, bare_sockets, ready, serve
from engines.session import Session


def run_loop(spec: MiddleSpec, session: Session, stop: threading.Event) -> dict[str, Any]:
    """Unpack, append, and when there is enough: encode, fuse, publish as JSON."""
    specs = {m.name: m for m in session.manifest.modalities}
    buffers: dict[str, Any] = {}
    fresh = dict.fromkeys(specs, 0)
    evidence: dict[str, Any] = {}
    with bare_sockets(spec) as (incoming, outgoing):
        poller = zmq.Poller()
        poller.register(incoming, zmq.POLLIN)
        ready()
        while not stop.is_set():
            if not poller.poll(100):
                continue
            _topic, header, payload = incoming.recv_multipart()
            meta = msgpack.unpackb(header)
            name = meta["modality"]
            samples = np.frombuffer(payload, dtype=meta["dtype"]).reshape(meta["shape"])
            needed = specs[name]
            if needed.kind in ("rgb", "depth"):
                window = samples[-1]
            else:
                old = buffers.get(name)
                both = samples if old is None else np.concatenate([old, samples])
                buffers[name] = both[-needed.window :]
                fresh[name] += len(samples)
                if len(buffers[name]) < needed.window or fresh[name] < needed.hop:
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
    return {}


if __name__ == "__main__":
    sys.exit(serve(run_loop, sys.argv[1]))
