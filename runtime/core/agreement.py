r"""Do the sensors perceive the same thing? One that tells of something else than all the others is implausible.

Four times a second every live sensor's own class probabilities :math:`p` are held against those of the others together,
:math:`q`. That the two perceive one class, instead of two drawn independently of each other, is
:math:`C \sum_c p_c q_c` times as likely with C classes; the probabilities are calibrated per missing pattern in
training, so that this is meant.

What holds for a while is *one* thing to agree on, however long: the median of the ratios counts once, when the others
go on to another class, and only of the time in which every window was full of the one before. The logarithms are
summed from the last time there was no doubt (a CUSUM). A sensor whose sum says ``odds`` to one that it perceives
something else is implausible, and is believed again once it agreed so often that half the sum is gone.

With two sensors nobody can tell which one is wrong: it takes two others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from runtime.core.fusion import Evidence, FusionInput, fill

ASK_EVERY_NS = 250_000_000
"""Between two times that sensors are held against each other."""

FEWEST_OTHERS = 2
"""Of one other nobody can tell which of the two is wrong."""

_DOUBT = 0.02
"""Share of every class probability that is spread over all classes: no model is surer than that."""

_FEWEST_RATIOS = 2
"""A class that held for fewer is not counted."""

_MOST_RATIOS = 64
"""Of a class that holds for long the newest so many count."""


@dataclass(frozen=True, slots=True)
class Witness:
    """What is to be fused to hold one modality against the others.

    Attributes:
        alone: the modality by itself.
        rest: the live others.
    """

    alone: FusionInput
    rest: FusionInput


@dataclass(slots=True)
class _Stretch:
    """A time in which the others said one class."""

    label: int
    since_ns: int
    log_ratios: list[float] = field(default_factory=list)


class AgreementMonitor:
    """Sums up, per modality, how much less likely agreement has become than chance."""

    def __init__(self, modalities: Sequence[str], odds: float, settle_ns: int) -> None:
        """Begin without doubt.

        Args:
            modalities: in the order of the mask.
            odds: how sure to be that a sensor perceives something else, to one.
            settle_ns: the longest window: how long a class must hold until every window is full of it.
        """
        self._modalities = tuple(modalities)
        self._enough = math.log(odds)
        self._settle_ns = settle_ns
        self._asked_ns: int | None = None
        self._doubt = dict.fromkeys(modalities, 0.0)
        self._stretches: dict[str, _Stretch] = {}
        self._implausible: set[str] = set()

    def detail(self, modality: str) -> str | None:
        """Why a modality is implausible, for a person; None where it is not."""
        if modality not in self._implausible:
            return None
        return f"disagrees with the others, {math.exp(self._doubt[modality]):.1e} to one"

    def witnesses(
        self,
        now_ns: int,
        live: Mapping[str, bool],
        heard: Mapping[str, bool],
        evidence: Mapping[str, Evidence],
    ) -> dict[str, Witness]:
        """What to fuse to hold sensors against each other; nothing if they were a moment ago.

        Args:
            now_ns: now.
            live: modality -> is it believed.
            heard: modality -> is it, but for what was found here.
            evidence: modality -> newest evidence; must hold every one that is heard.
        """
        if self._asked_ns is not None and now_ns - self._asked_ns < ASK_EVERY_NS:
            return {}
        self._asked_ns = now_ns
        asked = {}
        for name in self._modalities:
            others = {m: live[m] and m != name for m in self._modalities}
            if heard[name] and sum(others.values()) >= FEWEST_OTHERS:
                alone = dict.fromkeys(self._modalities, False) | {name: True}
                asked[name] = Witness(*(self._input(which, evidence) for which in (alone, others)))
        for name in self._stretches.keys() - asked.keys():
            del self._stretches[name]  # what is not heard to its end does not count
        return asked

    def _input(self, present: Mapping[str, bool], evidence: Mapping[str, Evidence]) -> FusionInput:
        return fill("impute", self._modalities, present, evidence, {})

    def witnessed(self, now_ns: int, said: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
        """Fact: what fusion made of the :meth:`witnesses` that were given at ``now_ns``.

        Args:
            now_ns: as given.
            said: modality -> class probabilities by itself, and of the others.
        """
        for name, (own, others) in said.items():
            self._hear(name, now_ns, own, others)
        self._believe_again()
        self._find()

    def _hear(self, name: str, now_ns: int, own: Sequence[float], others: Sequence[float]) -> None:
        label = max(range(len(others)), key=others.__getitem__)
        stretch = self._stretches.get(name)
        if stretch is None or stretch.label != label:
            # Not the last one: the sensor may have gone on before the others.
            ratios = [] if stretch is None else stretch.log_ratios[:-1]
            if len(ratios) >= _FEWEST_RATIOS:
                doubt = self._doubt[name] - median(ratios)
                self._doubt[name] = min(max(doubt, 0.0), self._enough)
            self._stretches[name] = _Stretch(label, now_ns)
        elif now_ns - stretch.since_ns >= self._settle_ns:
            stretch.log_ratios.append(log_ratio(own, others))
            del stretch.log_ratios[:-_MOST_RATIOS]

    def _believe_again(self) -> None:
        for name in [n for n in self._implausible if self._doubt[n] <= self._enough / 2]:
            self._implausible.remove(name)
            self._doubt[name] = 0.0

    def _find(self) -> None:
        """At most one at a time, the one most in doubt: the others were held against it, and begin anew."""
        believed = [n for n in self._modalities if n not in self._implausible]
        worst = max(believed, key=self._doubt.__getitem__, default=None)
        if worst is None or self._doubt[worst] < self._enough:
            return
        self._implausible.add(worst)
        self._doubt |= {n: 0.0 for n in believed if n != worst}
        self._stretches.clear()


def log_ratio(own: Sequence[float], others: Sequence[float]) -> float:
    r"""How much more likely one class behind both is than two independent ones: :math:`\ln C \sum_c p_c q_c`.

    Args:
        own: class probabilities, of one sensor.
        others: of the rest; some doubt is added to both.
    """
    classes = len(own)
    sure, spread = 1 - _DOUBT, _DOUBT / classes
    return math.log(
        classes * sum((sure * p + spread) * (sure * q + spread) for p, q in zip(own, others, strict=True))
    )
