"""Authentication: CURVE encryption on sockets that reach beyond this machine, and which keys are admitted.

:func:`guard_server` and :func:`guard_client` turn CURVE on before a socket is bound or connected. A guard is a
thread of its own beside the socket. It answers ZeroMQ when that asks whether a key is admitted (ZAP, RFC 27), follows
the allow-list, and watches the socket's events for peers whose handshake failed before that question. The thread that
owns the socket never waits for it.
"""

from __future__ import annotations

import logging
import os
import socket as network
import threading
import time
from contextlib import suppress
from typing import Any, Literal

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from runtime.transport.allow_list import FollowedAllowList, Role
from runtime.transport.endpoints import is_tcp
from runtime.transport.keys import Keys, KeysError
from runtime.transport.refusals import Refusals

Purpose = Literal["frames", "decisions", "control"]

_ROLES: dict[Purpose, tuple[Role, ...]] = {
    "frames": ("sensor",),
    "decisions": ("reader",),
    "control": ("sensor", "reader", "operator"),
}
"""The roles of keys that each kind of socket admits."""

_COMMANDING: tuple[Role, ...] = ("operator",)

HEARTBEAT_MS = 1000
HEARTBEAT_TIMEOUT_MS = 5000
"""A peer on TCP that sends nothing for this long, not even heartbeats, is gone: its machine or its cable failed."""

HANDSHAKE_RETRY_S = 1.0
"""A client that was refused waits this long before it connects again."""

_REFRESH_MS = 1000
_ZAP = "inproc://zeromq.zap.01"
_MONITOR = "inproc://afterimage.monitor"
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_LOG = logging.getLogger("afterimage.transport")


def guard_server(
    socket: zmq.Socket[bytes], context: zmq.Context[Any], endpoint: str, keys: Keys | None, purpose: Purpose
) -> ServerGuard | None:
    """Turn a socket that is not bound yet into a CURVE server that admits the keys of the allow-list.

    Args:
        socket: not bound yet.
        context: its context. No other guarded server may share it: ZeroMQ asks one authority per context.
        endpoint: where it is going to be bound. An ipc socket stays plain: its directory guards it.
        keys: of the node, with an allow-list; None leaves the socket plain.
        purpose: decides the roles that are admitted.

    Returns:
        The guard, to be closed before the socket; None if the socket stays plain.

    Raises:
        KeysError: no allow-list, a bad one, or a context that has a guard already.
    """
    if keys is None or not is_tcp(endpoint):
        return None
    if keys.allow_list is None:
        raise KeysError(
            f"endpoint {endpoint!r}: keys {keys.name!r} come without an allow-list, which names the keys to admit"
        )
    allowed = FollowedAllowList(keys.allow_list, keys.public)
    _keep_alive(socket)
    socket.curve_server = True
    socket.curve_secretkey = keys.secret.encode()
    socket.zap_domain = purpose.encode()
    # Without this option, ZeroMQ admits everybody while no guard answers it.
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return ServerGuard(socket, context, endpoint, allowed, purpose)


def guard_client(
    socket: zmq.Socket[bytes], context: zmq.Context[Any], endpoint: str, keys: Keys | None
) -> ClientGuard | None:
    """Turn a socket that is not connected yet into a CURVE client, which talks only to the node with the server key.

    Args:
        socket: not connected yet.
        context: its context.
        endpoint: where it is going to connect. An ipc socket stays plain.
        keys: own pair and server key; None leaves the socket plain.

    Returns:
        The guard, to be closed before the socket; None if the socket stays plain.

    Raises:
        KeysError: the server key is missing.
    """
    if keys is None or not is_tcp(endpoint):
        return None
    if keys.server is None:
        raise KeysError(
            f"endpoint {endpoint!r}: the node's public key is needed beside keys {keys.name!r}; "
            "give --server-key (in Python: load_keys(name, server_key))"
        )
    _keep_alive(socket)
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_serverkey = keys.server.encode()
    return ClientGuard(socket, context, endpoint, keys)


def _keep_alive(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)


