"""Sockets: the ZeroMQ sockets of nodes, sensors and readers, bounded in every direction.

Nothing here decides anything: these classes send and receive parts of messages. Every queue has a
high-water mark, every socket a largest message, and closing never waits for a peer (linger 0).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from runtime.transport.endpoints import EndpointError, check_endpoint, prepare_directory

HIGH_WATER_MARK = 256
"""Messages a queue holds for one peer; beyond it the newest are dropped, and sequence gaps tell of it."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A peer that sends a larger message part is disconnected by ZeroMQ; the finer limits are the wire's."""

MAX_PARTS = 8
"""Parts of one message that are kept; the rest are read and thrown away."""


def _configure(socket: zmq.Socket[bytes], high_water_mark: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.SNDHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)


def _receive(socket: zmq.Socket[bytes]) -> list[memoryview] | None:
    """One message without copying its payload, or None; never more than MAX_PARTS + 1 parts."""
    try:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    parts = [frame.buffer]
    while frame.more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        # One part too many is kept so that the decoder sees that there were too many.
        if len(parts) <= MAX_PARTS:
            parts.append(frame.buffer)
    return parts


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind, refusing an ipc path that another process listens on (ZeroMQ would silently take it over)."""
    prepare_directory(endpoint)
    if endpoint.startswith("ipc://") and _somebody_listens(Path(endpoint.removeprefix("ipc://"))):
        raise EndpointError(
            f"endpoint {endpoint!r}: another node listens there; stop it or name other endpoints"
        )
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as e:
        raise EndpointError(f"endpoint {endpoint!r}: cannot listen there: {e.strerror}") from e


def _somebody_listens(path: Path) -> bool:
    import socket as unix

    if not path.is_socket():
        return False
    with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


class _Closing:
    """A socket with its own context, closed in order and only once."""

    def __init__(self, kind: int, high_water_mark: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(kind)
        _configure(self.socket, high_water_mark)

    def close(self) -> None:
        """Close the socket, then its context; messages not yet sent are dropped. May be called again."""
        self.socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FrameReceiver(_Closing):
    """The node's ingest: a bound SUB socket that takes every topic, so that stray messages are counted."""

    def __init__(self, endpoint: str, *, high_water_mark: int = HIGH_WATER_MARK) -> None:
        """Listen for sensors.

        Raises:
            EndpointError: an address that is not allowed, taken, or cannot be bound.
        """
        check_endpoint(endpoint)
        super().__init__(zmq.SUB, high_water_mark)
        self.endpoint = endpoint
        try:
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
            _bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def receive(self) -> list[memoryview] | None:
        """The next message's parts, or None if none waits. ZeroMQ takes turns between the sensors."""
        return _receive(self.socket)


class FrameSender(_Closing):
    """A sensor's output: a PUB socket connected to the node; it reconnects when the node comes back."""

    def __init__(self, endpoint: str, *, high_water_mark: int = HIGH_WATER_MARK) -> None:
        """Connect to a node, which need not be there yet.

        Raises:
            EndpointError: an address that is not allowed.
        """
        check_endpoint(endpoint)
        super().__init__(zmq.PUB, high_water_mark)
        # A node that restarts is found again within a tenth of a second, or a second if it stays away.
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self.socket.connect(endpoint)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send one message without ever waiting: if no node listens or keeps up, it is dropped."""
        self.socket.send_multipart(parts, zmq.NOBLOCK, copy=True)


class DecisionSender(_Closing):
    """The node's output: an XPUB socket that knows which topics somebody reads."""

    def __init__(self, endpoint: str, *, high_water_mark: int = HIGH_WATER_MARK) -> None:
        """Listen for readers.

        Raises:
            EndpointError: an address that is not allowed, taken, or cannot be bound.
        """
        check_endpoint(endpoint)
        super().__init__(zmq.XPUB, high_water_mark)
        self.endpoint = endpoint
        self._subscriptions: set[bytes] = set()
        # Every subscription is reported, not only the first to a topic: a new reader may need an introduction.
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        try:
            _bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def update_subscriptions(self) -> set[bytes]:
        """Take in what readers subscribed to or left since the last call; gives the prefixes newly subscribed to."""
        fresh: set[bytes] = set()
        for _ in range(1000):  # bounded: a reader must not keep the node busy with subscriptions
            parts = _receive(self.socket)
            if parts is None:
                break
            message = bytes(parts[0])
            # XPUB reports every subscription to a topic (1) and the last leave (0); readers send nothing else.
            if message[:1] == b"\x01" and len(message) <= 256:
                self._subscriptions.add(message[1:])
                fresh.add(message[1:])
            elif message[:1] == b"\x00":
                self._subscriptions.discard(message[1:])
        return fresh

    def subscribed(self, topic: bytes) -> bool:
        """Whether somebody reads a topic; subscriptions are prefixes, as everywhere in ZeroMQ."""
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Publish one message without ever waiting: a reader that does not keep up loses it."""
        self.socket.send_multipart(parts, zmq.NOBLOCK, copy=True)


class DecisionReceiver(_Closing):
    """A reader's input: a SUB socket connected to the node, which need not be there yet."""

    def __init__(
        self, endpoint: str, topics: Sequence[bytes], *, high_water_mark: int = HIGH_WATER_MARK
    ) -> None:
        """Connect and subscribe to topics (prefixes).

        Raises:
            EndpointError: an address that is not allowed.
        """
        check_endpoint(endpoint)
        super().__init__(zmq.SUB, high_water_mark)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        for topic in topics:
            self.socket.setsockopt(zmq.SUBSCRIBE, topic)
        self.socket.connect(endpoint)

    def receive(self, timeout_ms: int) -> list[memoryview] | None:
        """The next message's parts, or None if none comes within ``timeout_ms``."""
        if not self.socket.poll(timeout_ms, zmq.POLLIN):
            return None
        return _receive(self.socket)
