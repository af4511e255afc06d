"""The table: what every fault of the catalogue should do to the sensor that has it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.virtual_node import message_faults
from benchmarks.virtual_node.catalogue import FAULTS, KINDS, Fault, fault_named
from benchmarks.virtual_node.stream_faults import none

IMAGES = KINDS[:2]
ONE_OF_EACH = ("rgb", "eeg")
"""One sensor of images and one of chunks of samples: the others would show the same."""

SILENT = ("missing:silence", "live")
REFUSED = ("missing:refused", "live")
STALE = ("late:evidence_age", "live")
"""A chunk was lost: until a whole window of later ones is there, the last evidence grows old."""
FOLLOWED_AHEAD = ("bad_clock:future", "live", "bad_clock:backward", "live")
FOLLOWED_BACK = ("bad_clock:backward", "live", "bad_clock:future", "live")


@dataclass(frozen=True)
class Row:
    """What one fault does to one kind of sensor.

    Attributes:
        fault: of the catalogue.
        kind: of sensor.
        states: what it goes through once it is live, as ``state:reason``; None where the seed decides.
        tolerated: spoilt messages in a window that passes the checks of content; None: every window does.
        is_truthful: what the node takes for measured is what the sensor saw.
        seconds: how long the fault lasts.
        messages: how long the fault lasts, where it is not ``seconds``.
    """

    fault: Fault
    kind: str
    states: tuple[str, ...] | None
    tolerated: int | None = None
    is_truthful: bool = True
    seconds: float = 2 / 3
    messages: int | None = None


def rows(
    fault: str | Fault,
    images: tuple[str, ...] | None,
    signals: tuple[str, ...] | None,
    *,
    kinds: tuple[str, ...] | None = None,
    **more: object,
) -> list[Row]:
    """A row for each kind of sensor that the fault can happen to: images and signals go through different states."""
    found = fault_named(fault) if isinstance(fault, str) else fault
    return [
        Row(found, kind, images if kind in IMAGES else signals, **more)  # type: ignore[arg-type]
        for kind in kinds or found.kinds
    ]


def alike(fault: str | Fault, states: tuple[str, ...] | None, **more: object) -> list[Row]:
    """Rows of a fault that every sensor goes through in the same states."""
    return rows(fault, states, states, **more)  # type: ignore[arg-type]


STREAM_ROWS = [
    *alike(Fault("none", none), ()),
    *rows("drop a single one", (), STALE),
    *rows("drop one in two", (), STALE),
    *rows("drop some", (), STALE),
    *alike("drop all", SILENT),
    *alike("pause", SILENT, kinds=ONE_OF_EACH),
    *alike("delay within budget", ()),
    *alike("delay beyond budget", ("missing:silence", "late:capture_age", "live")),
    *alike("burst", SILENT, kinds=ONE_OF_EACH),
    *rows("reorder", (), STALE),
    *alike("duplicate", ()),
    *alike("repeat", (), kinds=ONE_OF_EACH, messages=4),
    *alike("flood", (), is_truthful=False),
    *rows("restart", (), STALE, kinds=ONE_OF_EACH),
    *rows("new process", (), STALE, kinds=ONE_OF_EACH),
    *alike("queue overflow", None, messages=1, is_truthful=False),
]

CLOCK_ROWS = [
    # Signals are not back before the clock is set again.
    *rows("clock an hour ahead", FOLLOWED_AHEAD, FOLLOWED_AHEAD[:2]),
    *rows("clock an hour back", FOLLOWED_BACK, FOLLOWED_BACK[:2]),
    *alike("clock step", None, kinds=ONE_OF_EACH),
    *rows("single stamps an hour ahead", (), STALE),
    *rows(
        "clock runs fast",
        ("bad_clock:future", "live") * 2 + ("bad_clock:backward", "live"),
        ("bad_clock:future", "live"),
    ),
    *alike("clock runs slow", ("late:capture_age", "live")),
    *alike("clock drift", (), kinds=ONE_OF_EACH),
    *alike("clock of its own", None, kinds=ONE_OF_EACH),
]

MESSAGE_ROWS = [
    *(
        row
        for name in message_faults.REFUSALS
        for row in alike(
            Fault(name, lambda sensor, count, name=name: message_faults.refused(sensor, count, name)),  # type: ignore[misc]
            REFUSED,
            kinds=("rgb",),
        )
    ),
    *alike("refused in every way", REFUSED),
    *alike("garbled header", REFUSED, kinds=ONE_OF_EACH),
    *alike("a bit of the header", None),
    *alike("a bit of the topic", SILENT),
    *alike("a bit of the payload", (), kinds=KINDS[:3], is_truthful=False),
    # Where the bit is high in the exponent it makes a number out of all reason, or none.
    *alike("a bit of the payload", None, kinds=("eeg",), is_truthful=False),
    *alike("noisy payload", None, kinds=ONE_OF_EACH, is_truthful=False),
    *alike("astray", (), kinds=ONE_OF_EACH),
]

CONTENT_ROWS = [
    *alike("freeze", ("frozen:identical", "live")),
    *(
        row
        for kind, check in (("rgb", "black_share_max"), ("depth", "hole_share_max"))
        for row in alike(
            "no reading", (f"corrupt:{check}", "frozen:identical", "live"), kinds=(kind,), tolerated=0
        )
    ),
    *alike("dark", ("corrupt:black_share_max", "live"), tolerated=0),
    *alike("blinded", ("corrupt:saturated_share_max", "live"), tolerated=0),
    *alike("holes", ("corrupt:hole_share_max", "live"), tolerated=0),
    # Digital silence: as long as there is anything else in the window, it is a pause.
    *alike("silence", (), tolerated=49),
    *alike("silence", ("corrupt:rms_min", "live"), tolerated=49, seconds=1.5),
    *alike("clipped", ("corrupt:clipped_share_max", "live"), tolerated=0),
    # A stuck converter; of 768 samples 2 % may equal the three before, which two chunks do.
    *alike("flat", ("corrupt:flat_share_max", "live"), tolerated=2),
    # The mean is off before as many samples are equal as must be.
    *alike("rail", ("corrupt:offset_max", "live"), tolerated=0),
    # One chunk moves the mean by half of what is allowed.
    *alike("electrode off", ("corrupt:offset_max", "live"), tolerated=1),
    *alike("artefacts", ("corrupt:deviation_max", "live"), tolerated=0),
    *alike("noise", None, kinds=ONE_OF_EACH, is_truthful=False),
    # It came, so it is not lost, but no window may have it.
    *alike("not finite", ("corrupt:not_finite", "live")),
]

TABLE = STREAM_ROWS + CLOCK_ROWS + MESSAGE_ROWS + CONTENT_ROWS

UNTESTED = {f.name for f in FAULTS} - {row.fault.name for row in TABLE}
assert not UNTESTED, f"faults of the catalogue without a row: {UNTESTED}"
