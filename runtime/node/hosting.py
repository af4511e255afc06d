"""One rig of a node: its pipeline, its decisions, its journal, and the tick that observations are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engines.bundle import Manifest
from engines.session import Session
from runtime.core.pipeline import DueWindow, Pipeline, Received, Rejected, State, TickPlan
from runtime.core.worklist import ObserveJob
from runtime.node.decisions import DecisionMaker
from runtime.node.journal import Journal
from runtime.rig import FillPolicy, Rig, RigError, check_rig_feeds_bundle
from runtime.transport.sockets import DecisionSender
from runtime.wire import Observation, best_topic, frame_topic, imputed_topic


class HostedRig:
    """A rig at work. Its methods call the pipeline and then its journal, so a replay can repeat every call.

    Attributes:
        rig: its sensors and policies.
        number: among the node's rigs.
        pipeline: judges its sensors and plans its ticks.
        maker: of its decisions and observations.
        topics: of its sensors' frames.
    """

    def __init__(
        self,
        rig: Rig,
        number: int,
        session: Session,
        start_ns: int,
        *,
        compare: Sequence[FillPolicy] = (),
        journal_sender: DecisionSender | None = None,
    ) -> None:
        """Begin.

        Args:
            rig: its sensors and policies.
            number: among the node's rigs.
            session: of the bundle.
            start_ns: now; the first tick is due one period later.
            compare: fill policies to decide by as well.
            journal_sender: publishes the rig's journal; None for a rig that keeps none.
        """
        self.rig, self.number = rig, number
        self.pipeline = Pipeline(rig, session.manifest, start_ns, compare=compare)
        self.maker = DecisionMaker(rig, session)
        self.topics = [frame_topic(rig.name, m) for m in rig.modality_names]
        self._journal: Journal | None = None
        if journal_sender is not None:
            self._journal = Journal(
                journal_sender, rig, session.manifest, start_ns, backend=session.backend, compare=compare
            )
        self._outputs = [(m, imputed_topic(m), best_topic(m)) for m in rig.modality_names]
        self._plan: TickPlan | None = None

    def begin_journal(self, now_ns: int) -> None:
        """Publish the settings of the run for a new subscriber of the journal, if the rig keeps one."""
        if self._journal is not None:
            self._journal.begin(now_ns)

    def receive(self, parts: Sequence[Any], now_ns: int) -> Received | Rejected:
        """Give the pipeline a message of a sensor."""
        result = self.pipeline.receive(parts, now_ns)
        if self._journal is not None:
            modality = result.frame.modality if isinstance(result, Received) else result.modality or ""
            self._journal.frame(parts, now_ns, modality)
        return result

    def due_windows(self, now_ns: int) -> list[DueWindow]:
        """The windows to encode, as of now."""
        if not self.pipeline.has_due_windows:
            return []
        windows = self.pipeline.due_windows(now_ns)
        if self._journal is not None:
            self._journal.windows(now_ns)
        return windows

    def store_evidence(self, modality: str, evidence: npt.NDArray[np.float32], capture_ns: int) -> None:
        """Give the pipeline what the engine made of a window."""
        self.pipeline.store_evidence(modality, evidence, capture_ns)
        if self._journal is not None:
            self._journal.evidence(modality, capture_ns)

    def encode_failed(self, modality: str, now_ns: int, detail: str) -> None:
        """Tell the pipeline that the engine failed on a window."""
        self.pipeline.encode_failed(modality, now_ns, detail)
        if self._journal is not None:
            self._journal.encode_failed(modality, now_ns, detail)

    def tick(self, now_ns: int) -> TickPlan | None:
        """Have the pipeline judge every sensor; the plan of the tick that is due, or None."""
        plan = self.pipeline.tick(now_ns)
        if self._journal is not None:
            self._journal.tick(now_ns)
        return plan

    def replace_session(self, session: Session, now_ns: int) -> list[DueWindow]:
        """Change to another bundle's session; gives the windows to encode before the next tick."""
        windows = self.pipeline.replace_bundle(session.manifest)
        if self._journal is not None:
            self._journal.bundle(session.manifest, now_ns, session.backend)
        self.maker = DecisionMaker(self.rig, session)
        self._plan = None
        return windows

    def set_blank_evidence(self, blank: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Give the pipeline the evidence of all-zero windows, by modality."""
        for modality, evidence in blank.items():
            self.pipeline.set_blank_evidence(modality, evidence)

    def published(self, plan: TickPlan, subscribed: Callable[[bytes], bool]) -> list[ObserveJob]:
        """Keep the plan of a tick that was published; gives the observations of it that somebody subscribes to."""
        self._plan = plan
        jobs = []
        for modality, imputed_topic_, best_topic_ in self._outputs:
            imputed, best = subscribed(imputed_topic_), subscribed(best_topic_)
            if imputed or best:
                jobs.append(ObserveJob(modality, imputed, best, self.number))
        return jobs

    def observe(self, job: ObserveJob, published_ns: int) -> list[Observation]:
        """Make the observations of one modality, as of the last published tick.

        Raises:
            EngineError: the engine failed.
        """
        plan = self._plan
        assert plan is not None  # jobs come from published ticks only
        measured = plan.modalities[job.modality].state is State.LIVE
        window = self.pipeline.latest_window(job.modality) if measured else None
        streams: list[Literal["imputed", "best"]] = []
        if job.best:
            streams.append("best")
        if job.imputed:
            streams.append("imputed")
        return self.maker.observations(plan, job.modality, window, streams, published_ns=published_ns)


def host(
    rigs: Sequence[Rig],
    session: Session,
    sender: DecisionSender,
    start_ns: int,
    *,
    compare: Sequence[FillPolicy] = (),
) -> list[HostedRig]:
    """The rigs of a node, all started at once. A single rig keeps a journal; of several, none does."""
    return [
        HostedRig(
            rig,
            number,
            session,
            start_ns,
            compare=[policy for policy in compare if policy != rig.fill],
            journal_sender=sender if len(rigs) == 1 else None,
        )
        for number, rig in enumerate(rigs)
    ]


def counters_by_rig(hosted: Sequence[HostedRig]) -> dict[str, dict[str, Any]]:
    """The counters of every rig's pipeline, by the name of the rig."""
    return {each.rig.name: each.pipeline.counters() for each in hosted}


def check_rigs(rigs: Sequence[Rig], manifest: Manifest) -> None:
    """Refuse rigs that one node cannot host together.

    Raises:
        RigError: none at all, two of one name, or one that does not feed the bundle.
    """
    names = [rig.name for rig in rigs]
    if not rigs or len(set(names)) != len(names):
        raise RigError(f"a node needs rigs of different names, got {names}")
    for rig in rigs:
        check_rig_feeds_bundle(rig, manifest)
