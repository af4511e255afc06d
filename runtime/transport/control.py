"""The control channel's sockets, and the thread that keeps measuring a sensor's clock against its node's."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import zmq

from configs.errors import AfterimageError
from runtime.transport.authentication import ServerGuard, guard_server
from runtime.transport.clock_offset import DRIFT_PPM, OffsetEstimator
from runtime.transport.endpoints import check_endpoint, runtime_directory
from runtime.transport.keys import Keys
from runtime.transport.sockets import _bind, _Closing, _connect, _receive_from
from runtime.wire import Clock, WireError
from runtime.wire.control import (
    Request,
    error_answer,
    probe_answer,
    probe_request,
    read_probe,
    read_request,
    read_swap,
    swap_answer,
    swap_request,
)

_ANSWERS_PER_TURN = 16
_QUEUE = 64
_HURRY = 8
"""So many probes at the start, and after a contradiction, follow each other quickly."""
_HURRIED_S = 0.02


def default_control(rig: str) -> str:
    """Where a rig's node answers, unless told otherwise."""
    return f"ipc://{runtime_directory(rig)}/control"


class ControlError(AfterimageError):
    """A node that did not do what it was asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do that is answered when it is done.

    Attributes:
        peer: whom to answer.
        request: what is asked.
    """

    peer: bytes
    request: Request


class ControlServer(_Closing):
    """A node's side: a bound ROUTER; a peer that does not read its answers loses them."""

    def __init__(self, endpoint: str, *, keys: Keys | None = None) -> None:
        """Listen.

        Args:
            endpoint: where.
            keys: the node's, for an address beyond this machine; every admitted key may ask for the time, whatever
                its role, and an operator's may command.

        Raises:
            EndpointError: an address that is not allowed, taken, or cannot be bound.
        """
        check_endpoint(endpoint, keys)
        super().__init__(zmq.ROUTER, _QUEUE)
        self.endpoint = endpoint
        self._admission: ServerGuard | None = None
        try:
            self._guard = self._admission = guard_server(
                self.socket, self._context, endpoint, keys, "control"
            )
            _bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def answer_waiting(self, clock: Callable[[], int]) -> list[Command]:
        """Tell the time to those who wait for it, a bounded number; gives what else is asked, to be answered later."""
        commands: list[Command] = []
        for _ in range(_ANSWERS_PER_TURN):
            message = _receive_from(self.socket)
            if message is None:
                break
            received_ns = clock()
            parts, _ = message
            request = read_request(bytes(parts[1])) if len(parts) == 2 else None
            if request is None:
                continue
            peer = bytes(parts[0])
            if request.fault:
                self._send(peer, error_answer(request, request.fault))
            elif request.op == "probe":
                self._send(peer, probe_answer(request, received_ns, clock()))
            elif refusal := self._refusal(message[1]):
                self._send(peer, error_answer(request, refusal))
            else:
                commands.append(Command(peer, request))
        return commands

    def done(self, command: Command, bundle: str) -> None:
        """Answer a swap that was made."""
        self._send(command.peer, swap_answer(command.request, bundle))

    def refuse(self, command: Command, detail: str) -> None:
        """Answer a command that is not followed."""
        self._send(command.peer, error_answer(command.request, detail))

    def _refusal(self, first: zmq.Frame) -> str:
        """Why a peer may not command; empty where it may.

        A path handed to a node is code to run on its machine: whoever reaches a plain TCP port may not do that.
        """
        if self.endpoint.startswith("ipc://"):
            return ""  # whoever is let into its directory
        if self._admission is None:
            return f"commands come over ipc or with an operator's key, and {self.endpoint} is neither"
        user = str(first.get("User-Id"))
        if self._admission.operates(user):
            return ""
        return f"key {user!r} may not command; on the node's machine: afterimage keys allow '{user}' --role operator"

    def _send(self, peer: bytes, reply: bytes) -> None:
        with suppress(zmq.Again):  # it does not read its answers
            self.socket.send_multipart([peer, reply], zmq.NOBLOCK)


def swap_bundle(endpoint: str, path: str, *, keys: Keys | None = None, timeout_s: float = 60.0) -> str:
    """Have a running node go on with another bundle, and wait until it has.

    Args:
        endpoint: the node's control endpoint.
        path: of a bundle or compiled engine, on the node's machine.
        keys: an operator's, for a node beyond this machine.
        timeout_s: loading takes seconds.

    Returns:
        The bundle's hash, as decisions name it.

    Raises:
        ControlError: the node refused, failed, or did not answer in time.
        EndpointError: an address that is not allowed.
    """
    check_endpoint(endpoint, keys)
    number = secrets.randbelow(2**31)
    with _Asker(endpoint, keys) as asker:
        asker.socket.send(swap_request(number, path))
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            asker.knock_again()
            if not asker.socket.poll(min(100, max(1, round(left * 1000)))):
                continue
            try:
                replied_to, bundle, fault = read_swap(asker.socket.recv(zmq.NOBLOCK))
            except WireError:
                continue
            if replied_to != number:
                continue
            if fault:
                raise ControlError(fault)
            return bundle
    raise ControlError(f"no answer from {endpoint} within {timeout_s:.0f} s; is the node running?")


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
