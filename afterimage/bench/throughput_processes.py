"""The processes of the throughput benchmark, and one step with them: nodes host, senders play, both are counted."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from afterimage.bench.throughput_node import NodeSpec
from afterimage.bench.throughput_search import Step, judged
from afterimage.bench.throughput_sender import Order, SenderSpec
from configs.errors import AfterimageError
from runtime.rig import Rig

Transport = Literal["ipc", "tcp"]
ANSWER_LIMIT_S = 120.0


class ProcessFailed(AfterimageError):
    """A process of the benchmark ended or fell silent; the message holds the last it said."""


class Talker:
    """A process that answers a line of JSON with one."""

    def __init__(self, module: str, spec: str) -> None:
        """Start it; it says when it is ready.

        Args:
            module: to run.
            spec: its argument.
        """
        self._module = module
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def tell(self, what: Mapping[str, Any]) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as e:
            raise self._failed("ended") from e

    def hear(self, limit_s: float = ANSWER_LIMIT_S) -> dict[str, Any]:
        """The next line it says.

        Raises:
            ProcessFailed: it ended or took too long.
        """
        assert self._process.stdout is not None
        # One line for each that was told, so nothing can wait unseen in the buffer.
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._process.stdout, selectors.EVENT_READ)
            if not waiting.select(limit_s):
                raise self._failed(f"said nothing for {limit_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failed("ended")
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
        self._errors.close()

    def _failed(self, how: str) -> ProcessFailed:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["nothing"]
        return ProcessFailed(f"{self._module} {how}; its last words: {lines[-1][:300]}")


class Processes:
    """Senders, one for each modality, and as many nodes as a step needs; started once, used for every step."""

    def __init__(self, rigs: Mapping[str, Rig], bundles: Mapping[str, Path]) -> None:
        """Start the senders and one node.

        Args:
            rigs: size of the frames -> the rig.
            bundles: size -> the bundle that takes them.

        Raises:
            ProcessFailed: one does not start.
        """
        self.rigs = dict(rigs)
        self._folder = tempfile.TemporaryDirectory(prefix="ai-")
        self._steps = 0
        self._cores = sorted(os.sched_getaffinity(0))
        paths = {size: str(bundle) for size, bundle in bundles.items()}
        self._node_spec = NodeSpec(bundles=paths, rigs=self.rigs).model_dump_json()
        rig = next(iter(rigs.values()))
        self._nodes: list[Talker] = []
        self._senders: dict[str, Talker] = {}
        try:
            for name in rig.modality_names:
                spec = SenderSpec(modality=name, rigs=self.rigs)
                self._senders[name] = Talker("afterimage.bench.throughput_sender", spec.model_dump_json())
            self.start_nodes(1)
            for sender in self._senders.values():
                sender.hear()
        except BaseException:
            self.close()
            raise

    def start_nodes(self, count: int) -> None:
        """Have at least so many nodes."""
        fresh = [
            Talker("afterimage.bench.throughput_node", self._node_spec)
            for _ in range(count - len(self._nodes))
        ]
        self._nodes += fresh
        for node in fresh:
            node.hear()

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
            load: what is being raised, for the report.
            rates_hz: modality -> messages per second, for each rig; who is not named keeps silent.
            seconds: how long to play.
            size: of the frames.
            transport: between senders and nodes.
            hosted: how many rigs each node hosts.
            pinned: keep the nodes on the first core and, where there are more, the senders on the others.

        Raises:
            ProcessFailed: a process ended or fell silent.
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
            node.hear()
        order = Order(
            endpoint=tuple(endpoints),
            names=tuple(names),
            size=size,
            rate_hz=1.0,
            seconds=seconds,
            cores=tuple(sender_cores),
        )
        said = self._play(rates_hz, order)
        for node, rigs in zip(nodes, hosted, strict=True):
            node.tell({"expected": rigs * sum(s["sent"] for s in said)})
        counted = [node.hear() for node in nodes]
        self._close_senders(rates_hz)
        sent = [{"messages": s["sent"] * len(names), "seconds": s["seconds"]} for s in said]
        return judged(load, sum(rates_hz.values()) * len(names), sent, counted)

    def bare_step(self, rates_hz: Mapping[str, float], seconds: float) -> dict[str, Any]:
        """Play sensors to a bare socket in the node's place, over ipc.

        Returns:
            ``received``, ``cpu_seconds`` (of the thread that reads) and ``process_cpu_seconds``.

        Raises:
            ProcessFailed: a process ended or fell silent.
        """
        self._steps += 1
        (node, *_), frames = self._nodes, self._endpoint("ipc", "f")
        node.tell({"host": [], "frames": frames, "cores": self._cores})
        node.hear()
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
        counted = node.hear()
        self._close_senders(rates_hz)
        return counted

    def _close_senders(self, modalities: Collection[str]) -> None:
        for modality in modalities:
            self._ask(modality, {"close": True})
        for modality in modalities:
            self._senders[modality].hear()

    def _play(self, rates_hz: Mapping[str, float], order: Order) -> list[dict[str, Any]]:
        """Connect everybody, then play; what each sender did."""
        said: list[dict[str, Any]] = []
        for verb in ("connect", "play"):
            for modality, rate_hz in rates_hz.items():
                self._ask(modality, {verb: order.model_copy(update={"rate_hz": rate_hz}).model_dump()})
            said = [self._senders[modality].hear() for modality in rates_hz]
        return said

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
        for talker in (*self._senders.values(), *self._nodes):
            talker.close()
        self._folder.cleanup()

    def __enter__(self) -> Processes:
        """The processes themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self.close()
