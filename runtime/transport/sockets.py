"""Sockets: the ZeroMQ sockets of nodes, sensors and readers, bounded in every direction.

Nothing here decides anything: these classes send and receive parts of messages. Every queue has a
high-water mark, every socket a largest message, and closing never waits for a peer (linger 0). With keys, a
socket on TCP is encrypted and lets in only who is admitted (:mod:`runtime.transport.authentication`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from runtime.transport.authentication import (
    ClientGuard,
    ServerGuard,
    connection_of,
    cut,
    guard_client,
    guard_server,
)
from runtime.transport.endpoints import EndpointError, check_endpoint, prepare_directory
from runtime.transport.keys import Keys
from runtime.wire import JOURNAL_PREFIX

HIGH_WATER_MARK = 256
"""Messages a queue holds for one peer; beyond it the newest are dropped, and sequence gaps tell of it."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A peer that sends a larger message part is disconnected by ZeroMQ; the finer limits are the wire's."""

MAX_PARTS = 8
"""Parts of one message that are kept; the rest are read and thrown away."""

HANDSHAKE_MS = 5000
"""A connection that has not said who it is by then is closed."""

_REFUSED_PER_CALL = 64
"""Messages that one call throws away before it lets its caller go on: a flood must not hold up a tick."""


def _configure(socket: zmq.Socket[bytes], high_water_mark: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.SNDHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)


def _allow_ipv6(socket: zmq.Socket[bytes], endpoint: str) -> None:
    # Only where an address of it is named: with it, ZeroMQ writes IPv4 addresses in IPv6's form.
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)


def _receive_from(socket: zmq.Socket[bytes]) -> tuple[list[memoryview], zmq.Frame] | None:
    """One message without copying its payload, or None; never more than MAX_PARTS + 1 parts.

    The frame of the first part comes along: it knows whose message it is.
    """
    try:
        first = frame = socket.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    parts = [frame.buffer]
    while frame.more:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        # One part too many is kept so that the decoder sees that there were too many.
        if len(parts) <= MAX_PARTS:
            parts.append(frame.buffer)
    return parts, first


def _receive(socket: zmq.Socket[bytes]) -> list[memoryview] | None:
    message = _receive_from(socket)
    return None if message is None else message[0]


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind, refusing an ipc path that another process listens on (ZeroMQ would silently take it over)."""
    prepare_directory(endpoint)
    if endpoint.startswith("ipc://") and _somebody_listens(Path(endpoint.removeprefix("ipc://"))):
        raise EndpointError(
            f"endpoint {endpoint!r}: another node listens there; stop it or name other endpoints"
        )
    try:
        _allow_ipv6(socket, endpoint)
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
    """A socket with its own context and perhaps a guard, closed in order and only once."""

    def __init__(self, kind: int, high_water_mark: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._guard: ServerGuard | ClientGuard | None = None
        _configure(self.socket, high_water_mark)

    def knock_again(self) -> None:
        """A client that was refused asks again now and then; to be called whenever its socket is used."""
        if isinstance(self._guard, ClientGuard):
            self._guard.knock_again()

    def refused(self) -> dict[str, int]:
        """Reason -> how many connections and messages were refused; empty without keys."""
        return {} if self._guard is None else self._guard.refused()

    def close(self) -> None:
        """Close the socket, then its context; messages not yet sent are dropped. May be called again."""
        if self._guard is not None:
            self._guard.close()
        self.socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _connect(closing: _Closing, endpoint: str, keys: Keys | None) -> None:
    try:
        closing._guard = guard_client(closing.socket, closing._context, endpoint, keys)
        _allow_ipv6(closing.socket, endpoint)
        closing.socket.connect(endpoint)
    except zmq.ZMQError as e:
        closing.close()
        raise EndpointError(f"endpoint {endpoint!r}: cannot connect there: {e.strerror}") from e
    except BaseException:
        closing.close()
        raise


class FrameReceiver(_Closing):
    """The node's ingest: a bound SUB socket that takes every topic, so that stray messages are counted."""

    def __init__(
        self, endpoint: str, *, keys: Keys | None = None, high_water_mark: int = HIGH_WATER_MARK
    ) -> None:
        """Listen for sensors.

        Args:
            endpoint: where.
            keys: of the node; needed beyond this machine.
            high_water_mark: messages that may wait, for each sensor.

        Raises:
            EndpointError: an address that is not allowed, taken, or cannot be bound; or keys that cannot be used.
        """
        check_endpoint(endpoint, keys)
        super().__init__(zmq.SUB, high_water_mark)
        self.endpoint = endpoint
        self._admission: ServerGuard | None = None
        try:
            self._guard = self._admission = guard_server(self.socket, self._context, endpoint, keys, "frames")
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
            _bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def receive(self) -> list[memoryview] | None:
        """The next message's parts, or None if none waits. ZeroMQ takes turns between the sensors.

        With keys, messages of a key that was revoked, or for a modality that is not its own, are thrown away.
        """
        for _ in range(_REFUSED_PER_CALL):
            message = _receive_from(self.socket)
            if message is None:
                return None
            parts, first = message
            if self._admission is None or self._admitted(self._admission, parts[0], first):
                return parts
        return None

    def _admitted(self, guard: ServerGuard, topic: memoryview, first: zmq.Frame) -> bool:
        """Whether a message may come in; a connection whose key was revoked is cut."""
        user = str(first.get("User-Id"))
        # What follows frame/<rig>/; whether it is a topic at all is the decoder's to say.
        modality = bytes(topic[:512]).split(b"/", 2)[-1].decode("ascii", "replace")
        if guard.admits(user, modality):
            return True
        if guard.admits(user):
            reason, text = "wrong_modality", f"may not publish {modality[:60]!r}"
        else:
            reason, text = "revoked_key", "was revoked"
            _, fd, peer = connection_of(first)
            cut(fd, peer)
        guard.refusals.add(reason, user, f"{self.endpoint}: key {user!r} {text}", time.monotonic())
        return False


