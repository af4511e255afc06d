"""How decisions and health events map to Lab Streaming Layer: two streams, described channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.wire import Decision, HealthEvent


@dataclass(frozen=True)
class Channel:
    """One channel of a stream, as it stands in the stream's description."""

    label: str
    type: str
    unit: str


@dataclass(frozen=True)
class StreamDescription:
    """One stream.

    Attributes:
        name: the one by which people choose it.
        type: kind of content, by LSL's conventions.
        source_id: the same after a restart of the bridge, so that inlets find the stream again.
        rate_hz: nominal; 0 for an irregular stream.
        dtype: float32 or string.
        channels: in order.
    """

    name: str
    type: str
    source_id: str
    rate_hz: float
    dtype: str
    channels: tuple[Channel, ...]


def probability_stream(decision: Decision, rate_hz: float, host: str) -> StreamDescription:
    """The stream of decisions: the probability of each class, then for each modality 1 if it was imputed, else 0.

    Args:
        decision: any of the node's decisions; its classes and modalities become channels.
        rate_hz: ticks per second.
        host: name of this machine, which tells apart two robots with the same rig.
    """
    channels = [Channel(name, "probability", "1") for name in decision.probabilities]
    channels += [Channel(f"imputed/{name}", "flag", "1") for name in decision.modalities]
    return StreamDescription(
        f"afterimage {decision.rig} probabilities",
        "Probabilities",
        f"afterimage-{host}-{decision.rig}-probabilities",
        rate_hz,
        "float32",
        tuple(channels),
    )


def marker_stream(rig: str, host: str) -> StreamDescription:
    """The stream of markers: a string whenever something changes."""
    return StreamDescription(
        f"afterimage {rig} markers",
        "Markers",
        f"afterimage-{host}-{rig}-markers",
        0.0,
        "string",
        (Channel("marker", "Marker", ""),),
    )


def probability_sample(decision: Decision, channels: Sequence[Channel]) -> list[float] | None:
    """One sample in the order of the channels; None if the decision's classes or modalities differ from them."""
    values = dict(decision.probabilities)
    values |= {f"imputed/{name}": float(report.imputed) for name, report in decision.modalities.items()}
    if list(values) != [c.label for c in channels]:
        return None
    return list(values.values())


def label_marker(decision: Decision, previous: Decision | None) -> str | None:
    """``label/<class>`` when the label changed, followed by ``/imputed`` if the decision stands on an estimate."""
    if previous is not None and previous.label == decision.label:
        return None
    imputed = any(report.imputed for report in decision.modalities.values())
    return f"label/{decision.label}{'/imputed' if imputed else ''}"


def health_marker(event: HealthEvent) -> str:
    """``health/<modality>/<state>/<reason>``."""
    return f"health/{event.modality}/{event.state}/{event.reason}"
