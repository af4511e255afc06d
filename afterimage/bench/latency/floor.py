"""The floor of the latency benchmark: the least that the job can take.

Two hops of raw ZeroMQ, and the engine's calls on a window that was made beforehand.
``python -m afterimage.bench.latency.floor SPEC`` is such a process; see :mod:`afterimage.bench.latency.middle`.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np

from afterimage.bench.latency.middle import MiddleSpec, bare_sockets, percentiles, ready, serve
from engines.session import Session

DECISION_BYTES = 900
"""About the size of a decision of four modalities on the wire."""

TIMED_CALLS = 8192
"""How often at most the engine's time is noted."""


def answer_barely(spec: MiddleSpec, session: Session, stop: threading.Event) -> dict[str, Any]:
    """Receive, call the engine on windows made beforehand, send."""
    rng = np.random.default_rng(0)
    windows = {
        m.name: (rng.random((1, *m.window_shape)) * 100).astype(m.dtype) for m in session.manifest.modalities
    }
    names = list(windows)
    every = {m.name: max(1, m.hop // spec.rig.sensor(m.name).chunk) for m in session.manifest.modalities}
    presence = {n: np.array([[float(n == o) for o in names]], np.float32) for n in names}
    filler = b"x" * (DECISION_BYTES - 100)
    engine_us: list[float] = []
    counts = dict.fromkeys(names, 0)
    with bare_sockets(spec) as (incoming, outgoing):
        ready()
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
            if len(engine_us) < TIMED_CALLS:
                engine_us.append((time.perf_counter_ns() - begin) / 1e3)
            outgoing.send_multipart([b"fused", header.bytes, filler])
    return {"engine_us": percentiles(engine_us)}


if __name__ == "__main__":
    sys.exit(serve(answer_barely, sys.argv[1]))
