"""One sensor and the fault that it has: what it sends at each of its times, and what the node must make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

import numpy as np

from benchmarks.virtual_node.ledger import SensorLedger
from benchmarks.virtual_node.payloads import MessageForm, Parts, Payload, Samples
from runtime.core.clock import NS_PER_S
from runtime.rig import Rig
from runtime.wire import Reason


class Act(Enum):
    """What a sensor does besides sending a message."""

    RECONNECT = "reconnect"
    """Close its connection and open another one: its process was started again."""
    OVERFLOW = "overflow"
    """What follows in this step is sent faster than anybody can read, so that ZeroMQ's queues overflow."""


Step = tuple[Parts | Act, ...]
"""What a sensor sends and does at one of its times."""


class VirtualSensor:
    """One sensor of a rig. At each step it sees something, and sends what its fault makes of that.

    A fault is an iterator with one item for each of the sensor's times; see :mod:`benchmarks.virtual_node.catalogue`.
    Without a fault each step sends one good message.

    Attributes:
        rig: that it belongs to.
        spec: the sensor in the rig.
        ledger: what it sent, and what must become of that.
        chance: for faults that draw something.
        capture_ns: the time of the current step.
        current: what it sees in the current step.
        is_image: whether each of its samples is an image.
    """

    def __init__(
        self,
        rig: Rig,
        modality: str,
        look: Callable[[], Payload],
        *,
        ledger: SensorLedger | None = None,
        seed: int = 0,
    ) -> None:
        """Begin without a fault.

        Args:
            rig: that it belongs to.
            modality: which of its sensors.
            look: what it sees at its next time.
            ledger: to write to; a new one where None.
            seed: of everything that faults draw.
        """
        self.rig, self.spec = rig, rig.sensor(modality)
        self.ledger = SensorLedger(rig.health.frozen_frames) if ledger is None else ledger
        self.chance = np.random.default_rng([seed, rig.modality_names.index(modality)])
        self.capture_ns = 0
        self.is_image = self.spec.kind in ("rgb", "depth")
        self.current: Payload
        self._look = look
        self._forms: dict[int, MessageForm] = {}
        self.topic = self._form(self.spec.chunk).topic
        self._sequence = 0
        self._fault: Iterator[Step] | None = None

    @property
    def has_fault(self) -> bool:
        """Whether a fault is under way."""
        return self._fault is not None

    def begin(self, fault: Iterator[Step]) -> None:
        """Have a fault from the next step on, until it is exhausted."""
        self._fault = fault

    def step(self, capture_ns: int) -> Step:
        """What it sends and does at one of its times."""
        self.capture_ns, self.current = capture_ns, self._look()
        if self._fault is not None:
            step = next(self._fault, None)
            if step is not None:
                return step
            self._fault = None
        return (self.good(),)

    # For faults: what may be sent.

    @property
    def next_number(self) -> int:
        """The number that the next message will have."""
        return self._sequence

    def number(self) -> int:
        """Take the next sequence number."""
        self._sequence += 1
        return self._sequence - 1

    def message(self, payload: Payload | None = None, *, offset_ns: int = 0) -> Parts:
        """The next message, of the current payload if no other is given; what becomes of it is for the caller to note.

        Args:
            payload: its samples.
            offset_ns: that its stamp differs from the true time of capture.
        """
        payload = payload or self.current
        form = self._form(len(payload.samples))
        return form.topic, form.header(self.number(), self.capture_ns + offset_ns), payload.data

    def good(self, payload: Payload | None = None, *, offset_ns: int = 0, spoilt: bool = False) -> Parts:
        """The next message, which must be accepted; arguments as of :meth:`message` and :meth:`SensorLedger.accept`."""
        payload = payload or self.current
        self.ledger.accept(self._sequence, payload, spoilt=spoilt)
        return self.message(payload, offset_ns=offset_ns)

    def good_or_not_finite(self, payload: Payload) -> Parts:
        """The next message, which must be accepted if all of its samples are numbers, else refused in order."""
        if payload.finite:
            return self.good(payload, spoilt=True)
        self.ledger.refuse_in_order(self._sequence, Reason.NOT_FINITE)
        return self.message(payload)

    def refused(self, reason: Reason, *, offset_ns: int = 0) -> Parts:
        """The next message, which must be refused for a reason that leaves its number missing in the stream."""
        self.ledger.dropped[reason] += 1
        return self.message(offset_ns=offset_ns)

    def payload(self, samples: Samples) -> Payload:
        """Other samples, as a payload."""
        return Payload.of(samples, is_image=self.is_image)

    def restart(self) -> None:
        """Begin to number from 0 again, as a new process does."""
        self._sequence = 0
        self.ledger.restart()

    def saw(self, payload: Payload) -> None:
        """Note that what the sensor sees in this step is something else than it should be: it delivers the truth."""
        self.current = payload

    def periods(self, seconds: float) -> int:
        """How many of its messages fit into a time; at least one."""
        return max(1, round(seconds / self.spec.period_s))

    @property
    def period_ns(self) -> int:
        """Nanoseconds between two of its messages."""
        return round(self.spec.period_s * NS_PER_S)

    def _form(self, samples: int) -> MessageForm:
        if samples not in self._forms:
            self._forms[samples] = MessageForm(self.rig, self.spec, samples)
        return self._forms[samples]
