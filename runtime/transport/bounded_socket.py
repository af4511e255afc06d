"""One ZeroMQ socket that is bounded in every direction: queues, message sizes, handshakes and closing.

:class:`BoundedSocket` owns a socket, its context and, with keys on TCP, the guard that admits its peers
(:mod:`runtime.transport.authentication`). The sockets of nodes, sensors and readers are built on it.
"""

from __future__ import annotations

import os
import socket as unix
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from runtime.transport.authentication import (
    ClientGuard,
    Purpose,
    ServerGuard,
    guard_client,
    guard_server,
)
from runtime.transport.endpoints import EndpointError, check_endpoint, prepare_directory
from runtime.transport.keys import Keys

HIGH_WATER_MARK = 256
"""Messages that a queue holds for one peer. Beyond it the newest are dropped, which leaves a gap in the sequence."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""ZeroMQ disconnects a peer that sends a larger message part; the wire protocol has tighter limits of its own."""

MAX_PARTS = 8
"""Parts of one message that are kept; the rest are read and thrown away."""

HANDSHAKE_MS = 5000
"""A connection whose handshake takes longer than this is closed."""


class BoundedSocket:
    """A socket with its own context and, where keys are used, a guard; closed in the right order and only once.

    Attributes:
        socket: the ZeroMQ socket, for pollers and socket options.
        endpoint: where it was bound or connected; empty before that.
    """

    def __init__(self, kind: int, high_water_mark: int = HIGH_WATER_MARK) -> None:
        """Open a socket that is neither bound nor connected yet.

        Args:
            kind: of the socket, such as ``zmq.SUB``.
            high_water_mark: messages that may wait, for each peer.
        """
        self.endpoint = ""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._server_guard: ServerGuard | None = None
        self._client_guard: ClientGuard | None = None
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, high_water_mark)
        self.socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def bind(self, endpoint: str, keys: Keys | None, purpose: Purpose) -> ServerGuard | None:
        """Listen. The socket is closed if that fails.

        Args:
            endpoint: where.
            keys: of the node; needed beyond this machine.
            purpose: decides which roles of keys are admitted.

        Returns:
            The guard that admits peers; None where the socket is open to everybody who can reach it.

        Raises:
            EndpointError: an address that is not allowed, is taken, or cannot be bound.
            KeysError: keys that cannot be used.
        """
        try:
            check_endpoint(endpoint, keys)
            self.endpoint = endpoint
            self._server_guard = guard_server(self.socket, self._context, endpoint, keys, purpose)
            self._bind()
        except BaseException:
            self.close()
            raise
        return self._server_guard

    def connect(self, endpoint: str, keys: Keys | None) -> None:
        """Connect to a node, which need not be there yet. The socket is closed if the address cannot be used.

        Args:
            endpoint: of the node.
            keys: own pair and the node's public key; needed beyond this machine.

        Raises:
            EndpointError: an address that is not allowed or cannot be used.
            KeysError: keys that cannot be used.
        """
        try:
            check_endpoint(endpoint, keys)
            self.endpoint = endpoint
            self._client_guard = guard_client(self.socket, self._context, endpoint, keys)
            self._allow_ipv6()
            self.socket.connect(endpoint)
        except zmq.ZMQError as e:
            self.close()
            raise EndpointError(f"endpoint {endpoint!r}: cannot connect there: {e.strerror}") from e
        except BaseException:
            self.close()
            raise

    def receive_message(self) -> tuple[list[memoryview], zmq.Frame] | None:
        """One message without copying its payload and without waiting, or None.

        Returns:
            At most MAX_PARTS + 1 parts (one more than is allowed, so that the decoder sees that there were too many),
            and the frame of the first part, which knows the sender's key and connection.
        """
        try:
            first = frame = self.socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        parts = [frame.buffer]
        while frame.more:
            frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            if len(parts) <= MAX_PARTS:
                parts.append(frame.buffer)
        return parts, first

    def retry_refused_handshake(self) -> None:
        """Connect again, now and then, where the node refused this client's key.

        ZeroMQ does not do that by itself; call this whenever the socket is used.
        """
        if self._client_guard is not None:
            self._client_guard.retry_refused_handshake()

    def refused(self) -> dict[str, int]:
        """Reason -> how many connections and messages were refused; empty without keys."""
        guard = self._server_guard or self._client_guard
        return {} if guard is None else guard.refused()

    def close(self) -> None:
        """Close the socket, then its context; messages not yet sent are dropped. May be called again."""
        for guard in (self._server_guard, self._client_guard):
            if guard is not None:
                guard.close()
        self.socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        """The socket itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self.close()

    def _bind(self) -> None:
        """Bind, but refuse an ipc path that another process listens on: ZeroMQ would silently take it over."""
        prepare_directory(self.endpoint)
        if self.endpoint.startswith("ipc://") and _is_listened_on(Path(self.endpoint.removeprefix("ipc://"))):
            raise EndpointError(
                f"endpoint {self.endpoint!r}: another node listens there; stop it or name other endpoints"
            )
        try:
            self._allow_ipv6()
            self.socket.bind(self.endpoint)
        except zmq.ZMQError as e:
            raise EndpointError(f"endpoint {self.endpoint!r}: cannot listen there: {e.strerror}") from e

    def _allow_ipv6(self) -> None:
        # Only for an endpoint with an IPv6 address: with this option ZeroMQ writes IPv4 addresses in IPv6's form.
        if "[" in self.endpoint:
            self.socket.setsockopt(zmq.IPV6, 1)


def _is_listened_on(path: Path) -> bool:
    """Whether a process listens on a Unix socket; a dead process leaves the file behind."""
    if not path.is_socket():
        return False
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True
