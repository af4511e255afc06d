"""A transport that spoils messages: RGB and depth at their native rates, RGB through a seeded fault for a while.

A fault is a function of (number, message, random numbers, tally) to the messages sent in its place. What it does
it adds to the tally under the name of the node's counter that should show it (``dropped/duplicate``, ``lost``, ...),
so that a test can find every injected fault again.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from runtime.rig import Rig
from runtime.transport.sockets import FrameSender
from runtime.wire import encode_frame

FAULTY_MESSAGES = 39
"""So many messages of RGB, 1.3 s, go through the fault."""

Parts = list[bytes]
Rendered = Callable[[Parts, random.Random], Parts]


@dataclass(frozen=True)
class Message:
    """One message of a sensor before it is encoded.

    Attributes:
        sequence: its number.
        capture_ns: its stamp.
        samples: (1, *sample_shape).
        delay_s: how long the transport holds it; what comes after it waits too.
        spoil: what happens to its encoded parts.
    """

    sequence: int
    capture_ns: int
    samples: npt.NDArray[np.generic]
    delay_s: float = 0.0
    spoil: Rendered | None = None


Fault = Callable[[int, Message, random.Random, Counter[str]], list[Message]]


def drop(share: float) -> Fault:
    """Messages never sent."""

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        if chance.random() < share:
            tally["lost"] += 1
            return []
        return [message]

    return fault


def delay(seconds: float) -> Fault:
    """Messages that come late, in order."""
    return lambda number, message, chance, tally: [replace(message, delay_s=seconds)]


def duplicate(share: float) -> Fault:
    """Messages sent twice."""

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        if chance.random() < share:
            tally["dropped/duplicate"] += 1
            return [message, message]
        return [message]

    return fault


def reorder(share: float) -> Fault:
    """Messages overtaken by the next one; a gap when the next one comes, out of order when they do."""
    held: list[Message] = []

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        if held:
            return [message, held.pop()]
        if chance.random() < share and number < FAULTY_MESSAGES - 1:
            held.append(message)
            tally["lost"] += 1
            tally["dropped/out_of_order"] += 1
            return []
        return [message]

    return fault


def freeze() -> Fault:
    """The same picture again and again, with new numbers and stamps."""
    first: list[Message] = []

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        first.append(message)
        # Five in a row are frozen (the rig's frozen_frames): from the fifth on they are dropped.
        if number >= 4:
            tally["dropped/frozen"] += 1
        return [replace(message, samples=first[0].samples)]

    return fault


def step_clock(seconds: float, share: float = 1.0) -> Fault:
    """Stamps that are wrong by so much."""

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        if share < 1.0 and number % round(1 / share):
            return [message]
        if share < 1.0:
            tally["dropped/future"] += 1
            tally["lost"] += 1
        return [replace(message, capture_ns=message.capture_ns + round(seconds * 1e9))]

    return fault


def drift_clock(per_message_s: float) -> Fault:
    """A clock that runs fast: every stamp is further ahead than the one before."""
    return lambda number, message, chance, tally: [
        replace(message, capture_ns=message.capture_ns + round(number * per_message_s * 1e9))
    ]


def corrupt(counter: str, spoil: Rendered, share: float = 1.0) -> Fault:
    """Messages whose bytes are changed on the way; a refused one leaves a gap."""

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        if chance.random() >= share:
            return [message]
        tally[counter] += 1
        tally["lost"] += 1
        return [replace(message, spoil=spoil)]

    return fault


def multiply(times: int) -> Fault:
    """A sensor at many times its rate; every message with its own number, stamp and picture."""

    def fault(number: int, message: Message, chance: random.Random, tally: Counter[str]) -> list[Message]:
        messages = []
        if number == 0:
            tally["jump"] = 10**6 - message.sequence
        for i in range(times):
            samples = message.samples.copy()
            samples.reshape(-1)[:8] = i
            sequence = 10**6 + number * times + i
            messages.append(
                replace(message, sequence=sequence, capture_ns=message.capture_ns + i, samples=samples)
            )
        return messages

    return fault


def random_header(parts: Parts, chance: random.Random) -> Parts:
    """A header that is no msgpack: 0xc1 is never used."""
    return [parts[0], b"\xc1" + chance.randbytes(60), parts[2]]


def cut_header(parts: Parts, chance: random.Random) -> Parts:
    """A header cut somewhere."""
    return [parts[0], parts[1][: chance.randrange(1, len(parts[1]))], parts[2]]


def cut_payload(parts: Parts, chance: random.Random) -> Parts:
    """A payload cut somewhere."""
    return [parts[0], parts[1], parts[2][: chance.randrange(0, len(parts[2]))]]


def cut_message(parts: Parts, chance: random.Random) -> Parts:
    """Parts missing at the end."""
    return parts[: chance.randrange(1, 3)]


def many_parts(parts: Parts, chance: random.Random) -> Parts:
    """Parts too many."""
    return parts + [b"x"] * chance.randrange(1, 2000)


def grown_payload(parts: Parts, chance: random.Random) -> Parts:
    """A payload over the wire's limit of 4 MiB."""
    return [parts[0], parts[1], bytes(4 * 1024 * 1024 + 1)]


