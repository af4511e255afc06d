"""Outputs: the messages that the node publishes: decisions, health events, observations and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from runtime.wire.checks import (
    PROTOCOL_VERSION,
    BytesLike,
    Limits,
    Reason,
    WireError,
    shorten,
    take_bool,
    take_float,
    take_int,
    take_list,
    take_map,
    take_str,
    take_version,
    three_parts,
    unpack_map,
)
from runtime.wire.topics import (
    BEST_PREFIX,
    FUSED,
    HEALTH,
    IMPUTED_PREFIX,
    STATISTICS,
    best_topic,
    imputed_topic,
)

_OUTPUT_LIMITS = Limits(header_bytes=64 * 1024)


@dataclass(frozen=True, slots=True)
class ModalityReport:
    """One modality's part in a decision.

    Attributes:
        state: waiting, live, late, missing, frozen, corrupt, bad_clock or implausible.
        reason: why it is not live; empty while live.
        age_ms: age of its newest evidence at the tick, from capture; None before the first.
        weight: the presence value that fusion was given, 0 or 1.
        imputed: whether this decision stands on an estimate of it instead of a measurement.
    """

    state: str
    reason: str
    age_ms: float | None
    weight: float
    imputed: bool


@dataclass(frozen=True, slots=True)
class Alternative:
    """What another fill policy would have decided on the same tick."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """One tick's fused decision (topic ``fused``).

    Attributes:
        rig: name of the rig.
        bundle: hash of the model's manifest.
        tick: number of the tick; a missed tick leaves a gap.
        deadline_ns: when the tick was due, on the node's clock.
        published_ns: when it was sent.
        capture_ns: capture time of the newest sample that it stands on, node clock; None if no modality is present.
        label: the most probable class.
        probabilities: class -> calibrated probability, in the bundle's order of classes.
        entropy: of the probabilities, in nats.
        presence: modality -> 0 or 1, in the order of the mask.
        fill: the fill policy: impute, hold or zero.
        modalities: modality -> its report.
        latency_ms: stage -> milliseconds.
        compare: other fill policy -> what it would have decided.
    """

    rig: str
    bundle: str
    tick: int
    deadline_ns: int
    published_ns: int
    capture_ns: int | None
    label: str
    probabilities: dict[str, float]
    entropy: float
    presence: dict[str, int]
    fill: str
    modalities: dict[str, ModalityReport]
    latency_ms: dict[str, float] = field(default_factory=dict)
    compare: dict[str, Alternative] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """A modality's state changed (topic ``health``).

    Attributes:
        rig: name of the rig.
        modality: whose state it is.
        at_ns: when the node judged it, node clock.
        previous: state before.
        state: state now.
        reason: one word: the check or rule that decided; ``recovered`` or ``started`` on the way to live.
        detail: the numbers behind it, for a person.
    """

    rig: str
    modality: str
    at_ns: int
    previous: str
    state: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """A modality as the node knows it (topics ``imputed/<m>`` and ``best/<m>``).

    Attributes:
        rig: name of the rig.
        bundle: hash of the model's manifest.
        modality: which modality.
        stream: ``imputed`` or ``best``.
        tick: the decision it belongs to.
        published_ns: when it was sent, node clock.
        imputed: True if the model estimated it; False only if it was measured.
        sources: the modalities that it was estimated from; the modality itself if it was measured.
        unit: unit of the values.
        values: float32 in the bundle's observation shape.
    """

    rig: str
    bundle: str
    modality: str
    stream: str
    tick: int
    published_ns: int
    imputed: bool
    sources: tuple[str, ...]
    unit: str
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Statistics:
    """The node's counters and the durations of its stages, since its start (topic ``statistics``).

    Attributes:
        rig: name of the rig.
        bundle: hash of the model's manifest.
        at_ns: when it was counted, node clock.
        values: those of :meth:`runtime.node.node.Node.statistics`: plain maps of numbers and words, ready for JSON.
    """

    rig: str
    bundle: str
    at_ns: int
    values: dict[str, Any]


Output = Decision | HealthEvent | Observation | Statistics


def encode_output(message: Output) -> list[BytesLike]:
    """The three parts of a message of the node: topic, msgpack header, payload (empty except for observations)."""
    if isinstance(message, Decision):
        return [FUSED, msgpack.packb(_decision_header(message)), b""]
    if isinstance(message, HealthEvent):
        header: dict[str, Any] = {"version": PROTOCOL_VERSION}
        header |= {name: getattr(message, name) for name in HealthEvent.__slots__}
        header["detail"] = message.detail[:1024]  # an engine's error may be longer than what readers accept
        return [HEALTH, msgpack.packb(header), b""]
    if isinstance(message, Statistics):
        header = {"version": PROTOCOL_VERSION, "rig": message.rig, "bundle": message.bundle}
        header |= {"at_ns": message.at_ns, "values": message.values}
        return [STATISTICS, msgpack.packb(header), b""]
    values = np.ascontiguousarray(message.values, dtype="<f4")
    header = {"version": PROTOCOL_VERSION}
    header |= {name: getattr(message, name) for name in Observation.__slots__ if name != "values"}
    header |= {"dtype": "float32", "shape": values.shape}
    topic = imputed_topic(message.modality) if message.stream == "imputed" else best_topic(message.modality)
    return [topic, msgpack.packb(header), values.reshape(-1).view(np.uint8).data]


def decode_output(parts: Sequence[Any], limits: Limits = _OUTPUT_LIMITS) -> Output:
    """Read a message of the node; its kind follows from the topic.

    Raises:
        WireError: the message is malformed. No bytes raise anything else.
    """
    topic, head, payload = three_parts(parts)
    if payload.nbytes > limits.payload_bytes:
        raise WireError(
            Reason.OVERSIZED, f"a payload of at most {limits.payload_bytes} bytes", f"{payload.nbytes} bytes"
        )
    name = bytes(topic[:512])
    known = name in (FUSED, HEALTH, STATISTICS) or name.startswith((IMPUTED_PREFIX, BEST_PREFIX))
    if not known:
        raise WireError(
            Reason.BAD_TOPIC,
            "fused, health, statistics, imputed/<modality> or best/<modality>",
            shorten(name),
        )
    header = unpack_map(head, limits.header_bytes)
    take_version(header)
    if name == FUSED:
        return _read_decision(header)
    if name == HEALTH:
        return _read_event(header)
    if name == STATISTICS:
        return _read_statistics(header)
    return _read_observation(name, header, payload)


def _decision_header(d: Decision) -> dict[str, Any]:
    # Written out by hand: dataclasses.asdict is ten times slower, and this runs on every tick.
    return {
        "version": PROTOCOL_VERSION,
        "rig": d.rig,
        "bundle": d.bundle,
        "tick": d.tick,
        "deadline_ns": d.deadline_ns,
        "published_ns": d.published_ns,
        "capture_ns": d.capture_ns,
        "label": d.label,
        "probabilities": d.probabilities,
        "entropy": d.entropy,
        "presence": d.presence,
        "fill": d.fill,
        "modalities": {
            name: {
                "state": m.state,
                "reason": m.reason,
                "age_ms": m.age_ms,
                "weight": m.weight,
                "imputed": m.imputed,
            }
            for name, m in d.modalities.items()
        },
        "latency_ms": d.latency_ms,
        "compare": {
            policy: {"label": a.label, "probabilities": a.probabilities} for policy, a in d.compare.items()
        },
    }


def _read_decision(header: Mapping[str, Any]) -> Decision:
    presence = take_map(header, "presence")
    modalities = take_map(header, "modalities")
    compare = take_map(header, "compare")
    return Decision(
        rig=take_str(header, "rig"),
        bundle=take_str(header, "bundle"),
        tick=take_int(header, "tick"),
        deadline_ns=take_int(header, "deadline_ns"),
        published_ns=take_int(header, "published_ns"),
        capture_ns=_none_or(take_int, header, "capture_ns"),
        label=take_str(header, "label"),
        probabilities=_floats(header, "probabilities"),
        entropy=take_float(header, "entropy"),
        presence={name: take_int(presence, name, 0, 1) for name in presence},
        fill=take_str(header, "fill"),
        modalities={name: _read_report(take_map(modalities, name)) for name in modalities},
        latency_ms=_floats(header, "latency_ms"),
        compare={name: _read_alternative(take_map(compare, name)) for name in compare},
    )


def _read_report(header: Mapping[str, Any]) -> ModalityReport:
    return ModalityReport(
        state=take_str(header, "state"),
        reason=take_str(header, "reason"),
        age_ms=_none_or(take_float, header, "age_ms"),
        weight=take_float(header, "weight"),
        imputed=take_bool(header, "imputed"),
    )


def _read_alternative(header: Mapping[str, Any]) -> Alternative:
    return Alternative(take_str(header, "label"), _floats(header, "probabilities"))


def _read_event(header: Mapping[str, Any]) -> HealthEvent:
    return HealthEvent(
        rig=take_str(header, "rig"),
        modality=take_str(header, "modality"),
        at_ns=take_int(header, "at_ns"),
        previous=take_str(header, "previous"),
        state=take_str(header, "state"),
        reason=take_str(header, "reason"),
        detail=take_str(header, "detail", 1024),
    )


def _read_statistics(header: Mapping[str, Any]) -> Statistics:
    return Statistics(
        rig=take_str(header, "rig"),
        bundle=take_str(header, "bundle"),
        at_ns=take_int(header, "at_ns"),
        values=dict(take_map(header, "values")),
    )


def _read_observation(topic: bytes, header: Mapping[str, Any], payload: memoryview) -> Observation:
    modality, stream = take_str(header, "modality"), take_str(header, "stream")
    if topic != f"{stream}/{modality}".encode():
        raise WireError(Reason.BAD_TOPIC, f"{stream}/{modality} as in the header", shorten(topic))
    shape = take_list(header, "shape", 6)
    if any(type(n) is not int or n < 1 for n in shape):
        raise WireError(Reason.WRONG_SHAPE, "axes that are integers of at least 1", shorten(shape))
    if header.get("dtype") != "float32":
        raise WireError(Reason.WRONG_DTYPE, "float32", shorten(header.get("dtype")))
    expected = 4
    for n in shape:
        expected *= n
    if payload.nbytes != expected:
        raise WireError(
            Reason.PAYLOAD_LENGTH, f"{expected} bytes for {shorten(shape)}", f"{payload.nbytes} bytes"
        )
    sources = take_list(header, "sources", 256)
    if any(type(s) is not str for s in sources):
        raise WireError(Reason.BAD_HEADER, "sources: an array of strings", shorten(sources))
    return Observation(
        rig=take_str(header, "rig"),
        bundle=take_str(header, "bundle"),
        modality=modality,
        stream=stream,
        tick=take_int(header, "tick"),
        published_ns=take_int(header, "published_ns"),
        imputed=take_bool(header, "imputed"),
        sources=tuple(sources),
        unit=take_str(header, "unit", 64),
        values=np.frombuffer(payload, "<f4").reshape(shape),
    )


def _floats(header: Mapping[str, Any], key: str) -> dict[str, float]:
    values = take_map(header, key)
    return {name: take_float(values, name) for name in values}


def _none_or(take: Any, header: Mapping[str, Any], key: str) -> Any:
    return None if key in header and header[key] is None else take(header, key)
