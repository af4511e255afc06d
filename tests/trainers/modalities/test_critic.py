"""Critics take any target, keep rows apart, and bound their layers."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="trainers need torch, which is not installed")
import torch
from torch import nn

from trainers.modalities.critic import build_critic

SHAPES = ((3, 64, 64), (1, 16, 16), (1, 28, 28), (40, 101), (8, 120))


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_do_not_see_each_other(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    critic = build_critic(shape, 12).eval()
    given = torch.randn(5, *shape)
    found = critic(given)
    assert found.shape == (5, 12)
    torch.testing.assert_close(critic(given[2:3]), found[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_layer_is_bounded_unless_asked_not_to(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    critic = build_critic(shape, 12)
    for _ in range(30):  # the power iteration, a step per pass in training mode
        critic(torch.zeros(1, *shape))
    free = build_critic(shape, 12, spectral_norm=False)
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) in (2, 3)
    for layer in layers:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(
            1.0, rel=0.05
        )
    assert not any(isinstance(m, nn.utils.parametrize.ParametrizationList) for m in free.modules())
