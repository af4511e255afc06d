"""The control channel: short questions to a node and its answers, one msgpack map each.

A request is ``{version, op, id, ...}``, its answer the same with more, or ``{version, op: "error", id, detail}``.
``probe`` carries ``sent_ns`` (asker's clock) and is answered with ``received_ns`` and ``replied_ns`` (node's clock).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from runtime.core.clock_offset import Probe
from runtime.wire.checks import (
    PROTOCOL_VERSION,
    BytesLike,
    Reason,
    WireError,
    shorten,
    take_int,
    take_str,
    take_version,
    unpack_map,
)

CONTROL_BYTES = 4096
"""A request or an answer is no longer than this."""
_ANY = -(2**63)


def probe_request(number: int, sent_ns: int) -> bytes:
    """Ask a node for its time.

    Args:
        number: to know the answer by.
        sent_ns: now, on the asker's clock.
    """
    request = {"version": PROTOCOL_VERSION, "op": "probe", "id": number, "sent_ns": sent_ns}
    packed: bytes = msgpack.packb(request)
    return packed


def answer(request: BytesLike, received_ns: int, replied_ns: int) -> bytes | None:
    """A node's answer to a request.

    Args:
        request: as it came.
        received_ns: when it came, node clock.
        replied_ns: now, node clock.

    Returns:
        None where the request has no number to answer to: it is dropped.
    """
    header: dict[str, Any] = {"version": PROTOCOL_VERSION}
    try:
        asked = unpack_map(request, CONTROL_BYTES)
        header["id"] = take_int(asked, "id")
    except WireError:
        return None
    try:
        header |= _answered(asked, received_ns, replied_ns)
    except WireError as e:
        header |= {"op": "error", "detail": str(e)}
    packed: bytes = msgpack.packb(header)
    return packed


def read_probe(reply: BytesLike, returned_ns: int) -> tuple[int, Probe]:
    """The number and the round trip of an answered probe.

    Raises:
        WireError: something else came.
    """
    header = unpack_map(reply, CONTROL_BYTES)
    take_version(header)
    if (op := take_str(header, "op")) != "probe":
        raise WireError(Reason.BAD_HEADER, "op: probe", shorten(header.get("detail", op)))
    sent, received, replied = (take_int(header, k, _ANY) for k in ("sent_ns", "received_ns", "replied_ns"))
    return take_int(header, "id"), Probe(sent, received, replied, returned_ns)


def _answered(asked: Mapping[str, Any], received_ns: int, replied_ns: int) -> dict[str, Any]:
    take_version(asked)
    if (op := take_str(asked, "op")) != "probe":
        raise WireError(Reason.BAD_HEADER, "op: probe", op)
    sent_ns = take_int(asked, "sent_ns", _ANY)
    return {"op": "probe", "sent_ns": sent_ns, "received_ns": received_ns, "replied_ns": replied_ns}
