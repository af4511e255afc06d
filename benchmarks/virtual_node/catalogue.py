"""Every fault of messages, streams, clocks and content that a node is tested with, in soaks and in tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import benchmarks.virtual_node.clock_faults as clock
import benchmarks.virtual_node.content_faults as content
import benchmarks.virtual_node.message_faults as message
import benchmarks.virtual_node.stream_faults as stream
from benchmarks.virtual_node.sensor import Step, VirtualSensor

KINDS = ("rgb", "depth", "audio", "eeg")
SIGNALS = ("audio", "eeg")

Play = Callable[[VirtualSensor, int], Iterator[Step]]
"""A sensor and for how many of its messages -> the fault."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: of the fault.
        play: makes it.
        kinds: of sensors that can have it.
        seconds: how long it lasts in a soak, at least and at most.
        messages: how long it lasts in a soak, in messages at least and at most; None where ``seconds`` say it.
        is_predictable: the ledger says exactly what a node counts. Other faults are not in a soak.
        in_soak: what a node counts does not depend on when exactly a message arrives; a soak delivers in steps of time.
    """

    name: str
    play: Play
    kinds: tuple[str, ...] = KINDS
    seconds: tuple[float, float] = (0.2, 1.5)
    messages: tuple[int, int] | None = None
    is_predictable: bool = True
    in_soak: bool = True


def _few(name: str, play: Play, *, kinds: tuple[str, ...] = KINDS, least: int = 1, most: int = 1) -> Fault:
    """A fault of one message or a few."""
    return Fault(name, play, kinds, messages=(least, most))


def _changed(name: str, change: content.Change, *kinds: str) -> Fault:
    return Fault(name, partial(content.changed, change=change), kinds)


STREAM_FAULTS = (
    _few("drop a single one", partial(stream.drop, in_all=1)),
    _few("drop one in two", partial(stream.drop, every=2), least=2, most=10),
    Fault("drop some", partial(stream.drop, probability=0.3, in_a_row=2)),
    Fault("drop all", stream.drop, seconds=(0.02, 1.0)),
    Fault("pause", stream.pause, seconds=(0.15, 1.0)),
    Fault("delay within budget", partial(stream.delay, seconds=0.06)),
    Fault("delay beyond budget", partial(stream.delay, seconds=0.4), seconds=(0.5, 1.0)),
    Fault("burst", stream.burst, seconds=(0.05, 0.6)),
    _few("reorder", stream.reorder, least=2, most=4),
    _few("duplicate", stream.duplicate, most=5),
    _few("repeat", stream.repeat),
    _few("flood", stream.flood, most=4),
    _few("restart", stream.restart),
    _few("new process", stream.new_process),
    # Images are so large that a queue of them would take minutes to fill.
    _few("queue overflow", stream.overflow, kinds=SIGNALS),
)

CLOCK_FAULTS = (
    Fault("clock an hour ahead", partial(clock.set_clock, by_ns=clock.HOUR_NS), seconds=(0.2, 2.0)),
    Fault("clock an hour back", partial(clock.set_clock, by_ns=-clock.HOUR_NS), seconds=(0.2, 2.0)),
    Fault("clock step", clock.step_of_seconds, seconds=(0.2, 2.0)),
    Fault("single stamps an hour ahead", clock.single_wrong_stamps),
    Fault("clock runs fast", clock.fast_clock, in_soak=False),
    Fault("clock runs slow", clock.slow_clock),
    Fault("clock drift", clock.drift, seconds=(1.0, 6.0)),
    Fault("clock of its own", clock.own_clock, seconds=(0.5, 2.0)),
)

MESSAGE_FAULTS = (
    _few("refused in every way", message.refused, least=len(message.REFUSALS), most=len(message.REFUSALS)),
    _few("garbled header", message.garbled_header, most=5),
    Fault("a bit of the header", message.flipped_bit_of_header, is_predictable=False),
    Fault("a bit of the topic", message.flipped_bit_of_topic, is_predictable=False),
    _few("a bit of the payload", message.flipped_bit_of_payload, most=5),
    _few("noisy payload", message.noisy_payload, most=2),
    _few("astray", message.astray, least=4, most=4),
)

CONTENT_FAULTS = (
    Fault("freeze", content.freeze, seconds=(0.05, 1.0)),
    Fault("no reading", partial(content.changed, change=content.no_reading, is_seen=True), ("rgb", "depth")),
    _changed("dark", content.dark, "rgb"),
    _changed("blinded", content.blinded, "rgb"),
    Fault("holes", partial(content.scheduled, kind="holes"), ("depth",)),
    Fault("silence", partial(content.scheduled, kind="flat", is_seen=True), ("audio",)),
    Fault("clipped", partial(content.scheduled, kind="clip"), ("audio",)),
    Fault("flat", partial(content.scheduled, kind="flat", is_seen=True), ("eeg",)),
    Fault("rail", partial(content.scheduled, kind="rail"), ("eeg",)),
    _changed("electrode off", content.electrode_off, "eeg"),
    _changed("artefacts", content.artefacts, "eeg"),
    Fault("noise", partial(content.scheduled, kind="noise")),
    Fault("not finite", partial(content.changed, change=content.one_not_finite), ("eeg",), messages=(1, 8)),
)

FAULTS = STREAM_FAULTS + CLOCK_FAULTS + MESSAGE_FAULTS + CONTENT_FAULTS


def fault_named(name: str) -> Fault:
    """The fault of a name.

    Raises:
        KeyError: there is none.
    """
    return {fault.name: fault for fault in FAULTS}[name]
