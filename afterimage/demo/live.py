"""The live demo: sensors, a node and the page with a kill switch per sensor, until it is stopped; nothing is scored."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from afterimage.demo.node_process import NodeProcess
from afterimage.demo.switches import ProcessSwitches
from runtime.client import Client
from runtime.core.clock import NS_PER_S
from runtime.rig.source_options import SyntheticOptions
from runtime.sensors.supervisor import Supervisor
from runtime.signals.moments import MomentSource
from runtime.signals.playback import MomentPlan, plan_for
from runtime.stopping import stop_on_signals
from runtime.transport.endpoints import Endpoints, default_endpoints
from runtime.view.serving import PageOptions, serving_page

_CHECK_EVERY_S = 0.5


@dataclass(frozen=True)
class Playing:
    """The class and the fault that really hold at a time, for the page to show beside the decisions.

    Attributes:
        classes: names of the classes, in the order of the source.
        plan: what plays when.
        start_ns: when the playback began, on the clock that node and sensors share.
        fault: seconds after the start -> what is broken on purpose, in words; empty for nothing.
    """

    classes: tuple[str, ...]
    plan: MomentPlan
    start_ns: int
    fault: Callable[[float], str] = lambda _: ""

    def at(self, node_ns: int) -> Mapping[str, str]:
        """The class that really plays, and the fault, at a time of the node's clock."""
        shown: dict[str, str] = {}
        elapsed_ns = node_ns - self.start_ns
        span = self.plan.span_at(elapsed_ns)
        if span is not None:
            shown["truth"] = self.classes[span.label]
        if fault := self.fault(elapsed_ns / NS_PER_S):
            shown["fault"] = fault
        return shown


def run_live(
    bundle: Path,
    source: MomentSource,
    data_dir: Path | None,
    console: Console,
    *,
    seed: int = 0,
    page: PageOptions | None,
    seconds: float | None = None,
    endpoints: Endpoints | None = None,
) -> None:
    """Play a source's test split to a node until SIGINT, SIGTERM or the end of the time.

    Args:
        bundle: a bundle or engine folder.
        source: what the sensor processes play.
        data_dir: folder of the packs, for recorded data.
        console: where progress is printed.
        seed: of the order of moments.
        page: where to serve the page; None for no page.
        seconds: end after this long.
        endpoints: of the node; the rig's default if not given, where other clients find it.

    Raises:
        NodeError: the node did not start or died.
        SensorProcessError: a sensor did not start; one that dies later by itself is started again.
    """
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = stop_on_signals()
    endpoints = endpoints or default_endpoints(source.rig.name)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="afterimage-live-")))
            node = stack.enter_context(
                NodeProcess(bundle, source.rig, endpoints, folder, compare=("hold", "zero"))
            )
            moments = SyntheticOptions(data=source.name, data_dir=data_dir, plan_seed=seed, split="test")
            sensors = stack.enter_context(
                Supervisor(source.rig.with_source(moments), endpoints.frames, together=True)
            )
            start_ns = sensors.start()
            switches = ProcessSwitches(sensors, lambda line: console.print(f"  {line}", highlight=False))
            stack.callback(switches.close)
            if page is not None:
                client = Client(source.rig, ("fused", "health", "statistics"), endpoint=endpoints.decisions)
                playing = Playing(source.classes, plan_for(source, "test", seed), start_ns)
                stack.enter_context(
                    serving_page(client, page, console.print, switches=switches, commentary=playing)
                )
            console.print("playing; Ctrl-C ends it", highlight=False)
            left = seconds
            while not stop.wait(_CHECK_EVERY_S if left is None else min(left, _CHECK_EVERY_S)):
                node.check()
                sensors.look()
                if left is not None and (left := left - _CHECK_EVERY_S) <= 0:
                    break
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
