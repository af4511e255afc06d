"""The wire protocol: the messages between sensors, the node and clients, byte for byte.

Every message has three parts: ``[topic][header][payload]``. The topic is ASCII, the header one msgpack map, the payload
raw little-endian array bytes (empty where a message carries none). Nothing here opens a socket: encoders return
the parts to send, decoders take the parts that came. ``docs/protocol.md`` specifies the same for other languages.

Frames come in (:class:`Frame`, :func:`encode_frame`, :func:`decode_frame`); decisions, health events,
observations and statistics go out (:class:`Decision`, :class:`HealthEvent`, :class:`Observation`,
:class:`Statistics`, :func:`encode_output`, :func:`decode_output`). The inputs of the node's pipeline go
out in order as its journal (:class:`JournalEntry`).
"""

from runtime.wire.checks import PROTOCOL_VERSION, Limits, Reason, WireError
from runtime.wire.frames import Clock, Frame, FrameDecoder, decode_frame, encode_frame
from runtime.wire.journal import JOURNAL_PREFIX, JournalEntry, decode_entry, encode_entry
from runtime.wire.outputs import (
    Alternative,
    Decision,
    HealthEvent,
    ModalityReport,
    Observation,
    Output,
    Statistics,
    decode_output,
    encode_output,
)
from runtime.wire.topics import (
    BEST_PREFIX,
    FRAME_PREFIX,
    FUSED,
    HEALTH,
    IMPUTED_PREFIX,
    STATISTICS,
    best_topic,
    frame_topic,
    imputed_topic,
)

__all__ = [
    "BEST_PREFIX",
    "FRAME_PREFIX",
    "FUSED",
    "HEALTH",
    "IMPUTED_PREFIX",
    "JOURNAL_PREFIX",
    "PROTOCOL_VERSION",
    "STATISTICS",
    "Alternative",
    "Clock",
    "Decision",
    "Frame",
    "FrameDecoder",
    "HealthEvent",
    "JournalEntry",
    "Limits",
    "ModalityReport",
    "Observation",
    "Output",
    "Reason",
    "Statistics",
    "WireError",
    "best_topic",
    "decode_entry",
    "decode_frame",
    "decode_output",
    "encode_entry",
    "encode_frame",
    "encode_output",
    "frame_topic",
    "imputed_topic",
]
