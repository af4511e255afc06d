"""The control channel: short requests to a node and its answers, one msgpack map each.

A request is ``{version, op, id, ...}``. Its answer repeats these keys and adds to them, or is
``{version, op: "error", id, detail}``. ``probe`` carries ``sent_ns`` (the client's clock) and is answered with
``received_ns`` and ``replied_ns`` (the node's clock). ``swap`` carries ``path``, a bundle or engine on the node's
machine, and is answered with ``bundle``, its hash, as soon as the node decides with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

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


@dataclass(frozen=True, slots=True)
class Probe:
    """One round trip of a probe; times in ns.

    Attributes:
        sent_ns: when the request left, sensor clock.
        received_ns: when the node received it, node clock.
        replied_ns: when the node answered, node clock.
        returned_ns: when the answer arrived, sensor clock.
    """

    sent_ns: int
    received_ns: int
    replied_ns: int
    returned_ns: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Bounds of the offset, sensor minus node: it is not below the first and not above the second."""
        return self.sent_ns - self.received_ns, self.returned_ns - self.replied_ns


def probe_request(number: int, sent_ns: int) -> bytes:
    """Ask a node for its time.

    Args:
        number: identifies the answer.
        sent_ns: now, on the client's clock.
    """
    request = {"version": PROTOCOL_VERSION, "op": "probe", "id": number, "sent_ns": sent_ns}
    packed: bytes = msgpack.packb(request)
    return packed


def swap_request(number: int, path: str) -> bytes:
    """Ask a node to go on with another bundle.

    Args:
        number: identifies the answer.
        path: of a bundle or compiled engine, as the node sees it.
    """
    packed: bytes = msgpack.packb({"version": PROTOCOL_VERSION, "op": "swap", "id": number, "path": path})
    return packed


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the node reads it.

    Attributes:
        number: the answer repeats it.
        op: ``probe`` or ``swap``.
        sent_ns: of ``probe``.
        path: of ``swap``.
        fault: what is wrong with the request; empty if nothing is.
    """

    number: int
    op: str = ""
    sent_ns: int = 0
    path: str = ""
    fault: str = ""


def read_request(request: BytesLike) -> Request | None:
    """Read a request; None if it has no number, so that it cannot be answered."""
    try:
        asked = unpack_map(request, CONTROL_BYTES)
        number = take_int(asked, "id")
    except WireError:
        return None
    try:
        take_version(asked)
        op = take_str(asked, "op")
        if op == "probe":
            return Request(number, op, sent_ns=take_int(asked, "sent_ns", _ANY))
        if op == "swap":
            return Request(number, op, path=take_str(asked, "path", 2048))
        raise WireError(Reason.BAD_HEADER, "op: probe or swap", op)
    except WireError as e:
        return Request(number, fault=str(e))


def probe_answer(request: Request, received_ns: int, replied_ns: int) -> bytes:
    """Answer a probe with the node's time."""
    return _packed(
        request, op="probe", sent_ns=request.sent_ns, received_ns=received_ns, replied_ns=replied_ns
    )


def swap_answer(request: Request, bundle: str) -> bytes:
    """Answer that the node decides with the bundle of this hash now."""
    return _packed(request, op="swap", bundle=bundle)


def error_answer(request: Request, detail: str) -> bytes:
    """Answer that the node does not follow a request, and why."""
    return _packed(request, op="error", detail=detail.encode()[:1024].decode(errors="ignore"))


def read_swap(reply: BytesLike) -> tuple[int, str, str]:
    """Read the answer to a swap: its number, the bundle's hash, and what went wrong (one of the last two is empty).

    Raises:
        WireError: the answer is another one, or malformed.
    """
    header = unpack_map(reply, CONTROL_BYTES)
    take_version(header)
    number = take_int(header, "id")
    op = take_str(header, "op")
    if op == "error":
        return number, "", take_str(header, "detail", 1024) or "no reason given"
    if op != "swap":
        raise WireError(Reason.BAD_HEADER, "op: swap or error", op)
    return number, take_str(header, "bundle"), ""


def read_probe(reply: BytesLike, returned_ns: int) -> tuple[int, Probe]:
    """Read the answer to a probe: its number and the whole round trip.

    Raises:
        WireError: the answer is another one, or malformed.
    """
    header = unpack_map(reply, CONTROL_BYTES)
    take_version(header)
    if (op := take_str(header, "op")) != "probe":
        raise WireError(Reason.BAD_HEADER, "op: probe", shorten(header.get("detail", op)))
    sent, received, replied = (take_int(header, k, _ANY) for k in ("sent_ns", "received_ns", "replied_ns"))
    return take_int(header, "id"), Probe(sent, received, replied, returned_ns)


def _packed(request: Request, **fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"version": PROTOCOL_VERSION, "id": request.number, **fields})
    return packed