class SpoilingSensors(threading.Thread):
    """RGB and depth from a thread with connections of their own; RGB goes through a fault when told to.

    Attributes:
        tally: what was injected, by the node's counter that should show it.
        sent: messages of RGB handed to the socket since the start.
        ended_ns: when the last message of the fault was sent; 0 before.
        held_up_s: the most that this thread itself was late: on a starved machine states change for that alone.
    """

    def __init__(self, rig: Rig, endpoint: str, fault: Fault, *, seed: int) -> None:
        super().__init__()
        self.tally: Counter[str] = Counter()
        self.sent = 0
        self.ended_ns = 0
        self.held_up_s = 0.0
        self._rig, self._endpoint, self._fault = rig, endpoint, fault
        self._chance = random.Random(seed)
        self._pictures = np.random.default_rng(seed)
        self._begin, self._stop_asked = threading.Event(), threading.Event()
        self._number = 0
        self._waiting: list[tuple[float, Message]] = []

    def begin_fault(self) -> None:
        """From the next message on."""
        self._begin.set()

    def run(self) -> None:
        """Publish until stopped; both sensors keep an absolute beat of 30 Hz."""
        with FrameSender(self._endpoint) as rgb, FrameSender(self._endpoint) as depth:
            beat = time.monotonic()
            sequence = 0
            while not self._stop_asked.wait(max(0.0, beat - time.monotonic())):
                self.held_up_s = max(self.held_up_s, time.monotonic() - beat)
                beat = max(beat + 1 / 30, time.monotonic() - 0.1)
                shape = self._rig.sensor("depth").sample_shape
                samples = self._pictures.integers(500, 1500, (1, *shape)).astype(np.uint16)
                depth.send(self._encode("depth", Message(sequence, time.monotonic_ns(), samples)))
                shape = self._rig.sensor("rgb").sample_shape
                samples = self._pictures.integers(0, 256, (1, *shape)).astype(np.uint8)
                self._pass(Message(sequence, time.monotonic_ns(), samples))
                self._send_due(rgb)
                sequence += 1

    def stop(self) -> None:
        """End the thread and close its sockets."""
        self._stop_asked.set()
        self.join(10)
        assert not self.is_alive()

    def __enter__(self) -> SpoilingSensors:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _pass(self, message: Message) -> None:
        """Queue what becomes of a message."""
        now = time.monotonic()
        messages: Iterable[Message] = [message]
        if self._begin.is_set() and self._number < FAULTY_MESSAGES:
            messages = self._fault(self._number, message, self._chance, self.tally)
            self._number += 1
        for each in messages:
            due = max(now + each.delay_s, self._waiting[-1][0] if self._waiting else 0.0)
            self._waiting.append((due, each))

    def _send_due(self, sender: FrameSender) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, message = self._waiting.pop(0)
            parts = self._encode("rgb", message)
            sender.send(message.spoil(parts, self._chance) if message.spoil is not None else parts)
            self.sent += 1
        if self._number >= FAULTY_MESSAGES and not self._waiting and not self.ended_ns:
            self.ended_ns = time.monotonic_ns()

    def _encode(self, modality: str, message: Message) -> Parts:
        unit = self._rig.sensor(modality).unit
        parts = encode_frame(
            self._rig.name,
            modality,
            message.sequence,
            message.samples,
            capture_ns=message.capture_ns,
            unit=unit,
        )
        return [bytes(part) for part in parts]