class _Guard(threading.Thread):
    """Reads a socket's events in a thread of its own, so that ZeroMQ's thread never waits to report them."""

    def __init__(self, socket: zmq.Socket[bytes], context: zmq.Context[Any], endpoint: str) -> None:
        super().__init__(name=f"guard of {endpoint}", daemon=True)
        self.endpoint = endpoint
        self.refusals = Refusals()
        self._socket = socket
        # One address per guard, because clients may share a context.
        address = f"{_MONITOR}.{id(self)}"
        socket.monitor(address, _EVENTS)
        self._monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._monitor.linger = 0
        self._monitor.connect(address)

    def close(self) -> None:
        """End the thread; to be called by the socket's thread before it closes the socket. May be called again."""
        if self.is_alive():
            self._socket.monitor(None, 0)  # its last event ends the thread
            self.join()

    def refused(self) -> dict[str, int]:
        """Reason -> how many handshakes and messages were refused."""
        return self.refusals.counts()

    def run(self) -> None:
        """Serve until the socket's monitor stops."""
        poller = zmq.Poller()
        for socket in self._sockets():
            poller.register(socket, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll(_REFRESH_MS))
                self._serve(ready)
                if self._monitor in ready:
                    event = recv_monitor_message(self._monitor)
                    if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                        return
                    self._on_event(event["event"], event["value"])
        finally:
            for socket in self._sockets():
                socket.close(linger=0)

    def _sockets(self) -> list[zmq.Socket[bytes]]:
        return [self._monitor]

    def _serve(self, ready: dict[Any, int]) -> None:
        """What else there is to do at least once a second."""

    def _on_event(self, event: int, value: int) -> None:
        raise NotImplementedError

    def _refuse(self, reason: str, peer: str, text: str) -> None:
        self.refusals.add(reason, peer, text, time.monotonic())


class ServerGuard(_Guard):
    """Admits keys by the allow-list; made by :func:`guard_server`."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        context: zmq.Context[Any],
        endpoint: str,
        allowed: FollowedAllowList,
        purpose: Purpose,
    ) -> None:
        self._allowed = allowed
        self._purpose: Purpose = purpose
        self._fault = ""
        self._addresses: dict[int, str] = {}  # file descriptor of a connection -> peer
        self._failed: str | None = None  # why the handshake failed whose connection is about to end
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.linger = 0
        try:
            self._zap.bind(_ZAP)
        except zmq.ZMQError as e:
            self._zap.close(linger=0)
            raise KeysError(f"endpoint {endpoint!r}: a socket with a guard needs a context of its own") from e
        super().__init__(socket, context, endpoint)
        self.start()

    @property
    def version(self) -> int:
        """Grows whenever the allow-list changes."""
        return self._allowed.version

    def admits(self, user: str, modality: str | None = None) -> bool:
        """Whether a key (the ``User-Id`` of a message) is still admitted to this socket; from any thread."""
        return self._allowed.admits(user, _ROLES[self._purpose], modality)

    def operates(self, user: str) -> bool:
        """Whether a key may command the node; from any thread."""
        return self._allowed.admits(user, _COMMANDING)

    def _sockets(self) -> list[zmq.Socket[bytes]]:
        return [self._monitor, self._zap]

    def _serve(self, ready: dict[Any, int]) -> None:
        if self._zap in ready:
            self._answer(self._zap.recv_multipart())
        if self._allowed.refresh():
            _LOG.info("%s: the allow-list %s changed", self.endpoint, self._allowed.path)
        if self._allowed.fault != self._fault:
            self._fault = self._allowed.fault
            if self._fault:
                _LOG.error("%s: the allow-list stays as it was: %s", self.endpoint, self._fault)

    def _answer(self, request: list[bytes]) -> None:
        """Answer one ZAP request: version, id, domain, address, identity, mechanism, and the client's key."""
        number = request[1] if len(request) > 1 else b""
        if len(request) != 7 or request[5] != b"CURVE" or len(request[6]) != 32:
            self._zap.send_multipart([b"1.0", number, b"400", b"CURVE is needed", b"", b""])
            return
        # Read the list now if it changed a moment ago, so that a key that was just revoked is not admitted again.
        self._allowed.refresh()
        key, address = z85.encode(request[6]).decode("ascii"), request[3].decode("ascii", "replace")
        if self.admits(key):
            self._zap.send_multipart([b"1.0", number, b"200", b"OK", key.encode(), b""])
            return
        roles = " or ".join(_ROLES[self._purpose])
        if self._allowed.knows(key):
            reason, text = "wrong_role", f"is allowed, but not as {roles}"
        else:
            reason, text = "unknown_key", "is not in the allow-list"
        self._refuse(
            reason,
            key,
            f"{self.endpoint}: key {key!r} from {address} {text}; to admit it: "
            f"afterimage keys allow '{key}' --role {_ROLES[self._purpose][0]}",
        )
        self._zap.send_multipart([b"1.0", number, b"400", b"not admitted", b"", b""])

    def _on_event(self, event: int, value: int) -> None:
        """Follow connections: one that fails before its key was checked counts as a refusal as well."""
        if event == zmq.EVENT_ACCEPTED:
            self._addresses[value] = (_peer_of(value) or ("an unknown address",))[0]
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failed = _PROTOCOL_FAILURES.get(value, "not_zeromq")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._failed = "unfinished"
        elif event == zmq.EVENT_DISCONNECTED:
            # ZeroMQ reports a failed handshake and the end of its connection one after the other, from one thread.
            address = self._addresses.pop(value, "an unknown address")
            reason, self._failed = self._failed, None
            if reason is not None:
                self._refuse(reason, address, f"{self.endpoint}: {address} {_FAILURES[reason]}")


