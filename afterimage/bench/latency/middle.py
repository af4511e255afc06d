"""What the middle processes of the latency benchmark have in common: they stand between a sensor and a client.

Each of them runs the same session on one thread and answers the message that completes a window. It is started with
the JSON of a :class:`MiddleSpec`, ends when stdin does, and then writes what it measured of itself.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import zmq
from pydantic import BaseModel

from engines.opening import open_session
from engines.session import Session
from runtime.rig import Rig


class MiddleSpec(BaseModel):
    """What a contender gets.

    Attributes:
        bundle: path of the bundle.
        rig: its sensors; for the node with the tick policy to measure.
        frames: endpoint that sensors connect to.
        decisions: endpoint that clients connect to.
    """

    bundle: str
    rig: Rig
    frames: str
    decisions: str


Work = Callable[[MiddleSpec, Session, threading.Event], dict[str, Any]]
"""Does the job until the event is set, and returns what it measured of itself; says :func:`ready` once it listens."""


def serve(work: Work, argument: str) -> int:
    """The process of a contender: works until stdin ends, then writes its report on stdout.

    Args:
        work: of the contender.
        argument: JSON of the :class:`MiddleSpec`.
    """
    spec = MiddleSpec.model_validate_json(argument)
    stop = threading.Event()
    threading.Thread(target=_set_at_end_of_input, args=(stop,), daemon=True).start()
    with open_session(spec.bundle) as session:
        session.warm_up()
        report = work(spec, session, stop)
    print(json.dumps(report), flush=True)
    return 0


def _set_at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def ready() -> None:
    """Tell the benchmark that sensors and clients may connect."""
    print(json.dumps({"ready": True}), flush=True)


@contextmanager
def bare_sockets(spec: MiddleSpec) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A socket that takes in every message, and one to publish on."""
    context: zmq.Context[Any] = zmq.Context()
    incoming, outgoing = context.socket(zmq.SUB), context.socket(zmq.PUB)
    incoming.setsockopt(zmq.SUBSCRIBE, b"")
    incoming.bind(spec.frames)
    outgoing.bind(spec.decisions)
    try:
        yield incoming, outgoing
    finally:
        context.destroy(linger=0)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """``p50``, ``p99`` and ``count``; empty of nothing."""
    if not values:
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "count": len(values)}
