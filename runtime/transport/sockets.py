"""The four sockets of a running system: frames from sensors to the node, decisions from the node to readers.

Nothing here decides what a message means: these classes send and receive parts of messages. A socket on TCP with keys
is encrypted and admits only the keys of the allow-list (:mod:`runtime.transport.authentication`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import zmq

from runtime.transport.authentication import ServerGuard, connection_of, disconnect
from runtime.transport.bounded_socket import HIGH_WATER_MARK, BoundedSocket
from runtime.transport.keys import Keys
from runtime.wire import JOURNAL_PREFIX

_REFUSED_PER_CALL = 64
"""Messages that one call throws away before it returns to its caller: a flood must not hold up a tick."""

_SUBSCRIPTIONS_PER_CALL = 1000
"""Subscriptions that one call takes in: a reader must not keep the node busy with them."""

_RECONNECT_MS, _RECONNECT_MAX_MS = 50, 1000
"""A node that restarts is found again within a tenth of a second; within a second if it was away for longer."""


class FrameReceiver(BoundedSocket):
    """The node's input: a bound SUB socket. It takes every topic, so that stray messages are counted."""

    def __init__(
        self, endpoint: str, *, keys: Keys | None = None, high_water_mark: int = HIGH_WATER_MARK
    ) -> None:
        """Listen for sensors.

        Args:
            endpoint: where.
            keys: of the node; needed beyond this machine.
            high_water_mark: messages that may wait, for each sensor.

        Raises:
            EndpointError: an address that is not allowed, is taken, or cannot be bound.
            KeysError: keys that cannot be used.
        """
        super().__init__(zmq.SUB, high_water_mark)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._admission = self.bind(endpoint, keys, "frames")

    def receive(self) -> list[memoryview] | None:
        """The next message's parts, or None if none waits. ZeroMQ takes turns between the sensors.

        With keys, a message is thrown away if its key was revoked or may not publish that modality.
        """
        for _ in range(_REFUSED_PER_CALL):
            message = self.receive_message()
            if message is None:
                return None
            parts, first = message
            if self._admission is None or self._admits(self._admission, parts[0], first):
                return parts
        return None

    def _admits(self, guard: ServerGuard, topic: memoryview, first: zmq.Frame) -> bool:
        """Whether a message may come in; the connection of a revoked key is ended."""
        user = str(first.get("User-Id"))
        # What follows frame/<rig>/. The decoder checks later whether the whole is a topic at all.
        modality = bytes(topic[:512]).split(b"/", 2)[-1].decode("ascii", "replace")
        if guard.admits(user, modality):
            return True
        if guard.admits(user):
            reason, text = "wrong_modality", f"may not publish {modality[:60]!r}"
        else:
            reason, text = "revoked_key", "was revoked"
            _, fd, peer = connection_of(first)
            disconnect(fd, peer)
        guard.refusals.add(reason, user, f"{self.endpoint}: key {user!r} {text}", time.monotonic())
        return False


class FrameSender(BoundedSocket):
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
            EndpointError: an address that is not allowed.
            KeysError: keys that cannot be used.
        """
        super().__init__(zmq.PUB, high_water_mark)
        self.socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        self.connect(endpoint, keys)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send one message without ever waiting: it is dropped if no node listens or keeps up."""
        self.retry_refused_handshake()
        self.socket.send_multipart(parts, zmq.NOBLOCK, copy=True)


class DecisionSender(BoundedSocket):
    """The node's output: an XPUB socket, which knows the topics that readers subscribe to.

    Attributes:
        journaled: whether somebody reads the journal, as of the last :meth:`update_subscriptions`.
    """

    def __init__(
        self, endpoint: str, *, keys: Keys | None = None, high_water_mark: int = HIGH_WATER_MARK
    ) -> None:
        """Listen for readers.

        Args:
            endpoint: where.
            keys: of the node; needed beyond this machine.
            high_water_mark: messages that may wait, for each reader.

        Raises:
            EndpointError: an address that is not allowed, is taken, or cannot be bound.
            KeysError: keys that cannot be used.
        """
        super().__init__(zmq.XPUB, high_water_mark)
        self.journaled = False
        self._subscriptions: set[bytes] = set()
        self._readers: dict[int, tuple[str, tuple[Any, ...] | None]] = {}  # connection -> key, address
        self._checked_version = 0
        # Report every subscription, not only the first to a topic: each new reader of the journal needs its beginning.
        self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._admission = self.bind(endpoint, keys, "decisions")

    def update_subscriptions(self) -> set[bytes]:
        """Take in the subscriptions that came or ended since the last call; gives the prefixes that came.

        With keys, readers whose key was revoked since then are disconnected.
        """
        fresh: set[bytes] = set()
        guard = self._admission
        unchecked = guard is not None and guard.version != self._checked_version
        for _ in range(_SUBSCRIPTIONS_PER_CALL):
            received = self.receive_message()
            if received is None:
                break
            parts, first = received
            message = bytes(parts[0])
            # XPUB reports every subscription to a topic (1) and the end of its last one (0); readers send nothing else.
            if message[:1] == b"\x01" and guard is not None:
                user, fd, peer = connection_of(first)
                self._readers[fd] = (user, peer)
                unchecked = True
            if message[:1] == b"\x01" and len(message) <= 256:
                self._subscriptions.add(message[1:])
                fresh.add(message[1:])
            elif message[:1] == b"\x00":
                self._subscriptions.discard(message[1:])
        if unchecked and guard is not None:
            self._disconnect_revoked(guard)
        self.journaled = self.subscribed(JOURNAL_PREFIX)
        return fresh

    def _disconnect_revoked(self, guard: ServerGuard) -> None:
        """Disconnect readers that are no longer admitted, also one that connected just before its key was revoked."""
        self._checked_version = guard.version
        for fd, (user, peer) in list(self._readers.items()):
            if not guard.admits(user):
                del self._readers[fd]
                if disconnect(fd, peer):
                    text = f"{self.endpoint}: key {user!r} was revoked and is disconnected"
                    guard.refusals.add("revoked_key", user, text, time.monotonic())

    def subscribed(self, topic: bytes) -> bool:
        """Whether somebody reads a topic; subscriptions are prefixes, as everywhere in ZeroMQ."""
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def send(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Publish one message without ever waiting: a reader that does not keep up loses it."""
        self.socket.send_multipart(parts, zmq.NOBLOCK, copy=True)


class DecisionReceiver(BoundedSocket):
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
            EndpointError: an address that is not allowed.
            KeysError: keys that cannot be used.
        """
        super().__init__(zmq.SUB, high_water_mark)
        self.socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        for topic in topics:
            self.socket.setsockopt(zmq.SUBSCRIBE, topic)
        self.connect(endpoint, keys)

    def receive(self, timeout_ms: int) -> list[memoryview] | None:
        """The next message's parts, or None if none comes within ``timeout_ms``."""
        self.retry_refused_handshake()
        if not self.socket.poll(timeout_ms, zmq.POLLIN):
            return None
        message = self.receive_message()
        return None if message is None else message[0]