_PROTOCOL_FAILURES: dict[int, str] = {
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "no_keys",
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "wrong_server_key",
    zmq.PROTOCOL_ERROR_ZMTP_INVALID_SEQUENCE: "repeated",
}
_FAILURES = {
    "no_keys": "speaks without CURVE keys; give it --keys and --server-key",
    "wrong_server_key": "does not have this node's public key (give it the right --server-key), or is being altered",
    "repeated": "sends messages again: somebody between it and the node repeats them",
    "not_zeromq": "does not speak ZeroMQ with CURVE",
    "unfinished": "left before the handshake was done: a port scan, or without CURVE keys (--keys and --server-key)",
}


class ClientGuard(_Guard):
    """Tells why a node refuses this process, and retries its handshake; made by :func:`guard_client`."""

    def __init__(
        self, socket: zmq.Socket[bytes], context: zmq.Context[Any], endpoint: str, keys: Keys
    ) -> None:
        self._keys = keys
        self._handshake_refused = threading.Event()
        self._tried_s = time.monotonic()
        super().__init__(socket, context, endpoint)
        self.start()

    def retry_refused_handshake(self) -> None:
        """Connect again after a refusal, at most once a second; the socket's thread calls it when it uses the socket.

        ZeroMQ reconnects by itself to a node that went away, but not to one that refused it. Without this, a key that
        is allowed later would stay outside until its process starts again.
        """
        if self._handshake_refused.is_set() and time.monotonic() - self._tried_s > HANDSHAKE_RETRY_S:
            self._handshake_refused.clear()
            self._tried_s = time.monotonic()
            with suppress(zmq.ZMQError):  # ZeroMQ may have forgotten the refused connection already
                self._socket.disconnect(self.endpoint)
            self._socket.connect(self.endpoint)

    def _on_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._handshake_refused.set()
            self._refuse(
                "not_admitted",
                self._keys.public,
                f"{self.endpoint}: the node does not admit key {self._keys.name!r}; on the node's machine: "
                f"afterimage keys allow '{self._keys.public}' --role sensor|reader",
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._handshake_refused.set()
            self._refuse(
                "no_keys",
                "",
                f"{self.endpoint}: what listens there has no CURVE keys; start the node with --keys",
            )
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._refuse(
                "unfinished",
                "",
                f"{self.endpoint}: the node ended the connection during the handshake; is --server-key the node's key?",
            )


def disconnect(fd: int, peer: tuple[Any, ...] | None) -> bool:
    """End the TCP connection of a peer that is no longer admitted. It may connect again, and its key is checked then.

    Args:
        fd: the connection's file descriptor, as ZeroMQ gives it with each message.
        peer: the address that the connection must still have: the system uses descriptors again, and no other peer's
            connection may be ended.

    Returns:
        Whether there was such a connection.
    """
    if peer is None or _peer_of(fd) != peer:
        return False
    with suppress(OSError), network.socket(fileno=os.dup(fd)) as connection:
        connection.shutdown(network.SHUT_RDWR)
        return True
    return False


def _peer_of(fd: int) -> tuple[Any, ...] | None:
    """Address of the other end of a connection; None if it is closed."""
    try:
        with network.socket(fileno=os.dup(fd)) as connection:
            peer = connection.getpeername()
    except OSError:
        return None
    return peer if isinstance(peer, tuple) else None


def connection_of(frame: zmq.Frame) -> tuple[str, int, tuple[Any, ...] | None]:
    """Where a message came from: the sender's key, the connection's file descriptor, and the sender's address."""
    user, fd = str(frame.get("User-Id")), int(frame.get(zmq.SRCFD))
    return user, fd, _peer_of(fd)
