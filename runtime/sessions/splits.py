"""Splits: which labelled stretches train, validate and test.

By session, by a tag such as ``person``, or, where there is only one session, by blocks of time with a gap; never by
window, because neighbouring windows are nearly the same and a model that has seen one knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.errors import AfterimageError
from runtime.core.clock import nanoseconds
from runtime.signals.moments import SPLITS, Split


class DatasetError(AfterimageError):
    """Data that a model cannot be made of; names the session or class, what was expected, what came, and what to do."""


@dataclass(frozen=True, slots=True)
class LabelledStretch:
    """A label of a class of the data set.

    Attributes:
        session: index into the data set's sessions.
        onset_ns: since when it holds.
        end_ns: until when.
        label: index of its class.
    """

    session: int
    onset_ns: int
    end_ns: int
    label: int


@dataclass(frozen=True)
class SplitPlan:
    """How sessions are divided.

    Attributes:
        by: ``session``; ``time``: blocks of each class in order of time; or a tag, whose sessions stay together. A tag
            whose values are ``train``, ``validation`` and ``test`` names the splits itself.
        test: names of the sessions, or values of the tag, that are the test; empty: chosen by share.
        validation: the same for validation.
        shares: of train, validation and test, where they are not named.
        gap_s: by time: seconds left out between two blocks of one session.
    """

    by: str = "session"
    test: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    gap_s: float = 1.0

    def group(self, name: str, tags: Mapping[str, str]) -> str:
        """What a session is split by: its name or the value of its tag.

        Raises:
            DatasetError: it lacks the tag.
        """
        if self.by == "session":
            return name
        if self.by not in tags:
            raise DatasetError(f"session {name!r} has no tag {self.by!r} to split by; it has {sorted(tags)}")
        return tags[self.by]


def assign_groups(groups: Sequence[str], plan: SplitPlan) -> dict[str, Split]:
    """Group -> split: the named ones first, the others by share in order of their names, the last for the test.

    Args:
        groups: of every session; the same word again stays together.
        plan: names and shares.

    Raises:
        DatasetError: a name that no session has, or too few groups to keep the splits apart.
    """
    rest = sorted(set(groups))
    found: dict[str, Split] = {}
    for split, names in (("validation", plan.validation), ("test", plan.test)):
        if unknown := sorted(set(names) - set(groups)):
            raise DatasetError(f"{split} names {unknown}; by {plan.by} there are {rest}")
    for group in rest:
        if group in plan.test:
            found[group] = "test"
        elif group in plan.validation:
            found[group] = "validation"
        elif set(rest) <= set(SPLITS):
            found[group] = next(s for s in SPLITS if s == group)
    left = [g for g in rest if g not in found]
    splits: tuple[Split, Split] = ("test", "validation")
    wanted = [s for s in splits if s not in found.values()]
    if left and len(left) <= len(wanted):
        raise DatasetError(
            f"by {plan.by} there is {rest}: too little to keep {' and '.join(wanted)} apart from training; "
            "record more sessions, or split by time"
        )
    for number, split in enumerate(wanted):
        share = plan.shares[SPLITS.index(split)] * len(rest)
        take = min(max(1, round(share)), len(left) - (len(wanted) - number))
        found |= dict.fromkeys(left[len(left) - take :], split)
        left = left[: len(left) - take]
    return found | dict.fromkeys(left, "train")


def assign_blocks(
    stretches: Sequence[LabelledStretch], plan: SplitPlan
) -> dict[LabelledStretch, Split | None]:
    """The labels of one class, in order of session and time, as three blocks: train, validation, test.

    Where two blocks meet within a session, labels of the earlier one that end less than ``gap_s`` before the later one
    begins are in neither (None).

    Args:
        stretches: of one class.
        plan: shares and gap.

    Raises:
        DatasetError: fewer than three labels.
    """
    ordered = sorted(stretches, key=lambda x: (x.session, x.onset_ns))
    count = len(ordered)
    if not ordered:
        return {}
    if count < 3:
        raise DatasetError(
            f"a class has {count} labels: splitting by time needs 3 or more, one each to train, validate and test; "
            "record more of it"
        )
    train, validation, _ = plan.shares
    first = min(max(1, round(train * count)), count - 2)
    second = min(max(first + 1, round((train + validation) * count)), count - 1)
    found: dict[LabelledStretch, Split | None] = {}
    for position, stretch in enumerate(ordered):
        found[stretch] = "train" if position < first else "validation" if position < second else "test"
    for begin, stop in ((0, first), (first, second)):
        after = ordered[stop]
        for stretch in ordered[begin + 1 : stop]:  # the first of a block stays, so that no split is empty
            if stretch.session == after.session and after.onset_ns - stretch.end_ns < nanoseconds(plan.gap_s):
                found[stretch] = None
    return found
