r"""Cross-checks: do the sensors perceive the same class? One that contradicts all the others is implausible.

Four times a second the class probabilities :math:`p` from each live sensor alone are compared with those from all the
others together, :math:`q`. The ratio :math:`C \sum_c p_c q_c`, with C classes, says how much more likely it is that
both perceive one class than that they perceive two classes drawn independently. This takes probabilities that mean
what they say; training calibrates them for every missing pattern.

A class that lasts is *one* piece of evidence, however long it lasts. When the others change to another class, the
median ratio of the class before counts once, taken over the time in which every window was full of it. The logarithms
are summed since the sensor was last beyond doubt (a CUSUM). A sensor whose sum reaches ``odds`` to one is implausible.
It is trusted again once enough agreement has halved its sum.

A cross-check needs at least two other sensors: of two sensors alone, nothing tells which one is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from runtime.core.fusion import Evidence, FusionInput, fill

CHECK_EVERY_NS = 250_000_000
"""Between two cross-checks."""

FEWEST_OTHERS = 2
"""With only one other, nothing tells which of the two is wrong."""

_DOUBT = 0.02
"""Share of every class probability that is spread over all classes, because no model is surer than that."""

_FEWEST_RATIOS = 2
"""A class that lasted for fewer cross-checks does not count."""

_MOST_RATIOS = 64
"""Of a class that lasts longer, only the newest ratios count, this many."""


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """What to fuse to compare one modality with the others.

    Attributes:
        alone: the modality by itself.
        others: all other live ones.
    """

    alone: FusionInput
    others: FusionInput


@dataclass(slots=True)
class _Stretch:
    """A time during which the others perceive one class."""

    label: int
    since_ns: int
    log_ratios: list[float] = field(default_factory=list)


class AgreementMonitor:
    """Sums, per modality, the evidence that it perceives something else than the others."""

    def __init__(self, modalities: Sequence[str], odds: float, settle_ns: int) -> None:
        """Begin without doubt.

        Args:
            modalities: in the order of the mask.
            odds: a sensor is implausible when it is this much to one that it perceives something else.
            settle_ns: the longest window: how long a class must last until every window is full of it.
        """
        self._modalities = tuple(modalities)
        self._limit = math.log(odds)
        self._settle_ns = settle_ns
        self._checked_ns: int | None = None
        self._doubt = dict.fromkeys(modalities, 0.0)
        self._stretches: dict[str, _Stretch] = {}
        self._implausible: set[str] = set()

    def detail(self, modality: str) -> str | None:
        """Why a modality is implausible, for a person; None where it is not."""
        if modality not in self._implausible:
            return None
        return f"disagrees with the others, {math.exp(self._doubt[modality]):.1e} to one"

    def cross_checks(
        self,
        now_ns: int,
        live: Mapping[str, bool],
        healthy: Mapping[str, bool],
        evidence: Mapping[str, Evidence],
    ) -> dict[str, CrossCheck]:
        """What to fuse to compare the sensors; empty if the last cross-check was a moment ago.

        Args:
            now_ns: now.
            live: modality -> is it trusted.
            healthy: modality -> would it be trusted if it were not implausible.
            evidence: modality -> newest evidence; must hold every healthy one.
        """
        if self._checked_ns is not None and now_ns - self._checked_ns < CHECK_EVERY_NS:
            return {}
        self._checked_ns = now_ns
        checks = {}
        for name in self._modalities:
            others = {m: live[m] and m != name for m in self._modalities}
            if healthy[name] and sum(others.values()) >= FEWEST_OTHERS:
                alone = dict.fromkeys(self._modalities, False) | {name: True}
                checks[name] = CrossCheck(self._input(alone, evidence), self._input(others, evidence))
        for name in self._stretches.keys() - checks.keys():
            del self._stretches[name]  # a stretch that is not observed to its end does not count
        return checks

    def _input(self, present: Mapping[str, bool], evidence: Mapping[str, Evidence]) -> FusionInput:
        return fill("impute", self._modalities, present, evidence, {})

    def store(
        self, now_ns: int, probabilities: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    ) -> None:
        """Fact: what fusion made of the :meth:`cross_checks` that were given at ``now_ns``.

        Args:
            now_ns: as given.
            probabilities: modality -> class probabilities from it alone, and from the others.
        """
        for name, (own, others) in probabilities.items():
            self._compare(name, now_ns, own, others)
        self._trust_again()
        self._find_implausible()

    def _compare(self, name: str, now_ns: int, own: Sequence[float], others: Sequence[float]) -> None:
        label = max(range(len(others)), key=others.__getitem__)
        stretch = self._stretches.get(name)
        if stretch is None or stretch.label != label:
            # Without the last one: the sensor may have changed to the next class before the others.
            ratios = [] if stretch is None else stretch.log_ratios[:-1]
            if len(ratios) >= _FEWEST_RATIOS:
                doubt = self._doubt[name] - median(ratios)
                self._doubt[name] = min(max(doubt, 0.0), self._limit)
            self._stretches[name] = _Stretch(label, now_ns)
        elif now_ns - stretch.since_ns >= self._settle_ns:
            stretch.log_ratios.append(log_ratio(own, others))
            del stretch.log_ratios[:-_MOST_RATIOS]

    def _trust_again(self) -> None:
        for name in [n for n in self._implausible if self._doubt[n] <= self._limit / 2]:
            self._implausible.remove(name)
            self._doubt[name] = 0.0

    def _find_implausible(self) -> None:
        """At most one at a time, the one most in doubt. The others were compared with it, so their sums start again."""
        trusted = [n for n in self._modalities if n not in self._implausible]
        worst = max(trusted, key=self._doubt.__getitem__, default=None)
        if worst is None or self._doubt[worst] < self._limit:
            return
        self._implausible.add(worst)
        self._doubt |= {n: 0.0 for n in trusted if n != worst}
        self._stretches.clear()


def log_ratio(own: Sequence[float], others: Sequence[float]) -> float:
    r"""How much more likely it is that both perceive one class than two independent ones: :math:`\ln C \sum_c p_c q_c`.

    Args:
        own: class probabilities from one sensor.
        others: class probabilities from the others. Some doubt is added to both.
    """
    classes = len(own)
    kept, spread = 1 - _DOUBT, _DOUBT / classes
    return math.log(
        classes * sum((kept * p + spread) * (kept * q + spread) for p, q in zip(own, others, strict=True))
    )
