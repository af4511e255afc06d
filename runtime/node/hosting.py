"""One rig of a node: its pipeline, its decisions, and what it still has to tell of its last tick."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from engines.bundle import Manifest
from engines.session import Session
from runtime.core.pipeline import DueWindow, Pipeline, State, TickPlan
from runtime.core.worklist import ObserveJob
from runtime.node.decisions import DecisionMaker
from runtime.node.journal import JournaledPipeline
from runtime.rig import FillPolicy, Rig, RigError, check_rig_feeds_bundle
from runtime.transport.sockets import DecisionSender
from runtime.wire import Observation, best_topic, frame_topic, imputed_topic


class HostedRig:
    """A rig at work.

    Attributes:
        rig: its sensors and policies.
        number: among the node's rigs.
        pipeline: what is decided of it.
        maker: its decisions.
        topics: of its sensors' frames.
    """

    def __init__(self, rig: Rig, number: int, session: Session, pipeline: Pipeline) -> None:
        """Begin.

        Args:
            rig: its sensors and policies.
            number: among the node's rigs.
            session: of the bundle.
            pipeline: not used yet.
        """
        self.rig, self.number, self.pipeline = rig, number, pipeline
        self.maker = DecisionMaker(rig, session)
        self.topics = [frame_topic(rig.name, m) for m in rig.modality_names]
        self._outputs = [(m, imputed_topic(m), best_topic(m)) for m in rig.modality_names]
        self._plan: TickPlan | None = None

    def ticked(self, plan: TickPlan, subscribed: Callable[[bytes], bool]) -> list[ObserveJob]:
        """Note a tick that was published; gives the observations of it that somebody listens to."""
        self._plan = plan
        wanted = []
        for modality, imputed_topic_, best_topic_ in self._outputs:
            imputed, best = subscribed(imputed_topic_), subscribed(best_topic_)
            if imputed or best:
                wanted.append(ObserveJob(modality, imputed, best, self.number))
        return wanted

    def observe(self, job: ObserveJob, published_ns: int) -> list[Observation]:
        """What is wanted of one modality, as of the last tick.

        Raises:
            EngineError: the engine failed.
        """
        plan = self._plan
        assert plan is not None  # observations are only wanted after a tick
        measured = plan.modalities[job.modality].state is State.LIVE
        window = self.pipeline.latest_window(job.modality) if measured else None
        streams: list[Literal["imputed", "best"]] = []
        if job.best:
            streams.append("best")
        if job.imputed:
            streams.append("imputed")
        return self.maker.observations(plan, job.modality, window, streams, published_ns=published_ns)

    def replace_session(self, session: Session, now_ns: int) -> list[DueWindow]:
        """Go on with another bundle's session; gives the windows to encode before the next tick."""
        if isinstance(self.pipeline, JournaledPipeline):
            windows = self.pipeline.replace_bundle(session.manifest, now_ns, session.backend)
        else:
            windows = self.pipeline.replace_bundle(session.manifest)
        self.maker = DecisionMaker(self.rig, session)
        self._plan = None
        return windows


def host(
    rigs: Sequence[Rig],
    session: Session,
    sender: DecisionSender,
    start_ns: int,
    *,
    compare: Sequence[FillPolicy] = (),
) -> list[HostedRig]:
    """The rigs of a node, all on one beat; a single one keeps a journal, several keep none."""
    manifest: Manifest = session.manifest
    hosted = []
    for number, rig in enumerate(rigs):
        policies = [p for p in compare if p != rig.fill]
        if len(rigs) == 1:
            pipeline: Pipeline = JournaledPipeline(
                rig, manifest, start_ns, sender, backend=session.backend, compare=policies
            )
        else:
            pipeline = Pipeline(rig, manifest, start_ns, compare=policies)
        hosted.append(HostedRig(rig, number, session, pipeline))
    return hosted


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
