"""The client: how any program reads a node's decisions, in a few lines.

Example::

    from afterimage import Client

    with Client("commands-4") as client:
        for decision in client.decisions():
            absent = [m for m, report in decision.modalities.items() if report.imputed]
            print(decision.label, decision.probabilities[decision.label], "without", absent)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import zmq

from configs.errors import AfterimageError
from runtime.logs import ThrottleFilter, throttled
from runtime.rig import Rig, load_rig
from runtime.transport.endpoints import default_endpoints
from runtime.transport.keys import Keys
from runtime.transport.sockets import DecisionReceiver
from runtime.wire import (
    BEST_PREFIX,
    FUSED,
    HEALTH,
    IMPUTED_PREFIX,
    STATISTICS,
    Decision,
    HealthEvent,
    Observation,
    Output,
    Statistics,
    WireError,
    best_topic,
    decode_output,
    imputed_topic,
)

_LONGEST_POLL_MS = 1000
_LOG = logging.getLogger("afterimage.client")
_LOG.addFilter(ThrottleFilter())  # the client runs in programs that do not use our log handler


class TopicError(AfterimageError, ValueError):
    """A topic that the rig's node does not publish; the message lists those that exist."""


class Client:
    """Reads what a rig's node publishes. The node need not be there yet, and may be restarted meanwhile.

    Messages wait in a bounded queue. A client that does not keep up loses some of them; :attr:`lost` counts the
    decisions among those.

    Attributes:
        lost: decisions that did not arrive: the client did not keep up, or the node missed their tick.
        refused: messages that did not follow the protocol.
    """

    def __init__(
        self,
        rig: Rig | str | Path,
        topics: Sequence[str] = ("fused", "health"),
        *,
        endpoint: str | None = None,
        queue: int = 256,
        keys: Keys | None = None,
    ) -> None:
        """Connect and subscribe.

        Args:
            rig: a rig, the name of a shipped one, or the path of a YAML file.
            topics: of ``fused``, ``health``, ``imputed/<modality>``, ``best/<modality>`` and ``statistics``;
                ``imputed/`` and ``best/`` alone mean all modalities. The node makes observations and
                statistics only while somebody subscribes to them.
            endpoint: the node's decisions endpoint; the rig's default if not given.
            queue: messages that may wait to be read.
            keys: own pair and the node's public key; needed for a node on another machine.

        Raises:
            RigError: no such rig.
            EndpointError: an endpoint that is not allowed.
            KeysError: keys that cannot be used.
            TopicError: an unknown topic.
        """
        self.rig = rig if isinstance(rig, Rig) else load_rig(rig)
        self._topics = {self._check(t) for t in topics}
        self.lost = 0
        self.refused = 0
        self._last: Decision | None = None
        self._receiver = DecisionReceiver(
            endpoint or default_endpoints(self.rig.name).decisions,
            sorted(self._topics),
            keys=keys,
            high_water_mark=queue,
        )

    def subscribe(self, *topics: str) -> None:
        """Read these topics too, from now on; call it in the thread that reads.

        Raises:
            TopicError: an unknown topic.
        """
        for name in {self._check(t) for t in topics} - self._topics:
            self._receiver.socket.setsockopt(zmq.SUBSCRIBE, name)
            self._topics.add(name)

    def unsubscribe(self, *topics: str) -> None:
        """Stop reading these topics; call it in the thread that reads.

        Raises:
            TopicError: an unknown topic.
        """
        for name in {self._check(t) for t in topics} & self._topics:
            self._receiver.socket.setsockopt(zmq.UNSUBSCRIBE, name)
            self._topics.remove(name)

    def receive(self, timeout_s: float | None = None) -> Output | None:
        """The next message: a Decision, a HealthEvent, an Observation or Statistics.

        Args:
            timeout_s: how long to wait; None waits until one comes.

        Returns:
            The message, or None if none came in time.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            remaining_ms = _LONGEST_POLL_MS if end is None else round((end - time.monotonic()) * 1000)
            parts = self._receiver.receive(max(0, min(remaining_ms, _LONGEST_POLL_MS)))
            if parts is not None:
                message = self._read(parts)
                if message is not None:
                    return message
            if end is not None and time.monotonic() >= end:
                return None

    def messages(self, timeout_s: float | None = None) -> Iterator[Output]:
        """Messages as they come; ends when none comes for ``timeout_s``, or never."""
        while (message := self.receive(timeout_s)) is not None:
            yield message

    def decisions(self, timeout_s: float | None = None) -> Iterator[Decision]:
        """Decisions as they come, other messages left out; ends when nothing comes for ``timeout_s``, or never."""
        for message in self.messages(timeout_s):
            if isinstance(message, Decision):
                yield message

    def close(self) -> None:
        """Disconnect; may be called again."""
        self._receiver.close()

    def __iter__(self) -> Iterator[Output]:
        """Messages as they come, without end."""
        return self.messages()

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self.close()

    def _check(self, topic: str) -> bytes:
        """The bytes of a topic that exists in this rig.

        Raises:
            TopicError: it does not.
        """
        name = topic.encode()
        observed = [t(m) for m in self.rig.modality_names for t in (imputed_topic, best_topic)]
        if name not in (FUSED, HEALTH, STATISTICS, IMPUTED_PREFIX, BEST_PREFIX, *observed):
            raise TopicError(
                f"topic {topic!r} is not one of fused, health, imputed/<modality>, best/<modality>, statistics "
                f"with the modalities {list(self.rig.modality_names)}"
            )
        return name

    def _read(self, parts: Sequence[memoryview]) -> Output | None:
        """Decode one message; None if it is malformed or matched a subscription only by its prefix."""
        try:
            message = decode_output(parts)
        except WireError as e:
            self.refused += 1
            text = "a message of the node of rig %s was refused: %s"
            _LOG.warning(text, self.rig.name, e, extra=throttled(f"refused {self.rig.name} {e.reason}"))
            return None
        if isinstance(message, Decision):
            self._count_lost(message)
        elif isinstance(message, Observation) and not self._subscribed(bytes(parts[0])):
            return None
        return message

    def _subscribed(self, topic: bytes) -> bool:
        prefix = topic[: topic.index(b"/") + 1]
        return topic in self._topics or prefix in self._topics

    def _count_lost(self, decision: Decision) -> None:
        last, self._last = self._last, decision
        # A lower number comes from a node that was started again: it counts its ticks from 0.
        if last is not None and decision.tick > last.tick:
            self.lost += decision.tick - last.tick - 1


__all__ = ["Client", "Decision", "HealthEvent", "Observation", "Output", "Statistics"]
