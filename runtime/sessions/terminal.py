"""Recording a session at a terminal: sensors are started, cues shown, keys read, and every trial is summed up."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runtime.rig import Rig
from runtime.sensors.supervisor import Supervisor
from runtime.sessions.cues import CuePlan, CueSchedule, Key
from runtime.sessions.labelling import KeyLabels
from runtime.sessions.monitor import SensorDigest
from runtime.sessions.recording import Progress, SessionRecorder
from runtime.stopping import StopEvent
from runtime.transport.endpoints import default_endpoints

_CUE_KEYS: dict[str, Key] = {"r": "redo", "s": "skip", "p": "pause", "q": "end"}
_DRAW_EVERY_S = 0.1
_DIGEST_EVERY_S = 1.0


@dataclass(frozen=True)
class SessionOptions:
    """What to record.

    Attributes:
        rig: whose sensors; those with a `source` are started, the others are expected from elsewhere.
        folder: where the session goes.
        classes: for keys 1 to 9, or for cues.
        cues: the plan of cues; None leaves labelling to keys and programs.
        seconds: stop after this long; None: when told to, or when the cues are done.
        tags: what holds for the whole session.
    """

    rig: Rig
    folder: Path
    classes: tuple[str, ...] = ()
    cues: CuePlan | None = None
    seconds: float | None = None
    tags: Mapping[str, str] | None = None


def record_session(options: SessionOptions, stop: StopEvent, console: Console) -> Progress:
    """Record one session.

    Args:
        options: what.
        stop: ends the recording when set.
        console: where a person is told; cues and keys need a terminal, without one there are lines.

    Returns:
        What was recorded; its file is not there if nothing came.

    Raises:
        EndpointError: a node or another recorder listens already.
        SensorProcessError: a sensor refused its source.
        RecordingError: the disk is full.
    """
    rig = options.rig
    endpoint = default_endpoints(rig.name).frames
    own = [s.modality for s in rig.sensors if s.source is not None]
    with ExitStack() as opened:
        recorder = opened.enter_context(
            SessionRecorder(rig, options.folder, tags=options.tags, endpoint=endpoint)
        )
        supervisor = opened.enter_context(Supervisor(rig, endpoint, modalities=own)) if own else None
        read_key = opened.enter_context(_keys())
        live = (
            opened.enter_context(Live(console=console, auto_refresh=False)) if console.is_terminal else None
        )
        _wait_for_sensors(recorder, supervisor, stop, console)
        begun = time.monotonic()
        session = _Labelling(options, recorder, time.monotonic_ns())
        drawn = summed = begun
        while not stop.is_set() and not session.is_done:
            if options.seconds is not None and time.monotonic() - begun >= options.seconds:
                break
            recorder.turn()
            if supervisor is not None:
                supervisor.look()
            session.follow(read_key())
            now = time.monotonic()
            if session.trial_ended or (options.cues is None and now - summed >= _DIGEST_EVERY_S):
                summed = now
                _tell_digest(recorder.take_digest(), session, live is None, console)
            if live is not None and now - drawn >= _DRAW_EVERY_S:
                drawn = now
                live.update(_screen(options, recorder.progress, session), refresh=True)
        return recorder.progress


class _Labelling:
    """Cues or keys, whichever the session has."""

    def __init__(self, options: SessionOptions, recorder: SessionRecorder, now_ns: int) -> None:
        self._recorder, self._classes = recorder, options.classes
        self.cues = CueSchedule(options.rig.name, options.cues, now_ns) if options.cues is not None else None
        self.keys = KeyLabels(options.rig.name)
        self.trial_ended = False
        self._ended = 0
        self._ending = False

    @property
    def is_done(self) -> bool:
        return self._ending or (self.cues is not None and self.cues.is_done)

    def follow(self, key: str) -> None:
        now_ns = time.monotonic_ns()
        if self.cues is not None:
            if key in _CUE_KEYS:
                self._recorder.add_labels(self.cues.press(_CUE_KEYS[key], now_ns))
            self._recorder.follow(self.cues)
        elif key == "q":
            self._ending = True
        elif key.isdigit() and 0 < int(key) <= len(self._classes):
            self._recorder.add_labels(self.keys.press(self._classes[int(key) - 1], now_ns))
        ended = sum(self._recorder.progress.counts.values())
        self.trial_ended, self._ended = ended > self._ended, ended


def _wait_for_sensors(
    recorder: SessionRecorder, supervisor: Supervisor | None, stop: StopEvent, console: Console
) -> None:
    """Record from the first message on, but begin labelling only when every sensor has spoken, or after 20 s."""
    deadline = time.monotonic() + 20
    names = set(recorder.rig.modality_names)
    while not stop.is_set() and time.monotonic() < deadline:
        recorder.turn()
        if supervisor is not None:
            supervisor.look()
        if {m for m, state in recorder.progress.states.items() if state == "live"} == names:
            break
    silent = sorted(names - {m for m, state in recorder.progress.states.items() if state == "live"})
    if silent and not stop.is_set():
        console.print(
            f"not live yet: {', '.join(silent)}; they count as missing until they are", highlight=False
        )
    recorder.take_digest()


def _tell_digest(
    digest: Sequence[SensorDigest], session: _Labelling, as_lines: bool, console: Console
) -> None:
    problems = [f"{d.modality}: {d.problem}" for d in digest if d.problem]
    if session.cues is None and not problems:
        return
    if as_lines or problems:
        rates = ", ".join(f"{d.modality} {d.rate_hz:.4g} of {d.promised_hz:.4g} Hz" for d in digest)
        console.print("; ".join(problems) or rates, highlight=False, style="red" if problems else "")


def _screen(options: SessionOptions, progress: Progress, session: _Labelling) -> Group:
    parts: list[Panel | Table | Text] = []
    if progress.cue is not None:
        cue = progress.cue
        words = {
            "cue": cue.word.upper(),
            "rest": f"rest, then: {cue.word}",
            "paused": "paused",
            "done": "done",
        }
        style = "bold white on dark_green" if cue.phase == "cue" else "white on grey23"
        text = Text(f"\n{words[cue.phase]}\n{cue.left_s:.1f} s\n", justify="center", style=style)
        parts.append(Panel(text, title=f"trial {cue.trial} of {cue.trials}", style=style))
        parts.append(Text("r redo  s skip  p pause  q end", style="dim"))
    elif options.classes:
        keys = "  ".join(f"{i} {name}" for i, name in enumerate(options.classes, 1))
        parts.append(Text(f"label: {session.keys.holding or '-'}    keys: {keys}  q end"))
    table = Table("sensor", "state", "rate", "promised", "lost")
    for d in progress.digest:
        state = progress.states.get(d.modality, "waiting")
        table.add_row(d.modality, state, f"{d.rate_hz:.4g} Hz", f"{d.promised_hz:.4g} Hz", str(d.lost))
    parts.append(table)
    counts = ", ".join(f"{name} {n}" for name, n in progress.counts.items()) or "none yet"
    parts.append(Text(f"{progress.path}: {progress.messages} messages; labels: {counts}"))
    return Group(*parts)


@contextmanager
def _keys() -> Iterator[_KeyReader]:
    """Single keys of the terminal, without waiting for a new line; nothing where there is no terminal."""
    if not sys.stdin.isatty():
        yield _KeyReader(None)
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield _KeyReader(number)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


class _KeyReader:
    """Gives the key that was pressed since the last call; an empty word if none was."""

    def __init__(self, number: int | None) -> None:
        self._number = number

    def __call__(self) -> str:
        if self._number is None or not select.select([self._number], [], [], 0)[0]:
            return ""
        return sys.stdin.read(1)
