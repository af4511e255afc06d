"""A sensor process of the throughput benchmark: one modality, at any rate, for one rig or several.

``python -m benchmarks.throughput.sender_process SPEC`` with SPEC the JSON of a :class:`SenderSpec`. Then lines on
stdin: ``{"connect": Order}`` connects, ``{"play": Order}`` plays and is answered with what was sent, and
``{"close": true}`` disconnects, which discards what the node has not taken yet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import zmq
from pydantic import BaseModel
from zmq.utils.monitor import recv_monitor_message

from afterimage.bench.latency.sender import playable_messages
from engines.measuring.process import ProcessError
from runtime.rig import Rig
from runtime.transport.sockets import FrameSender
from runtime.wire import encode_frame

CONNECT_LIMIT_S = 20.0
_SUBSCRIPTION_S = 0.15
"""The node's subscription follows the handshake at once; this is more than enough."""

_LONGEST_LAG_NS = 20_000_000
"""A sensor that was held up longer than this goes on from there, instead of sending what it missed in one burst."""


class SenderSpec(BaseModel):
    """What a sensor process can play.

    Attributes:
        modality: which.
        rigs: size of the frames (``small``, ``vga``) -> a rig with that sample shape.
    """

    modality: str
    rigs: dict[str, Rig]


class Order(BaseModel):
    """What to play.

    Attributes:
        endpoint: of the node that hosts all the named rigs; or one for each of them.
        names: the rigs.
        size: of the frames.
        rate_hz: messages per second, for each rig.
        seconds: how long.
        cores: where to run.
    """

    endpoint: tuple[str, ...]
    names: tuple[str, ...]
    size: str
    rate_hz: float
    seconds: float
    cores: tuple[int, ...]


def connected(endpoint: str) -> FrameSender:
    """A sender whose connection is established, so that its first message is not lost.

    Raises:
        ProcessError: no node listens there in time.
    """
    sender = FrameSender(endpoint)
    sender.socket.disconnect(endpoint)
    monitor = sender.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        sender.socket.connect(endpoint)
        if not monitor.poll(round(CONNECT_LIMIT_S * 1000)):
            sender.close()
            raise ProcessError(
                f"endpoint {endpoint!r}: expected a node that listens, none answered within {CONNECT_LIMIT_S:.0f} s"
            )
        recv_monitor_message(monitor)
    finally:
        sender.socket.disable_monitor()
        monitor.close(linger=0)
    return sender


def play(
    senders: Sequence[FrameSender], order: Order, pool: Sequence[npt.NDArray[Any]], modality: str, unit: str
) -> dict[str, Any]:
    """Publish at a steady rate.

    Returns:
        ``sent`` (messages for each rig), ``seconds`` that took, and ``cpu_seconds`` of this thread.
    """
    period_ns = 1e9 / order.rate_hz
    cpu, begin = time.thread_time_ns(), time.monotonic_ns()
    end, due, sequence = begin + order.seconds * 1e9, float(begin), 0
    while due < end and (now := time.monotonic_ns()) < end:
        if due > now:
            time.sleep((due - now) / 1e9)
        elif now - due > _LONGEST_LAG_NS:
            due = float(now)
        samples = pool[sequence % len(pool)]
        for sender, name in zip(senders, order.names, strict=True):
            sender.send(
                encode_frame(name, modality, sequence, samples, capture_ns=time.monotonic_ns(), unit=unit)
            )
        sequence += 1
        due += period_ns
    time.sleep(max(0.0, (end - time.monotonic_ns()) / 1e9))
    return {
        "sent": sequence,
        "seconds": (time.monotonic_ns() - begin) / 1e9,
        "cpu_seconds": (time.thread_time_ns() - cpu) / 1e9,
    }


def main(argument: str) -> int:
    """The process: play on request until stdin ends."""
    spec = SenderSpec.model_validate_json(argument)
    pools = {size: playable_messages(rig, spec.modality) for size, rig in spec.rigs.items()}
    unit = next(iter(spec.rigs.values())).sensor(spec.modality).unit
    senders: list[FrameSender] = []
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "connect" in message:
            order = Order.model_validate(message["connect"])
            # Before the sockets: their threads stay on the cores where they were started.
            os.sched_setaffinity(0, order.cores)
            senders = [connected(e) for e in order.endpoint]
            time.sleep(_SUBSCRIPTION_S)
            answer: dict[str, Any] = {"connected": len(senders)}
        elif "play" in message:
            order = Order.model_validate(message["play"])
            answer = play(senders, order, pools[order.size], spec.modality, unit)
        else:
            for sender in senders:
                sender.close()
            senders, answer = [], {"closed": True}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
