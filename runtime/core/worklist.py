"""The worklist: what a node does between ticks, and whether there is still time for it before the next one.

One thread encodes, fuses and decodes, so a job that starts too close to a deadline would delay the tick. The list
holds a job back if it would not be done in time, judged by how long that job took before. Encoding comes before
observations, because decisions need it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.core.pipeline import DueWindow

_MARGIN = 1.3
"""How much longer than usual a job may take without delaying the tick."""

_SMOOTHING = 0.2
"""Share of the newest duration in the running estimate."""

_FORGETTING = 0.98
"""The estimate of an observation that is held back shrinks by this factor per tick, so that it gets another try."""


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """Encode the due windows of one modality, from one rig or several, in one batch.

    Attributes:
        modality: whose windows.
        windows: (number of the rig among the node's, its window); at least one.
    """

    modality: str
    windows: tuple[tuple[int, DueWindow], ...]

    @property
    def stage(self) -> str:
        """The name under which durations are kept."""
        return f"encode_{self.modality}"

    @property
    def rows(self) -> int:
        """How many windows; a batch takes longer than a single one."""
        return len(self.windows)


@dataclass(frozen=True, slots=True)
class ObserveJob:
    """Make and publish the observations of one modality that somebody subscribes to.

    Attributes:
        modality: whose observation.
        rig: number of the rig among the node's.
        imputed: whether to make ``imputed/<modality>``.
        best: whether to make ``best/<modality>``.
    """

    modality: str
    imputed: bool
    best: bool
    rig: int = 0

    @property
    def stage(self) -> str:
        """The name under which durations are kept."""
        return f"observe_{self.modality}"

    @property
    def rows(self) -> int:
        """Always one."""
        return 1


Job = EncodeJob | ObserveJob


class Worklist:
    """Jobs between ticks: at most one window and one observation per modality and rig, so it is bounded.

    Args:
        largest_batch: the most windows that the engine encodes at once; None for any number.
        superseded: the count to continue from.
    """

    def __init__(self, largest_batch: int | None = None, *, superseded: int = 0) -> None:
        self._windows: deque[EncodeJob] = deque()
        self._observations: deque[ObserveJob] = deque()
        self._largest_batch = largest_batch
        self._estimate_ns: dict[tuple[str, int], float] = {}
        self._encoded_since_tick = False
        self._observed_at_tick: dict[tuple[int, str], int] = {}
        self._ticks = 0
        self.superseded = superseded
        """Observations that were replaced by those of the next tick before there was time for them."""

    @property
    def wants_windows(self) -> bool:
        """Whether all windows taken so far are encoded; newer ones are taken only then, so that none waits twice."""
        return not self._windows

    def add_windows(self, windows: Iterable[DueWindow], rig: int = 0) -> None:
        """Add the due windows of one rig; windows of one modality are encoded together."""
        for window in windows:
            at = self._batch_with_room(window.modality)
            if at is None:
                self._windows.append(EncodeJob(window.modality, ((rig, window),)))
            else:
                batch = self._windows[at]
                self._windows[at] = EncodeJob(batch.modality, (*batch.windows, (rig, window)))

    def _batch_with_room(self, modality: str) -> int | None:
        for at, job in enumerate(self._windows):
            if job.modality == modality and (self._largest_batch is None or job.rows < self._largest_batch):
                return at
        return None

    def drop_windows(self) -> None:
        """Forget the windows that wait, because newer ones are encoded in their place."""
        self._windows.clear()

    def begin_interval(self, observations: Iterable[ObserveJob]) -> None:
        """Begin the interval after a tick: its observations replace those that were not made since the tick before.

        The modality whose observation was made longest ago comes first, so they take turns if there is no time for all.
        """
        self.superseded += len(self._observations)
        for held_back in self._observations:
            if (held_back.stage, 1) in self._estimate_ns:
                self._estimate_ns[held_back.stage, 1] *= _FORGETTING
        self._ticks += 1
        self._observations = deque(
            sorted(observations, key=lambda job: self._observed_at_tick.get((job.rig, job.modality), 0))
        )
        self._encoded_since_tick = False

    def next(self, now_ns: int, deadline_ns: int) -> Job | None:
        """Take the job to do now off the list; None if there is none, or none that would be done in time.

        The first encoding after a tick is always done, so an engine that is slower than the tick delays ticks but does
        not lose its sensors.
        """
        if self._windows and (
            not self._encoded_since_tick or self._fits(self._windows[0], now_ns, deadline_ns)
        ):
            self._encoded_since_tick = True
            return self._windows.popleft()
        if (
            not self._windows
            and self._observations
            and self._fits(self._observations[0], now_ns, deadline_ns)
        ):
            job = self._observations.popleft()
            self._observed_at_tick[job.rig, job.modality] = self._ticks
            return job
        return None

    def finished(self, job: Job, duration_ns: int) -> None:
        """Learn how long a job took."""
        key = job.stage, job.rows
        known = self._estimate_ns.get(key)
        estimate = duration_ns if known is None else known + _SMOOTHING * (duration_ns - known)
        self._estimate_ns[key] = estimate

    def _fits(self, job: Job, now_ns: int, deadline_ns: int) -> bool:
        return now_ns + _MARGIN * self._estimate_ns.get((job.stage, job.rows), 0.0) <= deadline_ns
