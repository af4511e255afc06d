"""The control channel's sockets, and the thread that keeps measuring a sensor's clock against its node's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

import zmq

from runtime.core.clock_offset import DRIFT_PPM, OffsetEstimator
from runtime.transport.authentication import guard_server
from runtime.transport.endpoints import check_endpoint, runtime_directory
from runtime.transport.keys import Keys
from runtime.transport.sockets import _bind, _Closing, _connect, _receive
from runtime.wire import Clock, WireError
from runtime.wire.control import answer, probe_request, read_probe

_ANSWERS_PER_TURN = 16
_QUEUE = 64
_HURRY = 8
"""So many probes at the start, and after a contradiction, follow each other quickly."""
_HURRIED_S = 0.02


def default_control(rig: str) -> str:
    """Where a rig's node answers, unless told otherwise."""
    return f"ipc://{runtime_directory(rig)}/control"


class ControlServer(_Closing):
    """A node's side: a bound ROUTER; a peer that does not read its answers loses them."""

    def __init__(self, endpoint: str, *, keys: Keys | None = None) -> None:
        """Listen.

        Args:
            endpoint: where.
            keys: the node's, for an address beyond this machine; every admitted key may ask, whatever its role.

        Raises:
            EndpointError: an address that is not allowed, taken, or cannot be bound.
        """
        check_endpoint(endpoint, keys)
        super().__init__(zmq.ROUTER, _QUEUE)
        try:
            self._guard = guard_server(self.socket, self._context, endpoint, keys, "control")
            _bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def answer_waiting(self, clock: Callable[[], int]) -> int:
        """Answer what waits, a bounded number; gives how many requests came."""
        for count in range(_ANSWERS_PER_TURN):
            parts = _receive(self.socket)
            if parts is None:
                return count
            reply = answer(bytes(parts[1]), clock(), clock()) if len(parts) == 2 else None
            if reply is not None:
                try:
                    self.socket.send_multipart([parts[0], reply], zmq.NOBLOCK)
                except zmq.Again:
                    continue
        return _ANSWERS_PER_TURN


class ClockSync:
    """Measures a clock against a node's from a thread of its own, so that answers are stamped when they come.

    Where sensor and node share a machine and stamp with CLOCK_MONOTONIC there is nothing to measure; this is for
    sensors with another clock, or on another machine. A context manager.
    """

    def __init__(
        self,
        endpoint: str,
        clock_id: str,
        now: Callable[[], int] = time.monotonic_ns,
        *,
        keys: Keys | None = None,
        every_s: float = 1.0,
        drift_ppm: float = DRIFT_PPM,
    ) -> None:
        """Begin measuring; the node need not be there yet.

        Args:
            endpoint: the node's control endpoint.
            clock_id: name of the clock, for the record.
            now: reads it, in ns.
            keys: one's own, for a node beyond this machine.
            every_s: seconds between probes, once the offset is known.
            drift_ppm: how fast the two clocks may run apart.

        Raises:
            EndpointError: an address that is not allowed.
        """
        check_endpoint(endpoint, keys)
        self._endpoint, self._keys = endpoint, keys
        self._id, self._now, self._every_s = clock_id, now, every_s
        self._estimator = OffsetEstimator(drift_ppm)
        self._lock = threading.Lock()
        self._stop, self._settled = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._measure, name="clock sync", daemon=True)
        self._thread.start()

    def clock(self) -> Clock | None:
        """The clock with its offset and uncertainty as of now; None until the node has answered some probes.

        Some, because the first answer alone may leave an offset uncertain by as long as the node takes to start: the
        next ones would move it, and time would seem to run backwards.
        """
        if not self._settled.is_set():
            return None
        with self._lock:
            found = self._estimator.offset(self._now())
        return None if found is None else Clock(self._id, found.offset_ns, found.uncertainty_ns)

    @property
    def reanchored(self) -> int:
        """How often the clock turned out to have been set."""
        return self._estimator.reanchored

    def await_clock(self, timeout_s: float) -> Clock | None:
        """Wait until the offset is known; None if it is not in time."""
        end = time.monotonic() + timeout_s
        while (clock := self.clock()) is None and time.monotonic() < end:
            time.sleep(0.01)
        return clock

    def close(self) -> None:
        """Stop measuring; may be called again."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Self:
        """The measurement itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop measuring."""
        self.close()

    def _measure(self) -> None:
        with _Asker(self._endpoint, self._keys) as asker:
            number, hurry, wait_s = 0, _HURRY, 0.0
            while not self._stop.wait(wait_s):
                number += 1
                asker.knock_again()
                known = self._estimator.reanchored
                answered = self._probe(asker.socket, number)
                hurry = _HURRY if self._estimator.reanchored > known else hurry - answered
                if hurry <= 0:
                    self._settled.set()
                wait_s = self._every_s if hurry <= 0 else _HURRIED_S

    def _probe(self, socket: zmq.Socket[bytes], number: int) -> bool:
        """One round trip; False if there was none in time."""
        try:
            socket.send(probe_request(number, self._now()), zmq.NOBLOCK)
        except zmq.Again:
            return False
        end = time.monotonic() + min(1.0, self._every_s)
        while (left := end - time.monotonic()) > 0 and not self._stop.is_set():
            if not socket.poll(min(100, max(1, round(left * 1000)))):
                continue
            reply = socket.recv(zmq.NOBLOCK)
            returned_ns = self._now()
            try:
                replied_to, probe = read_probe(reply, returned_ns)
            except WireError:
                continue
            if replied_to != number:
                continue  # an answer that came too late to be worth much
            with self._lock:
                return self._estimator.add(probe)
        return False


class _Asker(_Closing):
    def __init__(self, endpoint: str, keys: Keys | None) -> None:
        super().__init__(zmq.DEALER, _QUEUE)
        _connect(self, endpoint, keys)
