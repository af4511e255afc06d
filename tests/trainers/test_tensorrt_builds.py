"""Every graph of every shipped system builds with TensorRT-RTX, ahead of time and without a GPU.

Graphs that are the same but for their weights are built once: the front ends of sensors are shared by all systems.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest
import torch

from engines.backends.tensorrt import build_engine, status
from engines.bundle import Calibration, Manifest, graph_names, graph_signature, pattern_key, presence_patterns
from engines.targets import BatchProfile, Target
from runtime.signals.synthetic import SyntheticSource
from trainers.build import build_system
from trainers.configuration import load_model_config, shipped_models
from trainers.export import export_graph, make_manifest
from trainers.systems.base import System

# One profile: a second one doubles the time and parses nothing else; test_tensorrt_build.py has two.
TARGET = Target(version=1, name="rtx", backend="tensorrt-rtx", batch=BatchProfile(maximum=1))
BUILT: dict[str, int] = {}
"""Structure of a graph -> size of its engine, for this process."""


def shipped_system(name: str) -> tuple[System, Manifest]:
    """A system as configured, with fresh weights, and the manifest of its bundle."""
    source = SyntheticSource()
    config = load_model_config(name)
    torch.manual_seed(0)
    system = build_system(config, source.rig, len(source.classes)).eval()
    patterns = presence_patterns(len(system.names))
    manifest = make_manifest(
        system,
        config,
        source.rig,
        data=source.name,
        classes=source.classes,
        calibration=Calibration(temperature={pattern_key(tuple(system.names), p): 1.0 for p in patterns}),
        health_thresholds={},
        metrics={},
    )
    return system, manifest


def structure(model: bytes) -> str:
    """A graph without the values of its weights: operators, attributes, edges by number, shapes."""
    graph = onnx.load_from_string(model).graph
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    lines = [f"{number(i.name)} {i.type.SerializeToString()!r}" for i in graph.input]
    for weight in graph.initializer:
        # Integers are shapes and indices, and belong to the structure.
        value = b"" if weight.data_type == onnx.TensorProto.FLOAT else weight.raw_data
        lines.append(f"{number(weight.name)} {list(weight.dims)} {weight.data_type} {value!r}")
    for node in graph.node:
        attributes = sorted(a.SerializeToString() for a in node.attribute)
        edges = [*map(number, node.input)], [*map(number, node.output)]
        lines.append(f"{node.op_type} {edges} {attributes}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize("name", shipped_models())
def test_every_graph_builds(name: str, tmp_path: Path) -> None:
    rtx = status("tensorrt-rtx")
    if not rtx.can_build:
        pytest.skip(rtx.reason)
    system, manifest = shipped_system(name)
    for graph in graph_names(manifest):
        path = tmp_path / f"{graph}.onnx"
        export_graph(system, manifest, graph, path)
        model = path.read_bytes()
        key = structure(model)
        if key not in BUILT:
            BUILT[key] = len(build_engine(graph, model, graph_signature(manifest, graph), TARGET))
        assert BUILT[key] > 10_000, graph


def test_structure_tells_graphs_apart_but_not_their_weights(tmp_path: Path) -> None:
    structures = []
    for name in ("svae", "svae", "mmali"):
        torch.manual_seed(len(structures))
        system, manifest = shipped_system(name)
        with torch.no_grad():
            for parameter in system.parameters():
                parameter.mul_(1.0 + len(structures))
        export_graph(system, manifest, "fuse", tmp_path / "fuse.onnx")
        structures.append(structure((tmp_path / "fuse.onnx").read_bytes()))
    assert structures[0] == structures[1] != structures[2]
