"""Cued recording: which class is asked for when, as a function of (keys, now); screens and files are others' business.

A trial is a rest, then a cue that is held for some seconds. The label of a trial begins after a settling time, because
people need a moment to do what they are told, and ends with the cue. Classes come in random order, each equally often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from configs.errors import AfterimageError
from runtime.core.clock import nanoseconds
from runtime.wire.labels import Label

AUTHOR = "cues"
Key = Literal["redo", "skip", "pause", "end"]


class CueError(AfterimageError, ValueError):
    """A plan of cues that cannot be followed; says what was expected and what came."""


@dataclass(frozen=True)
class CuePlan:
    """What is asked for.

    Attributes:
        classes: names.
        trials: of each class.
        seconds: how long a cue is held.
        rest_s: before each cue.
        settle_s: from a cue to the onset of its label.
        seed: of the order.
    """

    classes: tuple[str, ...]
    trials: int
    seconds: float
    rest_s: float = 2.0
    settle_s: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a plan that cannot be followed.

        Raises:
            CueError: fewer than two classes, one named twice, no trials, or a settling time as long as the cue.
        """
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise CueError(f"cues need two classes or more, each once, got {list(self.classes)}")
        if self.trials < 1 or self.rest_s < 0 or not 0 <= self.settle_s < self.seconds:
            raise CueError(
                f"cues need one trial or more and 0 <= settle < seconds, got {self.trials} trials, a settling time of "
                f"{self.settle_s} s and cues of {self.seconds} s"
            )

    def order(self) -> list[str]:
        """Every class equally often, shuffled block by block: at no time is one much ahead of another."""
        rng = np.random.default_rng([0x43554553, self.seed])
        return [self.classes[i] for _ in range(self.trials) for i in rng.permutation(len(self.classes))]


@dataclass(frozen=True, slots=True)
class CueView:
    """What to show a person.

    Attributes:
        phase: ``rest``, ``cue``, ``paused`` or ``done``.
        word: the class that is asked for, or comes next; empty when done.
        left_s: seconds until the phase ends.
        trial: number of the trial, from 1.
        trials: how many there are in all.
    """

    phase: Literal["rest", "cue", "paused", "done"]
    word: str
    left_s: float
    trial: int
    trials: int


class CueSchedule:
    """Follows a plan; call :meth:`advance` often, and :meth:`press` when a key is pressed."""

    def __init__(self, rig: str, plan: CuePlan, now_ns: int) -> None:
        """Begin with the first rest.

        Args:
            rig: whose session it is.
            plan: what is asked for.
            now_ns: now.
        """
        self._rig, self._plan = rig, plan
        self._coming: list[str] = plan.order()
        self._trials = len(self._coming)
        self._finished: list[tuple[str, Label]] = []
        self._number = 0
        self._label: Label | None = None
        self._since_ns, self._cued, self._paused = now_ns, False, False

    @property
    def is_done(self) -> bool:
        """Whether every trial has been done."""
        return not self._coming

    def view(self, now_ns: int) -> CueView:
        """What to show now."""
        if self.is_done:
            return CueView("done", "", 0.0, self._trials, self._trials)
        trial = self._trials - len(self._coming) + 1
        if self._paused:
            return CueView("paused", self._coming[0], 0.0, trial, self._trials)
        length_s = self._plan.seconds if self._cued else self._plan.rest_s
        left_s = max(0.0, length_s - (now_ns - self._since_ns) / 1e9)
        return CueView("cue" if self._cued else "rest", self._coming[0], left_s, trial, self._trials)

    def advance(self, now_ns: int) -> list[Label]:
        """Move on to where the plan is at ``now``; gives the labels that began or ended."""
        told: list[Label] = []
        while not self.is_done and not self._paused:
            if not self._cued:
                cue_ns = self._since_ns + nanoseconds(self._plan.rest_s)
                if now_ns < cue_ns:
                    break
                self._cued, self._since_ns = True, cue_ns
            onset_ns = self._since_ns + nanoseconds(self._plan.settle_s)
            end_ns = self._since_ns + nanoseconds(self._plan.seconds)
            if self._label is None and now_ns >= onset_ns:
                self._label = Label(self._rig, self._coming[0], onset_ns, None, AUTHOR, self._number)
                self._number += 1
                told.append(self._label)
            if now_ns < end_ns or self._label is None:
                break
            told.append(self._closed(end_ns))
            self._finished.append((self._coming.pop(0), told[-1]))
            self._label, self._cued, self._since_ns = None, False, end_ns
        return told

    def press(self, key: Key, now_ns: int) -> list[Label]:
        """Act on a key; gives the labels that it withdraws or ends.

        ``redo`` withdraws the trial in progress, or during a rest the last one, and asks for its class again at once.
        ``skip`` leaves the trial in progress out. ``pause`` stops the clock, withdrawing a trial in progress, and
        goes on with a rest when pressed again. ``end`` leaves out all that is left.
        """
        told = self.advance(now_ns)
        if self.is_done and key != "redo":
            return told
        if key == "pause":
            self._paused = not self._paused
        elif key == "skip":
            self._coming.pop(0)
            self._trials -= 1
        elif key == "end":
            self._trials -= len(self._coming)
            self._coming.clear()
        elif not self._cued and self._finished:
            word, label = self._finished.pop()
            self._coming.insert(0, word)
            told.append(_withdrawn(label))
        if self._label is not None:
            told.append(_withdrawn(self._closed(max(now_ns, self._label.onset_ns))))
        self._label, self._cued, self._since_ns = None, False, now_ns
        return told

    def _closed(self, end_ns: int) -> Label:
        assert self._label is not None
        x = self._label
        return Label(x.rig, x.name, x.onset_ns, end_ns, x.author, x.number, x.clock)


def _withdrawn(x: Label) -> Label:
    return Label(x.rig, x.name, x.onset_ns, x.end_ns, x.author, x.number, x.clock, withdrawn=True)


def parse_classes(text: str) -> tuple[str, ...]:
    """``stop,go,rest`` as names; blanks around them do not count."""
    return tuple(word for part in text.split(",") if (word := part.strip()))
