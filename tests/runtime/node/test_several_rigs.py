"""Several rigs on one node: each has its own sensors, health and decisions; windows are encoded together."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.errors import EngineError
from engines.opening import open_session
from engines.session import Session
from runtime.client import Client
from runtime.node.node import Node
from runtime.rig import Rig, RigError, load_rig
from runtime.sensors.publisher import Sensor
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision

PATIENCE_S = 30.0


def images_rig(name: str) -> Rig:
    rig = load_rig("commands-4")
    return rig.model_copy(update={"name": name, "sensors": rig.sensors[:2]})


class CountingSession(Session):
    """A session that remembers how many windows it was given at once, and can refuse batches."""

    def __init__(self, inner: Session, *, refuses_batches: bool = False) -> None:
        self.__dict__.update(inner.__dict__)
        self.rows: Counter[int] = Counter()
        self.refuses_batches = refuses_batches

    def encode(self, modality: str, windows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.rows[len(windows)] += 1
        time.sleep(0.003)  # so that the other rig's windows are there when the first one's is done
        if self.refuses_batches and len(windows) > 1:
            raise EngineError("one of them is not finite")
        return super().encode(modality, windows)


class Sensors:
    """RGB and depth of several rigs, all at once every 20 ms, from one thread."""

    def __init__(self, rigs: Mapping[str, Rig], endpoint: str) -> None:
        self.silent: set[str] = set()
        self._sensors = [
            (name, Sensor(rig, s.modality, endpoint=endpoint))
            for name, rig in rigs.items()
            for s in rig.sensors
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def _play(self) -> None:
        rng = np.random.default_rng(0)
        while not self._stop.wait(0.02):
            for name, sensor in self._sensors:
                if name not in self.silent:
                    shape = (1, *sensor.spec.sample_shape)
                    sensor.publish(rng.integers(1, 200, shape).astype(sensor.spec.dtype))

    def __enter__(self) -> Sensors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for _, sensor in self._sensors:
            sensor.close()


@pytest.mark.parametrize("refuses_batches", [False, True])
def test_each_rig_decides_by_itself_and_windows_are_encoded_together(
    images_bundle: Path, refuses_batches: bool
) -> None:
    rigs = {"left": images_rig("left"), "right": images_rig("right")}
    stop, decisions = threading.Event(), []
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, open_session(images_bundle) as opened:
        session = CountingSession(opened, refuses_batches=refuses_batches)
        endpoints = Endpoints(f"ipc://{folder}/f", f"ipc://{folder}/d")
        with (
            Node(list(rigs.values()), session, endpoints) as node,
            Client(rigs["left"], ("fused",), endpoint=endpoints.decisions) as client,
        ):
            thread = threading.Thread(target=node.run, args=(stop,))
            thread.start()
            try:
                with Sensors(rigs, endpoints.frames) as sensors:

                    def read_until(wanted: dict[str, str]) -> None:
                        end, states = time.monotonic() + PATIENCE_S, {}
                        while states != wanted:
                            assert time.monotonic() < end, f"wanted {wanted}, last {states}"
                            message = client.receive(1.0)
                            if isinstance(message, Decision):
                                decisions.append(message)
                                states[message.rig] = message.modalities["rgb"].state

                    read_until({"left": "live", "right": "live"})
                    sensors.silent.add("right")
                    read_until({"left": "live", "right": "missing"})
            finally:
                stop.set()
                thread.join(10)
            statistics = node.statistics()
    for name in rigs:
        ticks = [d.tick for d in decisions if d.rig == name]
        assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))
    assert session.rows[2] > 0, "windows that were due together went to the engine together"
    assert statistics["messages"]["unaccounted"] == 0
    each = statistics["rigs"]
    assert statistics["messages"]["received"] == each["left"]["received"] + each["right"]["received"]
    assert statistics["errors"] == {}


def test_two_rigs_of_one_name_are_refused(images_bundle: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ai-") as folder,
        open_session(images_bundle) as session,
        pytest.raises(RigError, match="different names"),
    ):
        Node([images_rig("twin")] * 2, session, Endpoints(f"ipc://{folder}/f", f"ipc://{folder}/d"))
