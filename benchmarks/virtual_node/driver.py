"""A whole node on a virtual clock, with real sockets, and sensors that send to it.

Everything is real but the clock: messages go through ZeroMQ sockets, the node is the whole node, and clients may read
what it publishes. The driver moves the clock from one thing that happens to the next, so the node never waits, and time
goes on only when every message that was sent has been taken in. A slow machine therefore changes nothing: the same seed
gives the same states, ticks and counters.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from types import TracebackType

from benchmarks.virtual_node.ledger import SensorLedger
from benchmarks.virtual_node.payloads import Parts
from benchmarks.virtual_node.sensor import Act, Step
from configs.errors import AfterimageError
from engines.session import Session
from runtime.node.node import Node
from runtime.rig import Rig
from runtime.transport.bounded_socket import HIGH_WATER_MARK
from runtime.transport.endpoints import Endpoints
from runtime.transport.sockets import FrameSender
from runtime.wire import Reason, frame_topic

PATIENCE_S = 60.0
"""How long, in real time, to wait for what must happen."""

_WAIT_NS = 2_000_000
"""How long, in real time, to wait for what is on its way in a socket before looking again."""

_AT_ONCE = HIGH_WATER_MARK // 2
"""Messages of one sensor that are sent before the node takes them in; more could be lost in a queue."""

_GREETING: Parts = (b"greeting",)
"""One part and no topic of the rig: counted as ``bad_parts`` of no modality, and nothing else is."""
_LAST_GREETING: Parts = (b"last greeting", b"", b"")
"""The same, counted as ``bad_topic``."""


class VirtualNodeError(AfterimageError):
    """A message that was sent did not arrive, although it was not meant to be lost."""


class VirtualNode:
    """A node, its sensors' connections, and the clock that all of them share.

    Attributes:
        node: the node.
        endpoints: of the node.
        start_ns: when the node's ticks began.
        now_ns: the node's time.
        ledgers: modality -> what its sensor sent.
        greetings: reason -> messages that were sent to find out whether a connection is established.
    """

    def __init__(
        self,
        rig: Rig,
        session: Session,
        *,
        start_ns: int,
        ledgers: dict[str, SensorLedger] | None = None,
    ) -> None:
        """Bind the node.

        Args:
            rig: its sensors.
            session: the model; closed by the caller.
            start_ns: time at which the node's clock begins.
            ledgers: modality -> ledger; new ones where None.
        """
        self.rig, self.start_ns, self.now_ns = rig, start_ns, start_ns
        self.ledgers = ledgers or {m: SensorLedger(rig.health.frozen_frames) for m in rig.modality_names}
        self.greetings: Counter[Reason] = Counter()
        self._in_flight = self._sent = 0
        self._sent_in_turn = False
        self._at_once: Counter[str] = Counter()
        self._topics: dict[str, bytes] = {}
        self._senders: dict[str, FrameSender] = {}
        self._opened = ExitStack()
        # Not a test's or user's folder: a long path would not fit into the address of a Unix socket.
        folder = self._opened.enter_context(tempfile.TemporaryDirectory(prefix="ai-"))
        self.endpoints = Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")
        self.node = self._opened.enter_context(Node(rig, session, self.endpoints, clock=lambda: self.now_ns))

    def __enter__(self) -> VirtualNode:
        """Begin the node's ticks, and connect every sensor.

        Raises:
            VirtualNodeError: a sensor's messages do not arrive.
        """
        self._opened.enter_context(self.node.running())
        for modality in self.rig.modality_names:
            self._connect(modality)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything; as :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Close the node and every connection; may be called again."""
        for sender in self._senders.values():
            sender.close()
        self._opened.close()

    # Time

    def pass_time(self, until_ns: int) -> None:
        """Move the clock to a time; until then the node does everything at the time at which it is due.

        What is due at that time itself is not done: what is captured then arrives first.
        """
        while True:
            wait_ns = self._turn()
            if wait_ns == 0:
                continue
            if self.now_ns + wait_ns >= until_ns:
                break
            self.now_ns += wait_ns
        self.now_ns = max(self.now_ns, until_ns)

    def take_in(self) -> None:
        """Let the node take in everything that was sent, and only then do all that is due at this time.

        Raises:
            VirtualNodeError: some messages do not arrive.
        """
        end = time.monotonic() + PATIENCE_S
        while True:
            if self._sent_in_turn:
                self._sent_in_turn = False
                self._in_flight = self._count_in_flight()
            while self._in_flight > 0:
                self._in_flight -= self.node.receive()
                if self._in_flight > 0:
                    self.node.wait(_WAIT_NS)
                    self._check(end, f"{self._in_flight} of {self._sent} messages did not arrive at the node")
            while self._turn() == 0:
                self._check(end, "the node did not come to rest")
            if not self._sent_in_turn:
                self._at_once.clear()
                return

    def _turn(self) -> int:
        """One turn of the node; its engine may be made to take so long that sensors send meanwhile."""
        before = self._sent
        wait_ns = self.node.turn()
        self._sent_in_turn |= self._sent != before
        return wait_ns

    def _count_in_flight(self) -> int:
        """Messages that were sent and not received, by the node's counters."""
        lost = sum(ledger.lost_in_queues for ledger in self.ledgers.values())
        received: int = self.node.counters()["received"]
        return self._sent + self.greetings.total() - lost - received

    # Messages

    def perform(self, modality: str, step: Step) -> None:
        """Do what a sensor does at one of its times.

        Raises:
            VirtualNodeError: a message that must arrive does not.
        """
        overflows = False
        for item in step:
            if item is Act.RECONNECT:
                self.take_in()
                self._connect(modality)
            elif item is Act.OVERFLOW:
                self.take_in()
                overflows = True
            elif isinstance(item, tuple):
                self._send(modality, item)
                if not overflows and self._at_once[modality] >= _AT_ONCE:
                    self.take_in()
        if overflows:
            # Greetings behind the messages show when all of them have arrived that were not lost.
            self._greet(modality)
            received: int = self.node.counters()["modalities"][modality]["received"]
            self.ledgers[modality].lost_in_queues = self.ledgers[modality].sent - received

    def _send(self, modality: str, parts: Parts) -> None:
        self._senders[modality].send(parts)
        self._sent += 1
        self._in_flight += 1
        self._at_once[modality] += 1
        # What belongs to no modality of the rig is in the ledger's ``nowhere``.
        if parts[0] == self._topics[modality]:
            self.ledgers[modality].sent += 1

    def _connect(self, modality: str) -> None:
        if modality in self._senders:
            self._senders[modality].close()
        self._senders[modality] = FrameSender(self.endpoints.frames)
        self._topics[modality] = frame_topic(self.rig.name, modality)
        self._greet(modality)

    def _greet(self, modality: str) -> None:
        """Send greetings until one arrives: a PUB socket drops what it is given before it is connected.

        When the last greeting has arrived, so has everything that this sensor sent before.
        """
        for greeting, reason in ((_GREETING, Reason.BAD_PARTS), (_LAST_GREETING, Reason.BAD_TOPIC)):
            end, before = time.monotonic() + PATIENCE_S, self._unattributed(reason)
            self._senders[modality].send(greeting)
            while self._unattributed(reason) == before:
                self._check(end, f"sensor {modality!r} did not get through to the node")
                if self.node.turn():
                    self.node.wait(_WAIT_NS)
                    if greeting is _GREETING:
                        self._senders[modality].send(greeting)
        self.greetings[Reason.BAD_PARTS] = self._unattributed(Reason.BAD_PARTS)
        self.greetings[Reason.BAD_TOPIC] += 1
        self._in_flight = 0

    def _unattributed(self, reason: Reason) -> int:
        dropped: dict[str, int] = self.node.counters()["unattributed"]["dropped"]
        return dropped.get(reason.value, 0)

    def _check(self, end: float, failure: str) -> None:
        if time.monotonic() > end:
            raise VirtualNodeError(f"{failure} in {PATIENCE_S:.0f} s")