class FrameSender(_Closing):
    """A sensor's output: a PUB socket connected to the node; it reconnects when the node comes back."""

    def __init__(
        self, endpoint: str, *, keys: Keys | None = None, high_water_mark: int = HIGH_WATER_MARK
    ) -> None:
        """Connect to a node, which need not be there yet.

        Args:
            endpoint: the node's frames endpoint.
            keys: of this sensor, with the node's public key; needed beyond this machine.
            high_water_mark: messages that may wait.

        Raises:
            EndpointError: an address that is not allowed, or keys that cannot be used.
        """
        check_endpoint(endpoint, keys)
        super().__init__(zmq.PUB, high_water_mark)
        # A node that restarts is found again within a tenth of a second, or a second if it stays away.
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        _connect(self, endpoint, keys)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send one message without ever waiting: if no node listens or keeps up, it is dropped."""
        self.knock_again()
        self.socket.send_multipart(parts, zmq.NOBLOCK, copy=True)


class DecisionSender(_Closing):
    """The node's output: an XPUB socket that knows which topics somebody reads."""

    def __init__(
        self, endpoint: str, *, keys: Keys | None = None, high_water_mark: int = HIGH_WATER_MARK
    ) -> None:
        """Listen for readers.

        Args:
            endpoint: where.
            keys: of the node; needed beyond this machine.
            high_water_mark: messages that may wait, for each reader.

        Raises:
            EndpointError: an address that is not allowed, taken, or cannot be bound; or keys that cannot be used.
        """
        check_endpoint(endpoint, keys)
        super().__init__(zmq.XPUB, high_water_mark)
        self.endpoint = endpoint
        self._subscriptions: set[bytes] = set()
        self.journaled = False
        """Whether somebody reads the journal, as of the last :meth:`update_subscriptions`."""
        self._admission: ServerGuard | None = None
        self._readers: dict[int, tuple[str, tuple[Any, ...] | None]] = {}  # connection -> key, peer
        self._admitted_version = 0
        # Every subscription is reported, not only the first to a topic: a new reader may need an introduction.
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        try:
            self._guard = self._admission = guard_server(
                self.socket, self._context, endpoint, keys, "decisions"
            )
            _bind(self.socket, endpoint)
        except BaseException:
            self.close()
            raise

    def update_subscriptions(self) -> set[bytes]:
        """Take in what readers subscribed to or left since the last call; gives the prefixes newly subscribed to.

        With keys, readers whose key was revoked since are cut off.
        """
        fresh: set[bytes] = set()
        unchecked = self._admission is not None and self._admission.version != self._admitted_version
        for _ in range(1000):  # bounded: a reader must not keep the node busy with subscriptions
            received = _receive_from(self.socket)
            if received is None:
                break
            parts, first = received
            message = bytes(parts[0])
            # XPUB reports every subscription to a topic (1) and the last leave (0); readers send nothing else.
            if message[:1] == b"\x01" and self._admission is not None:
                user, fd, peer = connection_of(first)
                self._readers[fd] = (user, peer)
                unchecked = True
            if message[:1] == b"\x01" and len(message) <= 256:
                self._subscriptions.add(message[1:])
                fresh.add(message[1:])
            elif message[:1] == b"\x00":
                self._subscriptions.discard(message[1:])
        if unchecked and self._admission is not None:
            self._cut_revoked(self._admission)
        self.journaled = self.subscribed(JOURNAL_PREFIX)
        return fresh

    def _cut_revoked(self, guard: ServerGuard) -> None:
        """Cut off whoever is no longer admitted, also one who came in a moment before that."""
        self._admitted_version = guard.version
        for fd, (user, peer) in list(self._readers.items()):
            if not guard.admits(user):
                del self._readers[fd]
                if cut(fd, peer):
                    text = f"{self.endpoint}: key {user!r} was revoked and is cut off"
                    guard.refusals.add("revoked_key", user, text, time.monotonic())

    def subscribed(self, topic: bytes) -> bool:
        """Whether somebody reads a topic; subscriptions are prefixes, as everywhere in ZeroMQ."""
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Publish one message without ever waiting: a reader that does not keep up loses it."""
        self.socket.send_multipart(parts, zmq.NOBLOCK, copy=True)


class DecisionReceiver(_Closing):
    """A reader's input: a SUB socket connected to the node, which need not be there yet."""

    def __init__(
        self,
        endpoint: str,
        topics: Sequence[bytes],
        *,
        keys: Keys | None = None,
        high_water_mark: int = HIGH_WATER_MARK,
    ) -> None:
        """Connect and subscribe.

        Args:
            endpoint: the node's decisions endpoint.
            topics: prefixes to subscribe to.
            keys: of this reader, with the node's public key; needed beyond this machine.
            high_water_mark: messages that may wait.

        Raises:
            EndpointError: an address that is not allowed, or keys that cannot be used.
        """
        check_endpoint(endpoint, keys)
        super().__init__(zmq.SUB, high_water_mark)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        for topic in topics:
            self.socket.setsockopt(zmq.SUBSCRIBE, topic)
        _connect(self, endpoint, keys)

    def receive(self, timeout_ms: int) -> list[memoryview] | None:
        """The next message's parts, or None if none comes within ``timeout_ms``."""
        self.knock_again()
        if not self.socket.poll(timeout_ms, zmq.POLLIN):
            return None
        return _receive(self.socket)
