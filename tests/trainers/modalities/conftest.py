from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch
from modality_windows import LATENT, SENSORS, raw_windows
from torch import Tensor

from trainers.modalities import ModalityNetwork, build_modality


@pytest.fixture(params=sorted(SENSORS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def network(kind: str) -> ModalityNetwork:
    torch.manual_seed(0)
    return build_modality(SENSORS[kind], LATENT).eval()


@pytest.fixture
def windows(kind: str) -> Tensor:
    return raw_windows(kind, 5)
