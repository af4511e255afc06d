"""Objectives against closed forms and against the paper's two- and three-modality equations written out."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal
from trainers.fusion.replacement_experts import fuse_replacement_experts
from trainers.objectives.association import cross_modal_loss, intra_modal_loss
from trainers.objectives.classification import labelled_cross_entropy
from trainers.objectives.svae import divergence_to_smaller_subsets, paired_loss, unimodal_loss


def experts(modalities: int, rows: int = 5, size: int = 3) -> Gaussian:
    g = torch.Generator().manual_seed(0)
    shape = (rows, modalities, modalities, size)
    return Gaussian(torch.randn(shape, generator=g), torch.randn(shape, generator=g))


def test_two_modalities_give_equation_7() -> None:
    e = experts(2)

    def q(*present: float) -> Gaussian:
        return fuse_replacement_experts(e, torch.tensor([present]).expand(5, 2))

    nll = [torch.arange(5.0), torch.arange(5.0) * 2]
    expected = (nll[0] + nll[1] + kl_divergence(q(1, 1), q(1, 0)) + kl_divergence(q(1, 1), q(0, 1))).mean()
    both = torch.ones(5, 2)
    divergence = divergence_to_smaller_subsets(lambda mask: fuse_replacement_experts(e, mask), both)
    torch.testing.assert_close(paired_loss(nll, both, divergence, beta=1.0), expected)


def test_three_modalities_give_equation_d28() -> None:
    e = experts(3)

    def q(*present: float) -> Gaussian:
        return fuse_replacement_experts(e, torch.tensor([present]).expand(5, 3))

    divergence = divergence_to_smaller_subsets(lambda m: fuse_replacement_experts(e, m), torch.ones(5, 3))
    expected = sum(kl_divergence(q(1, 1, 1), q(*pair)) for pair in ((1, 1, 0), (1, 0, 1), (0, 1, 1)))
    torch.testing.assert_close(divergence, expected)


def test_unpaired_rows_have_no_joint_term() -> None:
    e = experts(3)
    subset = torch.tensor([[1.0, 0, 0]] * 4 + [[1, 1, 0]])
    divergence = divergence_to_smaller_subsets(lambda m: fuse_replacement_experts(e, m), subset)
    assert divergence[:4].tolist() == [0, 0, 0, 0]
    assert divergence[4] > 0
    nll = [torch.full((5,), 7.0), torch.full((5,), 11.0), torch.full((5,), 1000.0)]
    assert paired_loss(nll, subset, divergence, beta=0.0).item() == pytest.approx(18.0)
    nothing = paired_loss(nll, torch.zeros(5, 3), divergence * 0, beta=1.0)
    assert nothing.item() == 0.0


def test_unimodal_and_association_losses_are_negative_elbos_over_present_rows() -> None:
    q = Gaussian(torch.tensor([[1.0, 0.0], [5.0, 5.0]]), torch.zeros(2, 2))
    nll = torch.tensor([3.0, 100.0])
    present = torch.tensor([1.0, 0.0])
    expected = 3.0 + 0.25 * 0.5
    assert unimodal_loss(nll, q, present, beta=0.25).item() == pytest.approx(expected)
    assert intra_modal_loss(nll, q, present, kl_weight=0.25).item() == pytest.approx(expected)
    assert cross_modal_loss(nll, q, present, kl_weight=0.25).item() == pytest.approx(expected)
    assert kl_to_standard_normal(q)[0].item() == pytest.approx(0.5)


def test_unlabelled_rows_are_skipped_and_get_no_gradient() -> None:
    logits = torch.zeros(3, 2, 4, requires_grad=True)
    loss = labelled_cross_entropy(logits, torch.tensor([1, -1, 3]))
    assert loss.item() == pytest.approx(math.log(4))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1].abs().sum().item() == 0
    assert logits.grad[0].abs().sum().item() > 0
    assert labelled_cross_entropy(torch.ones(2, 4), torch.tensor([-1, -1])).item() == 0.0
