"""Replaying a recording: the node's own pipeline and decisions, on recorded inputs, without a clock or a socket.

An *exact* replay repeats every input of the pipeline at its recorded time and in its recorded order, so the same bundle
gives the same decisions, bit for bit. A *free* replay repeats only the frames, through a fault schedule if one is
given; windows are encoded as soon as they are due, and ticks come on their deadlines. Use it for another bundle,
another fill policy or other faults; its result does not depend on the speed of the recorded machine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.session import Session
from runtime.core.pipeline import DueWindow, Pipeline, TickPlan
from runtime.node.decisions import DecisionMaker, blank_evidence, fuse_plans
from runtime.record.schemas import IMPORTED
from runtime.record.writer import RecordingError
from runtime.rig import FillPolicy, Rig
from runtime.signals.faults import FaultInjector, FaultSchedule
from runtime.wire import Decision, HealthEvent, JournalEntry, WireError, decode_frame, encode_frame

_KEPT_WINDOWS = 64
"""Windows kept until their evidence entry comes; a node never has more than a few in between."""


@dataclass(frozen=True)
class Replayed:
    """The result of a replay at one instant.

    Attributes:
        at_ns: node clock of the recorded run.
        decision: of the tick; None if none was due or the engine failed.
        events: changes of state since the last result.
    """

    at_ns: int
    decision: Decision | None
    events: tuple[HealthEvent, ...]


class _Run:
    """A pipeline with its session, as in a node."""

    def __init__(self, begin: JournalEntry, session: Session, fill: FillPolicy | None = None) -> None:
        settings = begin.settings
        try:
            rig = Rig.model_validate(settings["rig"])
            start_ns, compare = int(settings["start_ns"]), list(settings["compare"])
        except (KeyError, TypeError, ValueError) as e:
            raise RecordingError(f"the recording's begin entry does not describe a run: {e}") from e
        self.rig = rig if fill is None else rig.model_copy(update={"fill": fill})
        self.start_ns = start_ns
        self.pipeline = Pipeline(self.rig, session.manifest, start_ns, compare=compare)
        self._needs_blank = "zero" in (self.rig.fill, *compare)
        self._use(session)

    def replace(self, session: Session) -> list[DueWindow]:
        """Change to another bundle; gives the windows to encode again."""
        windows = self.pipeline.replace_bundle(session.manifest)
        self._use(session)
        return windows

    def _use(self, session: Session) -> None:
        self.session = session
        self.maker = DecisionMaker(self.rig, session)
        for modality, evidence in blank_evidence(session).items() if self._needs_blank else ():
            self.pipeline.set_blank_evidence(modality, evidence)

    def encode(self, due: DueWindow, at_ns: int) -> None:
        try:
            evidence = self.session.encode(due.modality, due.window[np.newaxis])[0]
        except EngineError as e:
            self.pipeline.encode_failed(due.modality, at_ns, str(e))
            return
        self.pipeline.store_evidence(due.modality, evidence, due.capture_ns)

    def tick(self, at_ns: int) -> Replayed:
        plan = self.pipeline.tick(at_ns)
        decision = None if plan is None else self._decide(plan, at_ns)
        return Replayed(at_ns, decision, tuple(self.pipeline.events()))

    def _decide(self, plan: TickPlan, at_ns: int) -> Decision | None:
        try:
            (fused,) = fuse_plans(self.session, [plan])
        except EngineError:
            self.pipeline.tick_failed()
            return None
        self.pipeline.store_cross_checks(plan, fused.cross_checks)
        return self.maker.decision(plan, fused, published_ns=at_ns, fuse_ms=0.0)


def replay_exactly(
    entries: Iterable[JournalEntry], session: Session, others: Sequence[Session] = ()
) -> Iterator[Replayed]:
    """Repeat every input of a node's pipeline.

    Args:
        entries: of a recording that began with its run, in order.
        session: of the recorded bundle.
        others: of the bundles that the node changed to during the recording, if any.

    Raises:
        RecordingError: the recording has no begin entry, began later than its run, or has a gap or an entry that does
            not fit; or the node changed to a bundle that is not among the sessions.
    """
    run: _Run | None = None
    kept: OrderedDict[tuple[str, int], DueWindow] = OrderedDict()
    expected = 0
    for entry in entries:
        if entry.call == "begin":
            run = run or _Run(_from_start(entry), session)
            continue
        if run is None:
            raise RecordingError("the recording has frames before its begin entry; record it again")
        if entry.order != expected:
            raise RecordingError(
                f"the recording lacks inputs {expected} to {entry.order - 1} of its run (the recorder lost them); "
                "replay it freely (--free)"
            )
        expected += 1
        if entry.call == "frame":
            run.pipeline.receive(entry.parts, entry.at_ns)
        elif entry.call in ("windows", "bundle"):
            windows = (
                run.pipeline.due_windows(entry.at_ns)
                if entry.call == "windows"
                else run.replace(_session_of(entry, (session, *others)))
            )
            kept.update({(due.modality, due.capture_ns): due for due in windows})
            while len(kept) > _KEPT_WINDOWS:
                kept.popitem(last=False)
        elif entry.call == "evidence":
            due_window = kept.pop((entry.modality, entry.capture_ns), None)
            if due_window is None:
                raise RecordingError(
                    f"input {entry.order}: evidence of a window of {entry.modality!r} captured at "
                    f"{entry.capture_ns} ns that the recorded frames do not give; did another version record it?"
                )
            run.encode(due_window, entry.at_ns)
        elif entry.call == "encode_failed":
            run.pipeline.encode_failed(entry.modality, entry.at_ns, entry.detail)
        else:
            yield run.tick(entry.at_ns)


def replay_freely(
    entries: Iterable[JournalEntry],
    session: Session,
    *,
    faults: FaultSchedule | None = None,
    fill: FillPolicy | None = None,
) -> Iterator[Replayed]:
    """Repeat the frames of a recording, on time, and decide on them with an engine that takes no time.

    Args:
        entries: of a recording; if its run began earlier, health starts from the first entry.
        session: of any bundle that the recorded rig feeds.
        faults: to inject, by modality and seconds since the start of the run.
        fill: policy to use in place of the recorded rig's.

    Raises:
        RecordingError: no begin entry.
        RigError: the recorded rig does not feed the bundle.
    """
    run: _Run | None = None
    injectors: dict[str, FaultInjector] = {}
    for entry in entries:
        if entry.call == "begin":
            if run is None:
                started = entry.settings if entry.order == 0 else {**entry.settings, "start_ns": entry.at_ns}
                run = _Run(JournalEntry("begin", 0, entry.at_ns, settings=started), session, fill)
                injectors = {m: FaultInjector(faults or FaultSchedule(), m) for m in run.rig.modality_names}
            continue
        if run is None:
            raise RecordingError("the recording has no begin entry; record it again")
        while (wake_ns := run.pipeline.wake_ns(0)) <= entry.at_ns:
            yield run.tick(wake_ns)
        if entry.call != "frame":
            continue
        parts = _with_faults(entry, injectors, run.start_ns)
        if parts is not None:
            run.pipeline.receive(parts, entry.at_ns)
            for due in run.pipeline.due_windows(entry.at_ns):
                run.encode(due, entry.at_ns)


def comparable(decision: Decision | dict[str, Any]) -> dict[str, Any]:
    """The fields of a decision that an exact replay repeats bit for bit: all but its times.

    Args:
        decision: a decision, or the recorded map of one.
    """
    fields = decision if isinstance(decision, dict) else asdict(decision)
    kept = (
        "tick",
        "label",
        "probabilities",
        "entropy",
        "presence",
        "fill",
        "bundle",
        "capture_ns",
        "compare",
    )
    reports = {
        name: {k: report[k] for k in ("state", "reason", "weight", "imputed")}
        for name, report in fields["modalities"].items()
    }
    return {key: fields[key] for key in kept} | {"modalities": reports}


def _session_of(entry: JournalEntry, sessions: Sequence[Session]) -> Session:
    bundle = entry.settings.get("bundle")
    for session in sessions:
        if session.bundle_hash == bundle:
            return session
    raise RecordingError(
        f"the node changed to bundle {bundle} ({entry.settings.get('bundle_name')!r}) during the recording, at input "
        f"{entry.order}; give its path as well: afterimage replay RECORDING BUNDLE --then PATH"
    )


def _from_start(begin: JournalEntry) -> JournalEntry:
    if begin.settings.get("backend") == IMPORTED:
        raise RecordingError(
            "the recording was imported, so no node has decided on it; replay it freely (--free)"
        )
    if begin.order != 0:
        raise RecordingError(
            f"the recording began with input {begin.order} of its run, so it lacks what the node knew before; "
            "replay it freely (--free), or record with `afterimage run --record`"
        )
    return begin


def _with_faults(
    entry: JournalEntry, injectors: dict[str, FaultInjector], start_ns: int
) -> tuple[Any, ...] | list[Any] | None:
    """The frame with the faults of the schedule; None if it is silenced. A message that is no frame is not changed."""
    injector = injectors.get(entry.modality)
    if injector is None:
        return entry.parts
    try:
        frame = decode_frame(entry.parts)
    except WireError:
        return entry.parts
    samples: npt.NDArray[Any] | None = injector.apply((entry.at_ns - start_ns) / 1e9, frame.samples)
    if samples is frame.samples:
        return entry.parts
    if samples is None:
        return None
    return encode_frame(
        frame.rig, frame.modality, frame.sequence, samples,
        capture_ns=frame.capture_ns, unit=frame.unit, clock=frame.clock,
    )  # fmt: skip
