"""The processes of the throughput benchmark, and one step with them: senders play to nodes, and both count."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from benchmarks.throughput.node_process import NodeSpec
from benchmarks.throughput.search import Step, judged
from benchmarks.throughput.sender_process import Order, SenderSpec
from engines.measuring.process import BenchmarkProcess
from runtime.rig import Rig

Transport = Literal["ipc", "tcp"]
NODE, SENDER = "benchmarks.throughput.node_process", "benchmarks.throughput.sender_process"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


class Processes:
    """Senders, one for each modality, and as many nodes as a step needs; started once, used for every step."""

    def __init__(self, rigs: Mapping[str, Rig], bundles: Mapping[str, Path]) -> None:
        """Start the senders and one node.

        Args:
            rigs: size of the frames -> the rig.
            bundles: size -> the bundle that takes them.

        Raises:
            ProcessError: one does not start.
        """
        self.rigs = dict(rigs)
        self._folder = tempfile.TemporaryDirectory(prefix="ai-")
        self._steps = 0
        self._cores = sorted(os.sched_getaffinity(0))
        paths = {size: str(bundle) for size, bundle in bundles.items()}
        self._node_spec = NodeSpec(bundles=paths, rigs=self.rigs).model_dump_json()
        rig = next(iter(rigs.values()))
        self._nodes: list[BenchmarkProcess] = []
        self._senders: dict[str, BenchmarkProcess] = {}
        try:
            for name in rig.modality_names:
                spec = SenderSpec(modality=name, rigs=self.rigs).model_dump_json()
                self._senders[name] = BenchmarkProcess.of_module(SENDER, spec, ONE_THREAD)
            self.start_nodes(1)
            for sender in self._senders.values():
                sender.answer()
        except BaseException:
            self.close()
            raise

    def start_nodes(self, count: int) -> None:
        """Start nodes until there are this many."""
        fresh = [
            BenchmarkProcess.of_module(NODE, self._node_spec, ONE_THREAD)
            for _ in range(count - len(self._nodes))
        ]
        self._nodes += fresh
        for node in fresh:
            node.answer()

    def step(
        self,
        load: float,
        rates_hz: Mapping[str, float],
        seconds: float,
        *,
        size: str = "small",
        transport: Transport = "ipc",
        hosted: Sequence[int] = (1,),
        pinned: bool = False,
    ) -> Step:
        """Run nodes, play sensors to them, and count.

        Args:
            load: what is raised from step to step, for the report.
            rates_hz: modality -> messages per second, for each rig; a sensor that is not named sends nothing.
            seconds: how long to play.
            size: of the frames.
            transport: between senders and nodes.
            hosted: how many rigs each node hosts.
            pinned: keep the nodes on the first core and, where there are more, the senders on the others.

        Raises:
            ProcessError: a process ended or stopped answering.
        """
        self.start_nodes(len(hosted))
        self._steps += 1
        node_cores = self._cores[:1] if pinned else self._cores
        sender_cores = (self._cores[1:] or self._cores) if pinned else self._cores
        endpoints, names, nodes = [], [], self._nodes[: len(hosted)]
        for number, (node, rigs) in enumerate(zip(nodes, hosted, strict=True)):
            hosts = [f"rig-{number}-{k}" for k in range(rigs)]
            frames = self._endpoint(transport, f"f{number}")
            decisions = self._endpoint("ipc", f"d{number}")
            node.tell(
                {
                    "host": hosts,
                    "size": size,
                    "frames": frames,
                    "decisions": decisions,
                    "cores": node_cores,
                }
            )
            names += hosts
            endpoints += [frames] * rigs
        for node in nodes:
            node.answer()
        order = Order(
            endpoint=tuple(endpoints),
            names=tuple(names),
            size=size,
            rate_hz=1.0,
            seconds=seconds,
            cores=tuple(sender_cores),
        )
        reports = self._play(rates_hz, order)
        for node, rigs in zip(nodes, hosted, strict=True):
            node.tell({"expected": rigs * sum(r["sent"] for r in reports)})
        counted = [node.answer() for node in nodes]
        self._close_senders(rates_hz)
        sent = [{"messages": s["sent"] * len(names), "seconds": s["seconds"]} for s in reports]
        return judged(load, sum(rates_hz.values()) * len(names), sent, counted)

    def bare_step(self, rates_hz: Mapping[str, float], seconds: float) -> dict[str, Any]:
        """Play sensors to a bare socket instead of a node, over ipc.

        Returns:
            ``received``, ``cpu_seconds`` (of the thread that reads) and ``process_cpu_seconds``.

        Raises:
            ProcessError: a process ended or stopped answering.
        """
        self._steps += 1
        (node, *_), frames = self._nodes, self._endpoint("ipc", "f")
        node.tell({"host": [], "frames": frames, "cores": self._cores})
        node.answer()
        order = Order(
            endpoint=(frames,),
            names=("bare",),
            size="small",
            rate_hz=1.0,
            seconds=seconds,
            cores=tuple(self._cores),
        )
        self._play(rates_hz, order)
        node.tell({"expected": 0})
        counted = node.answer()
        self._close_senders(rates_hz)
        return counted

    def _close_senders(self, modalities: Collection[str]) -> None:
        for modality in modalities:
            self._ask(modality, {"close": True})
        for modality in modalities:
            self._senders[modality].answer()

    def _play(self, rates_hz: Mapping[str, float], order: Order) -> list[dict[str, Any]]:
        """Connect all senders, then play; returns the report of each sender."""
        reports: list[dict[str, Any]] = []
        for verb in ("connect", "play"):
            for modality, rate_hz in rates_hz.items():
                self._ask(modality, {verb: order.model_copy(update={"rate_hz": rate_hz}).model_dump()})
            reports = [self._senders[modality].answer() for modality in rates_hz]
        return reports

    def _ask(self, modality: str, what: Mapping[str, Any]) -> None:
        self._senders[modality].tell(what)

    def _endpoint(self, transport: Transport, name: str) -> str:
        if transport == "ipc":
            return f"ipc://{self._folder.name}/{self._steps}{name}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def close(self) -> None:
        """End all processes."""
        for process in (*self._senders.values(), *self._nodes):
            process.close()
        self._folder.cleanup()

    def __enter__(self) -> Processes:
        """The processes themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self.close()
