"""VAEVAE, MVAE, MMVAE, JMVAE and concatenation: their objectives through their networks, masks, missing parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from toy_sensors import LENGTHS, ToySource, toy_networks

from runtime.rig import load_rig
from trainers.build import build_system, sensor_windows
from trainers.configuration import ModelConfig, load_model_config
from trainers.data.sampler import Batch, BatchSampler
from trainers.fusion.gaussians import Gaussian, kl_divergence, kl_to_standard_normal
from trainers.fusion.masks import all_patterns
from trainers.systems.base import System, SystemConfig
from trainers.systems.concatenation import Concatenation, ConcatenationConfig
from trainers.systems.jmvae import Jmvae, JmvaeConfig
from trainers.systems.mmvae import Mmvae, MmvaeConfig
from trainers.systems.mvae import Mvae, MvaeConfig
from trainers.systems.registry import make_system
from trainers.systems.shared_latent import SharedLatent
from trainers.systems.svae import Svae, SvaeConfig
from trainers.systems.vaevae import Vaevae, VaevaeConfig
from trainers.systems.variational import Variational

Configure = Callable[..., ModelConfig]
Make = Callable[[ModelConfig], System]

CONFIGS: dict[str, SystemConfig] = {
    "svae": SvaeConfig(latent_size=4, cross_reconstruction=0.5),
    "svae-drawn": SvaeConfig(latent_size=4, donor="drawn", subset_prior=True),
    "vaevae": VaevaeConfig(latent_size=4, cross_reconstruction=0.5),
    "vaevae-star": VaevaeConfig(latent_size=4, star=True),
    "mvae": MvaeConfig(latent_size=4, cross_reconstruction=0.5),
    "mmvae": MmvaeConfig(latent_size=4, samples=3, cross_reconstruction=0.5),
    "mmvae-elbo": MmvaeConfig(latent_size=4, objective="elbo", reconstruct="all", classify="mean"),
    "mmvae-reweighted": MmvaeConfig(latent_size=4, objective="reweighted"),
    "jmvae": JmvaeConfig(latent_size=4, cross_reconstruction=0.5),
    "concatenation": ConcatenationConfig(latent_size=4),
}
each = pytest.mark.parametrize("name", list(CONFIGS))


def system_of(config: SystemConfig, modalities: int = 3) -> System:
    lengths = dict(list(LENGTHS.items())[:modalities])
    model = ModelConfig(
        version=1,
        name="toy",
        modalities={m: {"window": n, "hop": 1} for m, n in LENGTHS.items()},
        system=config.model_dump(),
        phases={"joint": {"steps": 1}},
        batch_size=8,
    )
    specs = {m: s for m, s in sensor_windows(model, ToySource().rig).items() if m in lengths}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = toy_networks(specs, {m: config.decoder_size(m, 2) for m in specs})
        return make_system(networks, 2, config).eval()


def batch(
    presence: torch.Tensor | None = None, labels: torch.Tensor | None = None, modalities: int = 3
) -> Batch:
    given = BatchSampler(ToySource(), LENGTHS, "train", 8, 0).next()
    windows = dict(list(given.windows.items())[:modalities])
    return Batch(
        windows,
        given.labels if labels is None else labels,
        torch.ones(8, modalities) if presence is None else presence,
    )


def terms_of(system: System, given: Batch, seed: int = 0) -> Mapping[str, torch.Tensor]:
    return system.loss("joint", given, torch.Generator().manual_seed(seed), progress=1.0)


@each
def test_sizes_masks_and_absent_evidence(name: str) -> None:
    system = system_of(CONFIGS[name])
    mask = all_patterns(3, empty=True).repeat_interleave(8, dim=0)
    evidence = {n: system.encode(n, batch().windows[n]).repeat(8, 1) for n in system.names}
    fused = system.fuse(evidence, mask)
    assert fused.logits.shape == (64, 2)
    assert fused.posterior.shape == (64, system.posterior_size)
    for n in system.names:
        assert evidence[n].shape == (64, system.evidence_size(n))
        assert fused.latents[n].shape == (64, system.latent_size(n))
        assert torch.equal(fused.latents[n][-8:], torch.zeros(8, 4))
    absent = {n: mask[:, i : i + 1] == 0 for i, n in enumerate(system.names)}
    other = {n: torch.where(absent[n], torch.full_like(e, 3.0), e) for n, e in evidence.items()}
    again = system.fuse(other, mask)
    assert torch.equal(fused.logits, again.logits)
    assert torch.equal(fused.posterior, again.posterior)
    changed = system.fuse({n: torch.full_like(e, 3.0) for n, e in evidence.items()}, mask)
    assert not torch.equal(fused.logits[:-8], changed.logits[:-8])


@each
def test_labels_modalities_and_partners_may_be_missing_all_at_once(name: str) -> None:
    system = system_of(CONFIGS[name])
    presence = torch.tensor(
        [[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]]
    )
    labels = torch.tensor([0, -1, 1, -1, 0, -1, 1, -1])
    given = batch(presence.float(), labels)
    terms = terms_of(system, given)
    terms["total"].backward()
    assert all(bool(torch.isfinite(t)) for t in terms.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in system.parameters() if p.grad is not None)
    garbage = {
        n: torch.where(presence[:, i].reshape(-1, 1, 1) > 0, w, torch.full_like(w, 30.0))
        for i, (n, w) in enumerate(given.windows.items())
    }
    again = terms_of(system, Batch(garbage, labels, presence.float()))
    assert again["total"].item() == pytest.approx(terms["total"].item(), rel=1e-5)
    unlabelled = terms_of(system, batch(presence.float(), torch.full((8,), -1)))
    assert unlabelled["classification"].item() == 0.0


@each
def test_single_modalities_and_any_number_of_them(name: str) -> None:
    alone = torch.eye(3)[torch.arange(8) % 3]
    system = system_of(CONFIGS[name])
    terms = terms_of(system, batch(alone))
    assert bool(torch.isfinite(terms["total"]))
    for joint in ("paired", "paired_subset", "elbo", "elbo_subset", "joint", "cross"):
        assert terms.get(joint, torch.tensor(0.0)).item() == 0.0
    for modalities in (1, 2):
        few = system_of(CONFIGS[name], modalities)
        assert bool(torch.isfinite(terms_of(few, batch(modalities=modalities))["total"]))
        assert few.fuse(
            {n: few.encode(n, batch().windows[n]) for n in few.names}, torch.ones(8, modalities)
        ).logits.shape == (8, 2)


def experts_of(system: System, given: Batch) -> Gaussian:
    assert isinstance(system, SharedLatent)
    return system.experts({n: system.encode(n, given.windows[n]) for n in system.names})


def watch_reconstruction(system: Variational, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the system reconstructs in its next loss, kind -> (B, M), filled in as it does."""
    seen: dict[str, torch.Tensor] = {}
    reconstruct = system.reconstruct

    def watched(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        seen.update(reconstruct(*args, **kwargs))  # type: ignore[arg-type]
        return dict(seen)

    monkeypatch.setattr(system, "reconstruct", watched)
    return seen


@pytest.mark.parametrize("name", ["svae", "vaevae", "vaevae-star"])
def test_two_modalities_give_the_papers_equations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every term against eqs. 7 and 8 written out for paired and unpaired rows, on the same reconstructions."""
    config = CONFIGS[name].model_copy(update={"reconstruct": "all", "cross_reconstruction": 0.0})
    system = system_of(config, 2)
    assert isinstance(system, Svae | Vaevae)
    presence = torch.tensor([[1.0, 1.0]] * 4 + [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 2)
    given = batch(presence, modalities=2)
    seen = watch_reconstruction(system, monkeypatch)
    terms = terms_of(system, given)
    experts = experts_of(system, given)
    q1, q2, q12 = (
        system.posterior(experts, torch.tensor([m]).expand(8, 2))
        for m in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0])
    )
    joint = seen["whole"].sum(1) + kl_divergence(q12, q1) + kl_divergence(q12, q2)
    torch.testing.assert_close(terms["paired"], joint[:4].mean())
    rows = {"svae": (range(6), [0, 1, 2, 3, 6, 7]), "vaevae": ([4, 5], [6, 7])}
    for i, (q, chosen) in enumerate(zip((q1, q2), rows.get(name, rows["svae"]), strict=True)):
        elbo = seen["alone"][:, i] + kl_to_standard_normal(q)
        torch.testing.assert_close(terms[f"unimodal_{'ab'[i]}"], elbo[list(chosen)].mean())
    assert set(terms) == {"unimodal_a", "unimodal_b", "paired", "classification", "total"}


@torch.no_grad()
def test_drawn_donors_are_the_papers_per_donor_posteriors() -> None:
    system = system_of(CONFIGS["svae-drawn"])
    assert isinstance(system, Svae)
    experts = experts_of(system, batch())
    pair = torch.tensor([[1.0, 1.0, 0.0]]).expand(8, 3)
    per_donor = [system.posterior(experts, pair, donors=torch.eye(3)[i].expand(8, 3)).mean for i in range(2)]
    drawn = system.posterior(experts, pair, torch.Generator().manual_seed(0)).mean
    chosen = [
        min(range(2), key=lambda i, r=r: float((drawn[r] - per_donor[i][r]).abs().max())) for r in range(8)
    ]
    torch.testing.assert_close(drawn, torch.stack([per_donor[c][r] for r, c in enumerate(chosen)]))
    assert set(chosen) == {0, 1}


def test_the_joint_networks_learn_from_their_own_rows_alone() -> None:
    system = system_of(
        CONFIGS["vaevae"].model_copy(update={"classification": 0.0, "cross_reconstruction": 0.0})
    )
    assert isinstance(system, Vaevae)
    terms_of(system, batch(torch.eye(3)[torch.arange(8) % 3]))["total"].backward()
    for parameter in system.joint.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() == 0
    terms_of(system, batch())["total"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in system.joint.networks[0].parameters())


def test_mvae_is_the_product_with_the_prior() -> None:
    system = system_of(CONFIGS["mvae"])
    assert isinstance(system, Mvae)
    experts = experts_of(system, batch())
    q = system.posterior(experts, torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3))
    precision = 1.0 + torch.exp(-experts.log_variance[:, [0, 2]]).sum(1)
    moment = (experts.mean * torch.exp(-experts.log_variance))[:, [0, 2]].sum(1)
    torch.testing.assert_close(q.mean, moment / precision)
    torch.testing.assert_close(q.log_variance, -torch.log(precision))


def test_jmvae_takes_the_joint_network_when_complete_and_a_single_as_it_is() -> None:
    system = system_of(CONFIGS["jmvae"])
    assert isinstance(system, Jmvae)
    experts = experts_of(system, batch())
    complete = system.posterior(experts, torch.ones(8, 3))
    torch.testing.assert_close(complete.mean, experts.mean[:, 3])
    alone = system.posterior(experts, torch.tensor([[0.0, 1.0, 0.0]]).expand(8, 3))
    torch.testing.assert_close(alone.mean, experts.mean[:, 1])
    torch.testing.assert_close(alone.log_variance, experts.log_variance[:, 1])


def test_jmvae_learns_from_incomplete_rows_only_where_asked() -> None:
    config = CONFIGS["jmvae"].model_copy(update={"classification": 0.0, "unpaired": False})
    strict = system_of(config.model_copy(update={"cross_reconstruction": 0.0}))
    given = batch(torch.tensor([[1.0, 1.0, 0.0]]).expand(8, 3))
    assert terms_of(strict, given)["total"].item() == 0.0
    assert terms_of(system_of(CONFIGS["jmvae"]), given)["unpaired"].item() > 0.0


def test_mmvae_decides_by_the_mean_of_probabilities() -> None:
    system = system_of(CONFIGS["mmvae"])
    assert isinstance(system, Mmvae)
    system.reliability = torch.tensor([3.0, 5.0, 1.0])
    experts = experts_of(system, batch())
    evidence = {n: system.encode(n, batch().windows[n]) for n in system.names}
    fused = system.fuse(evidence, torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3))
    probabilities = torch.softmax(system.classifier(experts.mean), dim=2)
    expected = 0.75 * probabilities[:, 0] + 0.25 * probabilities[:, 2]
    torch.testing.assert_close(torch.softmax(fused.logits, dim=1), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.latents["b"], 0.75 * experts.mean[:, 0] + 0.25 * experts.mean[:, 2])


def test_mmvae_samples_come_from_one_expert_each() -> None:
    system = system_of(CONFIGS["mmvae"])
    assert isinstance(system, Mmvae)
    narrow = Gaussian(
        torch.tensor([[[-5.0] * 4, [0.0] * 4, [5.0] * 4]]).expand(300, 3, 4), torch.full((300, 3, 4), -8.0)
    )
    presence = torch.tensor([[1.0, 0.0, 1.0]]).expand(300, 3)
    z = system.sample_posterior(narrow, presence, torch.Generator().manual_seed(0))
    assert (z.abs() - 5.0).abs().max() < 0.2
    assert 0.4 < float((z[:, 0] > 0).float().mean()) < 0.6


@pytest.mark.parametrize("name", ["svae", "vaevae", "mvae", "jmvae"])
def test_drawn_reconstruction_is_unbiased_for_incomplete_rows(name: str) -> None:
    systems = {
        kind: system_of(CONFIGS[name].model_copy(update={"reconstruct": kind, "classification": 0.0}))
        for kind in ("all", "drawn")
    }
    systems["drawn"].load_state_dict(systems["all"].state_dict())
    given = batch(
        torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).repeat(2, 1)
    )

    @torch.no_grad()
    def means(system: System, draws: int) -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        found = [system.loss("joint", given, generator, progress=0.5) for _ in range(draws)]
        return {k: torch.stack([f[k] for f in found]).mean().item() for k in found[0]}

    assert means(systems["drawn"], 700) == pytest.approx(means(systems["all"], 300), rel=0.1, abs=0.05)


def test_an_unpaired_row_is_always_decoded_from_what_it_says_alone() -> None:
    """Its whole set is the modality itself: decoding that too would only add noise."""
    presence = torch.eye(3)[torch.arange(8) % 3]
    terms = {}
    for kind in ("all", "drawn"):
        config = SvaeConfig(latent_size=4, reconstruct=kind, classification=0.0, prior_expert=False)
        system = system_of(config)
        narrow = [p for n, p in system.named_parameters() if n.startswith("heads") and n.endswith("bias")]
        with torch.no_grad():
            for bias in narrow:
                bias.reshape(3, 2, 4)[:, 1] = -30.0
        terms[kind] = terms_of(system, batch(presence))
    torch.testing.assert_close(terms["drawn"], terms["all"], rtol=0.02, atol=0.05)


@pytest.mark.parametrize("objective", ["elbo", "dreg"])
def test_drawing_one_expert_per_row_is_unbiased(objective: str) -> None:
    every = system_of(MmvaeConfig(latent_size=4, objective=objective, reconstruct="all", classification=0.0))
    drawn = system_of(MmvaeConfig(latent_size=4, objective=objective, classification=0.0))
    drawn.load_state_dict(every.state_dict())
    presence = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).repeat(4, 1)

    @torch.no_grad()
    def mean(system: System, draws: int) -> float:
        generator = torch.Generator().manual_seed(1)
        given = batch(presence)
        found = [system.loss("joint", given, generator, progress=1.0)["mixture"] for _ in range(draws)]
        return float(torch.stack(found).mean())

    assert mean(drawn, 600) == pytest.approx(mean(every, 300), rel=0.05)


def test_more_samples_tighten_dregs_bound() -> None:
    systems = {k: system_of(MmvaeConfig(latent_size=4, samples=k, reconstruct="all")) for k in (1, 20)}
    systems[20].load_state_dict(systems[1].state_dict())

    @torch.no_grad()
    def loss(k: int) -> float:
        found = [float(terms_of(systems[k], batch(), seed)["mixture"]) for seed in range(40)]
        return sum(found) / len(found)

    assert loss(20) < loss(1) - 1.0


def test_concatenation_cannot_impute_and_has_independent_priors() -> None:
    system = system_of(CONFIGS["concatenation"])
    assert isinstance(system, Concatenation)
    evidence = {n: system.encode(n, batch().windows[n]) for n in system.names}
    fused = system.fuse(evidence, torch.tensor([[1.0, 0.0, 1.0]]).expand(8, 3))
    assert torch.equal(fused.latents["b"], torch.zeros(8, 4))
    assert torch.equal(fused.latents["a"], evidence["a"][:, :4])
    drawn = system.sample_prior(5, torch.Generator().manual_seed(0))
    assert not torch.equal(drawn["a"], drawn["b"])


@pytest.mark.parametrize(("name", "prefix"), [("mvae", "elbo"), ("concatenation", "unimodal")])
def test_terms_of_one_modality_are_its_elbo_over_the_rows_that_have_it(
    name: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name].model_copy(update={"reconstruct": "all", "cross_reconstruction": 0.0})
    system = system_of(config)
    assert isinstance(system, Mvae | Concatenation)
    given = batch(torch.tensor([[1.0, 0.0, 1.0]] * 3 + [[1.0, 1.0, 1.0]] * 3 + [[0.0, 1.0, 0.0]] * 2))
    seen = watch_reconstruction(system, monkeypatch)
    terms = terms_of(system, given)
    experts = system.experts({n: system.encode(n, given.windows[n]) for n in system.names})
    for i, n in enumerate(system.names):
        rows = given.presence[:, i] > 0
        q = Gaussian(experts.mean[:, i], experts.log_variance[:, i])
        if isinstance(system, Mvae):
            q = system.posterior(experts, torch.eye(3)[i].expand(8, 3))
        elbo = seen["alone"][:, i] + kl_to_standard_normal(q)
        torch.testing.assert_close(terms[f"{prefix}_{n}"], elbo[rows].mean())
    if isinstance(system, Mvae):
        q = system.posterior(experts, given.presence)
        whole = (seen["whole"] * given.presence).sum(1) + kl_to_standard_normal(q)
        torch.testing.assert_close(terms["elbo"], whole[:6].mean())


@pytest.mark.parametrize("model", ["vaevae", "vaevae-star", "mvae", "mmvae", "jmvae", "concatenation"])
def test_shipped_configurations_build_for_the_headline_rig(model: str) -> None:
    config = load_model_config(model)
    system = build_system(config, load_rig("commands-4"), 4)
    assert system.names == ("rgb", "depth", "audio", "eeg")
    assert {p.name for p in system.phases()} == set(config.phases)
