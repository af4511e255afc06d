"""The sockets of a node, frames in, decisions out, and control; and which of them has something to read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import zmq

from runtime.transport.control import Command, ControlServer
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import DecisionSender, FrameReceiver


class NodeSockets:
    """The three sockets, bound on construction; for one thread.

    Attributes:
        frames: receives what sensors send.
        decisions: sends what the node publishes.
        control: answers clock probes and receives commands; None if the node has none.
    """

    def __init__(self, endpoints: Endpoints, control: str | None) -> None:
        """Bind.

        Raises:
            EndpointError: an endpoint that is not allowed or taken; nothing stays bound.
        """
        keys = endpoints.keys
        with ExitStack() as opened:
            self.frames = opened.enter_context(FrameReceiver(endpoints.frames, keys=keys))
            self.decisions = opened.enter_context(DecisionSender(endpoints.decisions, keys=keys))
            self.control = (
                None if control is None else opened.enter_context(ControlServer(control, keys=keys))
            )
            self._opened = opened.pop_all()
        self._awaited: set[bytes] = set()
        self._readable: dict[Any, int] | None = None
        """The sockets that :meth:`wait` found readable; None if it did not look."""
        self._has_frames = False
        self._poller = zmq.Poller()
        for each in (self.frames, self.decisions, self.control):
            if each is not None:
                self._poller.register(each.socket, zmq.POLLIN)

    def wait(self, remaining_ns: int) -> None:
        """Wait for a message, but no longer than this many nanoseconds."""
        # poll counts whole milliseconds; the rest is slept, so that a tick starts on its deadline and not
        # before.
        if remaining_ns >= 1_000_000:
            self._readable = dict(self._poller.poll(remaining_ns // 1_000_000))
        else:
            time.sleep(remaining_ns / 1e9)

    def await_subscriber(self, topic: bytes, timeout_s: float) -> bool:
        """Wait until somebody subscribes to a topic; False if nobody does in time."""
        end = time.monotonic() + timeout_s
        while not self.decisions.subscribed(topic):
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
            self._awaited |= self.decisions.update_subscriptions()
        return True

    def poll(self, clock: Callable[[], int]) -> tuple[set[bytes], Iterable[Command]]:
        """Look at every socket once: answer clock probes, and note whether frames wait for :meth:`receive_frames`.

        Returns:
            prefixes newly subscribed to since the last call, and commands to answer when they are done.
        """
        readable, self._readable = self._readable, None
        if readable is None:
            # One poll of all: finding out by a read that nothing waits costs an exception per socket.
            readable = dict(self._poller.poll(0))
        self._has_frames = self.frames.socket in readable
        subscriptions: set[bytes] = set()
        if self.decisions.socket in readable or self._awaited:
            subscriptions, self._awaited = self._awaited | self.decisions.update_subscriptions(), set()
        commands: Iterable[Command] = ()
        if self.control is not None and self.control.socket in readable:
            commands = self.control.answer_waiting(clock)
        return subscriptions, commands

    def receive_frames(self, most: int) -> Iterator[list[memoryview]]:
        """The messages of sensors that wait, at most ``most`` of them; after :meth:`poll`."""
        if not self._has_frames:
            return
        for count in range(most):
            # After the first message there is mostly no other, so ask; after two, trying is cheaper.
            if count == 1 and not int(self.frames.socket.get(zmq.EVENTS)) & zmq.POLLIN:
                return
            parts = self.frames.receive()
            if parts is None:
                return
            yield parts

    def refused(self) -> dict[str, Any]:
        """Connections and messages that were refused, by socket and reason."""
        return {
            "frames": self.frames.refused(),
            "decisions": self.decisions.refused(),
            "control": {} if self.control is None else self.control.refused(),
        }

    def close(self) -> None:
        """Close all sockets; may be called again."""
        self._opened.close()
