"""The table: every fault of messages and of content, and what it should do to the sensor it happens to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import content_faults as content
import message_faults as only
import spoiling as m
from spoiling import HOUR_NS, REFUSALS, Spoiling

from runtime.rig import SensorSpec

KINDS = ("rgb", "depth", "audio", "eeg")
IMAGES, SIGNALS = KINDS[:2], KINDS[2:]


@dataclass(frozen=True)
class Fault:
    """One line of the table.

    Attributes:
        name: of the case.
        make: the fault of a sensor, made anew for each run.
        images: what a spoilt sensor of images goes through once it is live, as ``state:reason``; None where the seed
            decides.
        signals: the same of chunks of samples.
        kinds: of sensors that it happens to.
        seconds: how long it lasts.
        truthful: what the node takes for measured is what the sensor saw.
    """

    name: str
    make: Callable[[SensorSpec], Spoiling]
    images: tuple[str, ...] | None
    signals: tuple[str, ...] | None
    kinds: tuple[str, ...] = KINDS
    seconds: float = 2 / 3
    truthful: bool = True

    def states(self, kind: str) -> tuple[str, ...] | None:
        return self.images if kind in IMAGES else self.signals


SILENT = ("missing:silence", "live")
REFUSED = ("missing:refused", "live")
STALE = ("late:evidence_age", "live")
"""A chunk was lost: until a whole window of later ones is there, the last evidence grows old."""


def alike(
    name: str, make: Callable[[SensorSpec], Spoiling], states: tuple[str, ...] | None, **more: object
) -> Fault:
    """A fault that images and signals go through in the same states."""
    return Fault(name, make, states, states, **more)  # type: ignore[arg-type]


MESSAGE_FAULTS = (
    alike("none", lambda s: Spoiling(), ()),
    Fault("drop a single one", lambda s: m.Drop(in_all=1), (), STALE),
    Fault("drop one in two", lambda s: m.Drop(every=2), (), STALE),
    Fault("drop some", lambda s: m.Drop(probability=0.3, in_a_row=2), (), STALE),
    alike("drop all", lambda s: m.Drop(), SILENT),
    alike("delay within budget", lambda s: m.Delay(s, 0.06), ()),
    alike("delay beyond budget", lambda s: m.Delay(s, 0.4), ("missing:silence", "late:capture_age", "live")),
    Fault("reorder", lambda s: only.Reorder(), (), STALE),
    alike("duplicate", lambda s: only.Duplicate(), ()),
    alike("freeze", lambda s: m.Freeze(), ("frozen:identical", "live")),
    # Signals are not back before the clock is set again.
    Fault(
        "clock an hour ahead",
        lambda s: m.SetClock(HOUR_NS),
        ("bad_clock:future", "live", "bad_clock:backward", "live"),
        ("bad_clock:future", "live"),
    ),
    Fault(
        "clock an hour back",
        lambda s: m.SetClock(-HOUR_NS),
        ("bad_clock:backward", "live", "bad_clock:future", "live"),
        ("bad_clock:backward", "live"),
    ),
    Fault("single stamps an hour ahead", lambda s: only.SingleWrongStamps(), (), STALE),
    Fault(
        "clock runs fast",
        lambda s: only.FastClock(s, 0.3),
        ("bad_clock:future", "live") * 2 + ("bad_clock:backward", "live"),
        ("bad_clock:future", "live"),
    ),
    alike("clock runs slow", lambda s: only.SlowClock(s, 0.6), ("late:capture_age", "live")),
    *(
        alike(name, lambda s, refusal=refusal: m.Spoil(refusal), REFUSED, kinds=("rgb",))  # type: ignore[misc]
        for name, refusal in REFUSALS.items()
    ),
    alike("refused in every way", lambda s: m.Spoil(*REFUSALS.values()), REFUSED, kinds=KINDS[1:]),
    alike("a bit of the header", lambda s: only.FlipBit(1), None),
    alike("a bit of the topic", lambda s: only.LoseTopic(), SILENT),
    # The wire has no checksum: ZeroMQ's transports have their own.
    alike("a bit of the payload", lambda s: only.FlipBit(2), (), kinds=KINDS[:3], truthful=False),
    # Where the bit is high in the exponent it makes a number out of all reason, or none.
    alike("a bit of a float", lambda s: only.FlipBit(2), None, kinds=("eeg",), truthful=False),
    alike("flood", lambda s: m.Flood(s, 50), (), truthful=False),
)  # fmt: skip

CONTENT_FAULTS = (
    alike("dark", lambda s: content.Dark(), ("corrupt:black_share_max", "live"), kinds=("rgb",)),
    alike("blinded", lambda s: content.Blinded(), ("corrupt:saturated_share_max", "live"), kinds=("rgb",)),
    alike("holes", lambda s: content.Holes(), ("corrupt:hole_share_max", "live"), kinds=("depth",)),
    alike("pause", lambda s: content.Silence(), (), kinds=("audio",)),
    alike("silence", lambda s: content.Silence(), ("corrupt:rms_min", "live"), kinds=("audio",), seconds=1.5),
    alike("clipped", lambda s: content.Clipped(), ("corrupt:clipped_share_max", "live"), kinds=("audio",)),
    alike("flat", lambda s: content.Flat(), ("corrupt:flat_share_max", "live"), kinds=("eeg",)),
    # The mean is off before as many samples are equal as must be.
    alike("rail", lambda s: content.Rail(), ("corrupt:offset_max", "live"), kinds=("eeg",)),
    alike("electrode off", lambda s: content.Offset(), ("corrupt:offset_max", "live"), kinds=("eeg",)),
    alike("artefacts", lambda s: content.Loud(), ("corrupt:deviation_max", "live"), kinds=("eeg",)),
    alike("not finite", lambda s: content.NotFinite(), ("corrupt:not_finite", "live"), kinds=("eeg",)),
    *(
        alike(
            "nothing",
            lambda s: content.Nothing(),
            (f"corrupt:{check}", "frozen:identical", "live"),
            kinds=(kind,),
        )
        for kind, check in (("rgb", "black_share_max"), ("depth", "hole_share_max"))
    ),
)  # fmt: skip

FAULTS = MESSAGE_FAULTS + CONTENT_FAULTS
