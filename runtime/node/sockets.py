"""The sockets of a node: frames in, decisions out, commands; and which of them has something to read."""

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
    """Bound when made; for one thread.

    Attributes:
        frames: what sensors send.
        decisions: what the node publishes.
        control: where clocks are measured and commands come in; None for none.
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
        """What was found to be readable after waiting; None where nobody looked since."""
        self._frames_wait = False
        self._poller = zmq.Poller()
        for each in (self.frames, self.decisions, self.control):
            if each is not None:
                self._poller.register(each.socket, zmq.POLLIN)

    def wait(self, remaining_ns: int) -> None:
        """Wait for a message, but not beyond a time from now."""
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

    def news(self, clock: Callable[[], int]) -> tuple[set[bytes], Iterable[Command]]:
        """What came since the last call besides frames: prefixes newly subscribed to, and commands to be answered.

        Sensors that measure their clocks have their answer.
        """
        readable, self._readable = self._readable, None
        if readable is None:
            # Asked once: to find out by reading that nothing waits takes an exception for each socket.
            readable = dict(self._poller.poll(0))
        self._frames_wait = self.frames.socket in readable
        fresh: set[bytes] = set()
        if self.decisions.socket in readable or self._awaited:
            fresh, self._awaited = self._awaited | self.decisions.update_subscriptions(), set()
        commands: Iterable[Command] = ()
        if self.control is not None and self.control.socket in readable:
            commands = self.control.answer_waiting(clock)
        return fresh, commands

    def frames_waiting(self, most: int) -> Iterator[list[memoryview]]:
        """The messages of sensors that wait, at most so many; after :meth:`news`."""
        if not self._frames_wait:
            return
        for count in range(most):
            # Where there was one there is mostly no other; where there were two, it is cheaper to try.
            if count == 1 and not int(self.frames.socket.get(zmq.EVENTS)) & zmq.POLLIN:
                return
            parts = self.frames.receive()
            if parts is None:
                return
            yield parts

    def refused(self) -> dict[str, Any]:
        """Who was turned away, by socket."""
        return {
            "frames": self.frames.refused(),
            "decisions": self.decisions.refused(),
            "control": {} if self.control is None else self.control.refused(),
        }

    def close(self) -> None:
        """Close them; may be called again."""
        self._opened.close()
