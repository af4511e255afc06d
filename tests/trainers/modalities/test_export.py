"""Every graph of every kind exports, agrees with PyTorch at any batch size, and builds for the edge."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from modality_windows import LATENT
from torch import Tensor, nn

from engines.backends.tensorrt import build_engine, status
from engines.bundle import GraphSignature
from engines.targets import BatchProfile, Target
from trainers.modalities import ModalityNetwork

ROLES: dict[str, Callable[[ModalityNetwork, Tensor], Tensor]] = {
    "trunk": lambda network, window: network.trunk(window),
    "decode": lambda network, latent: network.to_observation(network.decode(latent)),
    "observe": lambda network, window: network.observe(window),
}


class Graph(nn.Module):
    """One role of a network as a module."""

    def __init__(self, network: ModalityNetwork, role: str) -> None:
        super().__init__()
        self.network = network
        self.role = role

    def forward(self, value: Tensor) -> Tensor:
        return ROLES[self.role](self.network, value)


def exported(graph: Graph, example: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter's own deprecation; a TracerWarning would mean that a branch was frozen into the graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx.*")
        warnings.simplefilter("error", torch.jit.TracerWarning)
        torch.onnx.export(
            graph.eval(),
            (example,),
            buffer,
            input_names=["value"],
            output_names=["result"],
            dynamic_axes={"value": {0: "batch"}, "result": {0: "batch"}},
            opset_version=18,
            dynamo=False,
        )
    return buffer.getvalue()


@pytest.mark.parametrize("role", sorted(ROLES))
def test_exports_and_builds(kind: str, role: str, network: ModalityNetwork, windows: Tensor) -> None:
    value = torch.randn(5, LATENT) if role == "decode" else windows
    graph = Graph(network, role)
    model = exported(graph, value[:2])

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = graph(value)
    for rows in (1, 5):
        (got,) = session.run(None, {"value": value[:rows].numpy()})
        scale = float(expected.abs().max())
        assert float((torch.from_numpy(got) - expected[:rows]).abs().max()) <= 1e-4 * scale

    rtx = status("tensorrt-rtx")
    if not rtx.can_build:
        pytest.skip(f"exported and agrees; not built: {rtx.reason}")
    signature = GraphSignature({"value": tuple(value.shape[1:])}, {"result": tuple(expected.shape[1:])})
    target = Target(version=1, name="rtx", backend="tensorrt-rtx", batch=BatchProfile(maximum=8))
    assert len(build_engine(f"{role}_{kind}", model, signature, target)) > 1000
