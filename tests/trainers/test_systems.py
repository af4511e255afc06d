"""Both systems: what fusion must hold for every mask, where gradients go, what frozen means, cascades."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from toy_sensors import LENGTHS, ToySource

from trainers.configuration import ModelConfig
from trainers.data.sampler import Batch, BatchSampler
from trainers.fusion.association_paths import NoPathError
from trainers.fusion.gaussians import Gaussian
from trainers.fusion.masks import all_patterns
from trainers.systems.associators import Associators
from trainers.systems.base import System

Make = Callable[[ModelConfig], System]
Configure = Callable[..., ModelConfig]
SYSTEMS = ("svae", "associators")


def batch(size: int = 8, seed: int = 0) -> Batch:
    return BatchSampler(ToySource(), LENGTHS, "train", size, seed).next()


def evidence_of(system: System, given: Batch) -> dict[str, torch.Tensor]:
    return {n: system.encode(n, given.windows[n]) for n in system.names}


def masks(rows: int) -> torch.Tensor:
    return all_patterns(3, empty=True).repeat_interleave(rows, dim=0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_sizes_are_as_declared_for_every_mask(name: str, toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config(name)).eval()
    evidence = {n: e.repeat(8, 1) for n, e in evidence_of(system, batch()).items()}
    fused = system.fuse(evidence, masks(8))
    assert fused.logits.shape == (64, 2)
    assert fused.posterior.shape == (64, system.posterior_size)
    for n in system.names:
        assert evidence[n].shape == (64, system.evidence_size(n))
        assert fused.latents[n].shape == (64, system.latent_size(n))
        assert system.decode(n, fused.latents[n]).shape == (64, 3)
    assert all(bool(torch.isfinite(t).all()) for t in (fused.logits, fused.posterior))


@pytest.mark.parametrize("name", SYSTEMS)
def test_absent_evidence_never_changes_the_result(name: str, toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config(name)).eval()
    evidence = {n: e.repeat(8, 1) for n, e in evidence_of(system, batch()).items()}
    mask = masks(8)
    absent = {n: (mask[:, i : i + 1] == 0) for i, n in enumerate(system.names)}
    other = {n: torch.where(absent[n], torch.full_like(e, 3.0), e) for n, e in evidence.items()}
    one, two = system.fuse(evidence, mask), system.fuse(other, mask)
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.posterior, two.posterior)
    changed = system.fuse({n: torch.full_like(e, 3.0) for n, e in evidence.items()}, mask)
    assert not torch.equal(one.logits[:-8], changed.logits[:-8])


@pytest.mark.parametrize("name", SYSTEMS)
def test_nothing_present_gives_the_prior(name: str, toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config(name)).eval()
    fused = system.fuse(evidence_of(system, batch()), torch.zeros(8, 3))
    for latent in fused.latents.values():
        assert torch.equal(latent, torch.zeros_like(latent))
    assert bool(torch.isfinite(fused.logits).all())


def test_cross_entropy_reaches_every_svae_encoder(toy_config: Configure, toy_system: Make) -> None:
    config = toy_config("svae", generative_weight=1e-30, classification=1.0)
    system = toy_system(config)
    system.begin_phase("joint")
    system.loss("joint", batch(), torch.Generator().manual_seed(0), progress=0.5)["total"].backward()
    for n in system.names:
        gradient = system.network(n).encoder[0].weight.grad  # type: ignore[union-attr, index]
        assert gradient is not None
        assert gradient.abs().max() > 1e-6


def test_svae_takes_unlabelled_and_unpaired_rows(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("svae", cross_reconstruction=0.5, donor="drawn"))
    given = batch()
    presence = torch.eye(3)[torch.arange(8) % 3]
    presence[:2] = 1.0
    unlabelled = Batch(given.windows, torch.full((8,), -1), presence)
    terms = system.loss("joint", unlabelled, torch.Generator().manual_seed(0), progress=1.0)
    assert terms["classification"].item() == 0.0
    assert bool(torch.isfinite(terms["total"]))
    alone = Batch(given.windows, given.labels, torch.eye(3)[torch.arange(8) % 3])
    terms = system.loss("joint", alone, torch.Generator().manual_seed(0), progress=1.0)
    assert terms["paired"].item() == 0.0
    assert terms["paired_subset"].item() == 0.0
    assert terms["unimodal_a"].item() > 0.0


def test_what_an_absent_row_holds_does_not_reach_the_svae_loss(
    toy_config: Configure, toy_system: Make
) -> None:
    system = toy_system(toy_config("svae"))
    system.eval()  # batch norm would carry values from row to row
    given = batch()
    presence = torch.ones(8, 3)
    presence[:, 1] = 0.0
    garbage = {**given.windows, "b": torch.full_like(given.windows["b"], 50.0)}

    def total(windows: dict[str, torch.Tensor]) -> float:
        terms = system.loss(
            "joint", Batch(windows, given.labels, presence), torch.Generator().manual_seed(0), progress=1.0
        )
        return float(terms["total"].detach())

    assert total(given.windows) == pytest.approx(total(garbage), rel=1e-6)


def test_beta_warms_up(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("svae", beta_warmup=0.5))
    given = batch()

    def paired(progress: float) -> float:
        generator = torch.Generator().manual_seed(0)
        return float(system.eval().loss("joint", given, generator, progress=progress)["paired"].detach())

    assert paired(0.0) < paired(0.25) < paired(0.5)
    assert paired(0.5) == paired(1.0)


def test_each_associator_phase_trains_its_own_modules_alone(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("associators", intra_classification=1.0))
    for phase in system.phases():
        system.begin_phase(phase.name)
        system.zero_grad(set_to_none=True)
        system.loss(phase.name, batch(), torch.Generator().manual_seed(0), progress=0.5)["total"].backward()
        own = {id(p) for p in phase.parameters()}
        for parameter in system.parameters():
            assert (parameter.grad is not None) == (id(parameter) in own)
        for module in system.networks.values():
            assert module.training == (phase.name == "intra")


def test_a_cascade_is_the_two_associators_in_turn(toy_config: Configure, toy_system: Make) -> None:
    system = toy_system(toy_config("associators")).eval()
    assert isinstance(system, Associators)
    assert system.paths["a", "c"] == ("a", "b", "c")
    z = torch.randn(5, system.latent_size("a"))
    by_hand = system.associators["b_to_c"](system.associators["a_to_b"](z).mean)
    along = system.associate(("a", "b", "c"), z)
    assert torch.equal(along.mean, by_hand.mean)
    evidence = evidence_of(system, batch())
    fused = system.fuse(evidence, torch.tensor([[1.0, 0.0, 0.0]]).expand(8, 3))
    own = Gaussian.from_flat(evidence["a"])
    expert = system.associate(("a", "b", "c"), own.mean)
    torch.testing.assert_close(fused.latents["c"], expert.mean)
    torch.testing.assert_close(fused.latents["a"], own.mean)


def test_paths_follow_validated_costs_and_survive_a_round_trip(
    toy_config: Configure, toy_system: Make
) -> None:
    config = toy_config("associators", pairs="all")
    system = toy_system(config).eval()
    assert isinstance(system, Associators)
    with torch.no_grad():  # spoil one associator: everything it says is far away
        system.associators["a_to_c"].layers[-1].bias.fill_(40.0)
    decided = system.finish_phase("cross", lambda: [batch(24)])
    assert decided["associator_cost"]["a->c"] == max(decided["associator_cost"].values())
    assert system.paths["a", "c"] == ("a", "b", "c")
    again = toy_system(config)
    again.load_structure(system.structure())
    assert isinstance(again, Associators)
    assert again.paths == system.paths
    with pytest.raises(ValueError, match="a->b"):
        again.load_structure({"associator_cost": {"x->y": 1.0}})


def test_pairs_that_leave_a_modality_out_or_name_a_stranger_are_refused(
    toy_config: Configure, toy_system: Make
) -> None:
    with pytest.raises((ValueError, NoPathError), match="c"):
        toy_system(toy_config("associators", pairs=(("a", "b"),)))
    with pytest.raises(ValueError, match="lidar"):
        toy_system(toy_config("associators", pairs=(("a", "lidar"), ("b", "c"))))


def test_drawn_reconstruction_is_unbiased(toy_config: Configure, toy_system: Make) -> None:
    """One decoded posterior per row, counted K times, has the mean of decoding all K."""
    given = batch()
    every = toy_system(toy_config("svae", reconstruct="all", cross_reconstruction=0.5)).eval()
    drawn = toy_system(toy_config("svae", reconstruct="drawn", cross_reconstruction=0.5)).eval()
    drawn.load_state_dict(every.state_dict())

    @torch.no_grad()
    def means(system: System, draws: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        found = [system.loss("joint", given, generator, progress=0.5) for _ in range(draws)]
        return {k: float(torch.stack([f[k] for f in found]).mean()) for k in found[0]}

    assert means(drawn, 1500) == pytest.approx(means(every, 300), rel=0.08)


def test_associators_that_match_latents_need_no_decoder_and_find_the_partner(
    toy_config: Configure, toy_system: Make
) -> None:
    """After some steps the associated latent is nearer to the partner's own than the prior is."""
    system = toy_system(toy_config("associators", cross_objective="latent"))
    assert isinstance(system, Associators)
    system.begin_phase("cross")
    given, generator = batch(48), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(system.associators.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = system.loss("cross", given, generator, progress=0.5)
        terms["total"].backward()
        optimizer.step()
        losses.append(float(terms["total"].detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is None for p in system.networks.parameters())


def test_round_trips_teach_only_the_associator_of_the_way_back(
    toy_config: Configure, toy_system: Make
) -> None:
    """With no complete row there are no pairs to learn from, but what comes back of a latent still is one."""
    system = toy_system(toy_config("associators", round_trip=1.0, pairs=(("a", "b"), ("b", "c"))))
    assert isinstance(system, Associators)
    given = batch(24)
    alone = Batch(given.windows, given.labels, torch.tensor([[0.0, 1.0, 0.0]]).expand(24, 3))
    system.begin_phase("cross")
    optimizer = torch.optim.Adam(system.associators.parameters(), lr=0.01)
    back = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = system.loss("cross", alone, torch.Generator().manual_seed(0), progress=1.0)
        assert terms["cross_a_b"].item() == terms["cross_b_c"].item() == 0.0
        assert terms["round_trip_a_b"].item() == 0.0
        terms["total"].backward()
        there = system.associators["b_to_a"].layers[0].weight.grad  # type: ignore[union-attr, index]
        assert there is None or not there.any()
        optimizer.step()
        back.append(float(terms["round_trip_b_a"].detach()))
    assert back[-1] < 0.7 * back[0]
