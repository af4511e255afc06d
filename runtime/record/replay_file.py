"""A replay from end to end: read, replay, pace, publish, compare."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engines.session import Session
from runtime.record.reader import Recorded, read_recording
from runtime.record.replayer import Replayed, comparable, replay_exactly, replay_freely
from runtime.rig import FillPolicy
from runtime.signals.faults import FaultSchedule
from runtime.transport.endpoints import default_endpoints
from runtime.transport.sockets import DecisionSender
from runtime.wire import JournalEntry, encode_output


def replay_recording(
    path: Path,
    session: Session,
    *,
    others: Sequence[Session] = (),
    exact: bool = True,
    faults: FaultSchedule | None = None,
    fill: FillPolicy | None = None,
    speed: float | None = None,
    publish: bool = False,
) -> dict[str, Any]:
    """Replay a recording and compare its decisions with the recorded ones.

    Args:
        path: of the recording.
        session: of a bundle that the recorded rig feeds.
        others: of the bundles that the node changed to during the recording, for an exact replay.
        exact: repeat every input of the pipeline; otherwise only the frames.
        faults: for a free replay.
        fill: for a free replay, in place of the recorded rig's.
        speed: in multiples of the recorded speed; None for as fast as possible.
        publish: publish decisions and health on the recorded rig's endpoint.

    Returns:
        JSON-serialisable: exact, frames, decisions, seconds (recorded), compared, equal, different, same_label,
        first_difference, lost.

    Raises:
        RecordingError: the file is no recording, or cannot be replayed exactly.
        EndpointError: another node publishes on that endpoint already.
    """
    recorded = _Recording(path)
    entries = recorded.entries()
    results = (
        replay_exactly(entries, session, others)
        if exact
        else replay_freely(entries, session, faults=faults, fill=fill)
    )
    decisions: dict[int, dict[str, Any]] = {}
    pace = _Pace(speed)
    sender: DecisionSender | None = None
    try:
        for result in results:
            pace.wait(result.at_ns)
            if publish and sender is None:
                sender = DecisionSender(default_endpoints(recorded.rig).decisions)
            if sender is not None:
                _publish(sender, result)
            if result.decision is not None:
                decisions[result.decision.tick] = comparable(result.decision)
    finally:
        if sender is not None:
            sender.close()
    return {
        "exact": exact,
        **recorded.summary(),
        "decisions": len(decisions),
        **_compare(decisions, recorded),
    }


class _Recording:
    """The entries of a file one by one, and what else was in it, as far as it has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rig = ""
        self.decisions: dict[int, dict[str, Any]] = {}
        self.frames = 0
        self._lost: dict[str, int] = {}
        self._times: list[int] = []

    def entries(self) -> Iterator[JournalEntry]:
        for message in read_recording(self._path):
            self._times = [self._times[0] if self._times else message.at_ns, message.at_ns]
            if isinstance(message.content, JournalEntry):
                self.frames += message.content.call == "frame"
                if message.content.call == "begin" and not self.rig:
                    self.rig = str(message.content.settings.get("rig", {}).get("name", ""))
                yield message.content
            elif isinstance(message.content, dict):  # a label changes no decision
                self._note(message, message.content)

    def _note(self, message: Recorded, content: dict[str, Any]) -> None:
        if message.topic == "fused":
            self.decisions[content["tick"]] = comparable(content)
        elif message.topic == "recorder":
            self._lost = content["lost"]

    def summary(self) -> dict[str, Any]:
        seconds = (self._times[1] - self._times[0]) / 1e9 if self._times else 0.0
        return {"frames": self.frames, "seconds": round(seconds, 3), "lost": self._lost}


class _Pace:
    """Holds a replay to a multiple of the recorded speed."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._origin: tuple[int, float] | None = None

    def wait(self, at_ns: int) -> None:
        if self._speed is None:
            return
        if self._origin is None:
            self._origin = (at_ns, time.monotonic())
        start_ns, start_s = self._origin
        time.sleep(max(0.0, start_s + (at_ns - start_ns) / 1e9 / self._speed - time.monotonic()))


def _publish(sender: DecisionSender, result: Replayed) -> None:
    sender.update_subscriptions()
    messages: list[Any] = [*result.events]
    if result.decision is not None:
        messages.append(result.decision)
    for message in messages:
        sender.send(encode_output(message))


def _compare(decisions: dict[int, dict[str, Any]], recorded: _Recording) -> dict[str, Any]:
    both = sorted(decisions.keys() & recorded.decisions.keys())
    different = [t for t in both if decisions[t] != recorded.decisions[t]]
    first = None
    if different:
        ours, theirs = decisions[different[0]], recorded.decisions[different[0]]
        keys = [k for k in ours if ours[k] != theirs.get(k)]
        first = f"tick {different[0]}: {', '.join(f'{k} {theirs.get(k)} now {ours[k]}' for k in keys)}"
    return {
        "compared": len(both),
        "equal": len(both) - len(different),
        "different": len(different),
        "same_label": sum(decisions[t]["label"] == recorded.decisions[t]["label"] for t in both),
        "first_difference": first,
    }
