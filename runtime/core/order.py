"""The order of one sensor's messages: the next one, one after a loss, a restart, or a repetition to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Place(Enum):
    """Where a message stands in its stream."""

    FIRST = "first"
    NEXT = "next"
    AFTER_LOSS = "after_loss"
    """Later than the next: messages between were lost."""
    RESTART = "restart"
    """A lower number but a newer capture: the sensor began to count again."""
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"
    BACKWARD = "backward"
    """A later number but an older capture: its clock was set back."""


@dataclass(slots=True)
class StreamOrder:
    """The order of one modality's accepted messages.

    Sequence numbers show losses; capture times tell a restart from a repetition. An absurd number that was accepted
    therefore breaks one window but never the stream: the next message has a lower number and a newer capture time,
    which counts as a restart.

    Attributes:
        sequence: number of the last accepted message; -1 before the first.
        capture_ns: its capture time on the node's clock.
        lost: messages that were sent, by the numbers, but never accepted.
        restarts: how often the sensor began to count again.
    """

    sequence: int = -1
    capture_ns: int = 0
    lost: int = 0
    restarts: int = 0

    def place(self, sequence: int, capture_ns: int) -> Place:
        """Where a message stands in the stream; changes nothing."""
        if self.sequence < 0:
            return Place.FIRST
        if capture_ns <= self.capture_ns:
            if sequence > self.sequence:
                return Place.BACKWARD
            return Place.DUPLICATE if sequence == self.sequence else Place.OUT_OF_ORDER
        if sequence <= self.sequence:
            return Place.RESTART
        return Place.NEXT if sequence == self.sequence + 1 else Place.AFTER_LOSS

    def accept(self, place: Place, sequence: int, capture_ns: int) -> None:
        """Advance to an accepted message.

        Args:
            place: as :meth:`place` gave it.
            sequence: of the message.
            capture_ns: of the message, node clock.
        """
        if place is Place.AFTER_LOSS:
            self.lost += sequence - self.sequence - 1
        elif place is Place.RESTART:
            self.restarts += 1
        self.sequence, self.capture_ns = sequence, capture_ns
