"""The control channel's two ends: the node's server, and the client that asks it something.

The messages are in :mod:`runtime.wire.control`: the node's time for sensors with clocks of their own
(:mod:`runtime.transport.clock_sync`), and the command to swap its bundle.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import zmq

from configs.errors import AfterimageError
from runtime.logs import throttled
from runtime.transport.bounded_socket import BoundedSocket
from runtime.transport.endpoints import runtime_directory
from runtime.transport.keys import Keys
from runtime.wire import WireError
from runtime.wire.control import (
    Request,
    error_answer,
    probe_answer,
    read_request,
    read_swap,
    swap_answer,
    swap_request,
)

_ANSWERS_PER_TURN = 16
_QUEUE = 64
_POLL_MS = 100
_LOG = logging.getLogger("afterimage.transport")


def default_control(rig: str) -> str:
    """The endpoint where a rig's node answers, unless it is given another one."""
    return f"ipc://{runtime_directory(rig)}/control"


class ControlError(AfterimageError):
    """A node did not do what it was asked to do; the message says why."""


@dataclass(frozen=True, slots=True)
class Command:
    """A request that takes the node some time, and is answered when it is done.

    Attributes:
        peer: whom to answer.
        request: what is asked.
    """

    peer: bytes
    request: Request


class ControlServer(BoundedSocket):
    """The node's end: a bound ROUTER socket. A peer that does not read its answers loses them."""

    def __init__(self, endpoint: str, *, keys: Keys | None = None) -> None:
        """Listen.

        Args:
            endpoint: where.
            keys: of the node, for an address beyond this machine. Every admitted key may ask for the time, whatever
                its role; only an operator's key may command.

        Raises:
            EndpointError: an address that is not allowed, is taken, or cannot be bound.
            KeysError: keys that cannot be used.
        """
        super().__init__(zmq.ROUTER, _QUEUE)
        self._admission = self.bind(endpoint, keys, "control")

    def answer_waiting(self, clock: Callable[[], int]) -> list[Command]:
        """Answer a bounded number of waiting requests for the time.

        Args:
            clock: the node's, in ns.

        Returns:
            The commands among the requests; the caller answers them with :meth:`done` or :meth:`refuse`.
        """
        commands: list[Command] = []
        for _ in range(_ANSWERS_PER_TURN):
            message = self.receive_message()
            if message is None:
                break
            received_ns = clock()
            parts, first = message
            request = read_request(bytes(parts[1])) if len(parts) == 2 else None
            if request is None:
                continue
            peer = bytes(parts[0])
            if request.fault:
                self._refuse(request, peer, request.fault)
            elif request.op == "probe":
                self._send(peer, probe_answer(request, received_ns, clock()))
            elif refusal := self._refusal(first):
                self._refuse(request, peer, refusal)
            else:
                commands.append(Command(peer, request))
        return commands

    def done(self, command: Command, bundle: str) -> None:
        """Answer that the node now runs the bundle of this hash."""
        self._send(command.peer, swap_answer(command.request, bundle))

    def refuse(self, command: Command, detail: str) -> None:
        """Answer that the node does not follow a command, and why."""
        self._send(command.peer, error_answer(command.request, detail))

    def _refusal(self, first: zmq.Frame) -> str:
        """Why a peer may not command; empty if it may.

        The path of a bundle is code to run on the node's machine: whoever reaches a plain TCP port may not give one.
        """
        if self.endpoint.startswith("ipc://"):
            return ""  # the directory admits only the node's own user
        if self._admission is None:
            return f"commands come over ipc or with an operator's key, and {self.endpoint} is neither"
        user = str(first.get("User-Id"))
        if self._admission.operates(user):
            return ""
        return f"key {user!r} may not command; on the node's machine: afterimage keys allow '{user}' --role operator"

    def _refuse(self, request: Request, peer: bytes, why: str) -> None:
        text = "%s: a request was refused: %s"
        _LOG.warning(text, self.endpoint, why, extra=throttled(f"refused request {self.endpoint}"))
        self._send(peer, error_answer(request, why))

    def _send(self, peer: bytes, reply: bytes) -> None:
        with suppress(zmq.Again):  # the peer does not read its answers
            self.socket.send_multipart([peer, reply], zmq.NOBLOCK)


class ControlClient(BoundedSocket):
    """The other end: a DEALER socket that asks a node, which need not be there yet."""

    def __init__(self, endpoint: str, keys: Keys | None = None) -> None:
        """Connect.

        Args:
            endpoint: the node's control endpoint.
            keys: own pair and the node's public key; needed beyond this machine.

        Raises:
            EndpointError: an address that is not allowed.
            KeysError: keys that cannot be used.
        """
        super().__init__(zmq.DEALER, _QUEUE)
        self.connect(endpoint, keys)

    def send(self, request: bytes) -> bool:
        """Send a request without waiting; False if too many wait to be sent already."""
        self.retry_refused_handshake()
        try:
            self.socket.send(request, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self, timeout_s: float) -> bytes | None:
        """The next answer; None if none comes within ``timeout_s`` (at most a tenth of a second)."""
        self.retry_refused_handshake()
        if not self.socket.poll(min(_POLL_MS, max(1, round(timeout_s * 1000)))):
            return None
        return self.socket.recv(zmq.NOBLOCK)


def swap_bundle(endpoint: str, path: str, *, keys: Keys | None = None, timeout_s: float = 60.0) -> str:
    """Have a running node go on with another bundle, and wait until it does.

    Args:
        endpoint: the node's control endpoint.
        path: of a bundle or compiled engine, on the node's machine.
        keys: an operator's, for a node beyond this machine.
        timeout_s: how long to wait; loading a bundle takes seconds.

    Returns:
        The bundle's hash, as decisions name it.

    Raises:
        ControlError: the node refused, failed, or did not answer in time.
        EndpointError: an address that is not allowed.
        KeysError: keys that cannot be used.
    """
    number = secrets.randbelow(2**31)
    with ControlClient(endpoint, keys) as client:
        client.send(swap_request(number, path))
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            answer = client.receive(left)
            if answer is None:
                continue
            try:
                replied_to, bundle, fault = read_swap(answer)
            except WireError:
                continue
            if replied_to != number:
                continue
            if fault:
                raise ControlError(fault)
            return bundle
    raise ControlError(f"no answer from {endpoint} within {timeout_s:g} s; is the node running?")
