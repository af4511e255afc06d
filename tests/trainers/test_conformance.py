"""What every system must hold, checked by one test: it learns, fuses any pattern, exports, agrees, and runs live."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from toy_sensors import LENGTHS, ToySource

from engines.bundle import pattern_key, presence_patterns
from engines.compiling.parity import check_parity
from engines.opening import open_session
from runtime.client import Client
from runtime.node.node import Node
from runtime.sensors.publisher import Sensor
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, Observation
from trainers.calibration import calibrate, fit_reliability, validation_evidence
from trainers.configuration import ModelConfig
from trainers.data.missingness import MissingnessPlan
from trainers.data.sampler import Batch, BatchSampler
from trainers.export import export_bundle
from trainers.loop import Trainer
from trainers.systems.base import System
from trainers.systems.registry import SYSTEMS
from trainers.training import health_thresholds, validation_batches

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "svae": ("svae", {"classification": 20.0}),
    "svae-drawn-donor": ("svae", {"classification": 20.0, "donor": "drawn", "prior_expert": False}),
    "vaevae-star": ("vaevae", {"star": True}),
    "mvae": ("mvae", {"classification": 20.0}),
    "mmvae-elbo": ("mmvae", {"objective": "elbo", "reconstruct": "all", "samples": 2}),
    "hmvae-kl": ("hmvae", {"kl": True}),
    "associators-latent": ("associators", {"cross_objective": "latent", "prototypes": 16, "round_trip": 0.2}),
}
"""Variants that need other settings than the defaults; every registered system is tested, named here or not."""

NAMES = tuple(str(config.model_fields["name"].default) for config, _ in SYSTEMS)
VARIANTS = {name: (name, {}) for name in NAMES} | SETTINGS
STEPS = 50
LIVE_S = 20.0


@dataclass
class Trained:
    """A system before and after its 50 steps, and its bundle."""

    system: System
    config: ModelConfig
    history: dict[str, list[dict[str, float]]]
    cross_entropy_before: float
    cross_entropy_after: float
    bundle: Path


def every_moment() -> Batch:
    return BatchSampler(ToySource(), LENGTHS, "train", 48, 0).next()


@torch.no_grad()
def cross_entropy(system: System, batch: Batch) -> float:
    """Of the fused decision on all training moments, over all patterns."""
    system.eval()
    evidence = {n: system.encode(n, batch.windows[n]) for n in system.names}
    losses = []
    for pattern in presence_patterns(3):
        mask = torch.tensor(pattern, dtype=torch.float32).expand(len(batch.labels), -1)
        losses.append(functional.cross_entropy(system.fuse(evidence, mask).logits, batch.labels))
    return float(torch.stack(losses).mean())


@pytest.fixture(scope="module", params=list(VARIANTS))
def trained(
    request: pytest.FixtureRequest,
    toy_config: Callable[..., ModelConfig],
    toy_system: Callable[[ModelConfig], System],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    name, settings = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    config, source = toy_config(name, steps=STEPS, **settings), ToySource()
    system = toy_system(config)
    sampler = BatchSampler(source, LENGTHS, "train", config.batch_size, config.seed)
    batches = validation_batches(source, config)
    before = cross_entropy(system, every_moment())
    trainer = Trainer(system, sampler, lambda: batches, config, folder)
    trainer.run()
    after = cross_entropy(system, every_moment())
    evidence, labels = validation_evidence(system.eval(), lambda: batches)
    fit_reliability(system, evidence, labels)
    temperatures, _ = calibrate(system, evidence, labels)
    bundle = export_bundle(
        system,
        config,
        source.rig,
        folder / "bundle",
        data=source.name,
        classes=source.classes,
        temperatures=temperatures,
        health_thresholds=health_thresholds(source, config),
        golden_windows={n: w[:4].numpy() for n, w in batches[0].windows.items()},
        metrics={},
    )
    return Trained(system, config, trainer.state.history, before, after, bundle)


def test_training_is_finite_and_decides_better_than_before(trained: Trained) -> None:
    for records in trained.history.values():
        assert all(math.isfinite(v) for record in records for v in record.values())
    assert trained.cross_entropy_after < 0.8 * trained.cross_entropy_before


def test_the_loss_falls(trained: Trained) -> None:
    """Of phases that play against no adversary: there a loss that falls is an adversary that loses."""
    for phase in trained.system.phases():
        if not phase.adversaries:
            records = trained.history[phase.name]
            assert records[-1]["total"] < records[0]["total"]


def test_every_pattern_gives_a_distribution_and_every_latent(trained: Trained) -> None:
    names, source = trained.system.names, ToySource()
    windows = {n: np.stack([source.read("test", m, n, 4, LENGTHS[n]) for m in range(24)]) for n in names}
    labels = source.moments("test").labels
    with open_session(trained.bundle) as session:
        evidence = {n: session.encode(n, windows[n]) for n in names}
        right = {}
        for pattern in presence_patterns(len(names), empty=True):
            fused = session.fuse(evidence, np.tile(np.array(pattern, np.float32), (24, 1)))
            assert np.all(fused.probabilities >= 0)
            np.testing.assert_allclose(fused.probabilities.sum(1), 1.0, rtol=1e-5)
            right[pattern_key(names, pattern)] = float((fused.probabilities.argmax(1) == labels).mean())
            for n in names:
                assert np.isfinite(session.decode(n, fused.latents[n])).all()
    assert right["a+b+c"] > 0.8, right
    assert min(right[n] for n in names) > 0.6, right


def test_the_bundle_agrees_with_pytorch_in_every_pattern(trained: Trained) -> None:
    with open_session(trained.bundle) as session:
        parity = check_parity(session, trained.bundle)
    assert parity.passed
    assert max(c.error for c in parity.comparisons) <= 1e-3
    assert len({c.pattern for c in parity.comparisons if c.pattern}) == 8


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_it_learns_with_labels_modalities_and_partners_missing_at_once(
    variant: str,
    toy_config: Callable[..., ModelConfig],
    toy_system: Callable[[ModelConfig], System],
    tmp_path: Path,
) -> None:
    name, settings = VARIANTS[variant]
    config = toy_config(name, steps=STEPS, **settings)
    system = toy_system(config)
    plan = MissingnessPlan(labels=0.4, modalities={"a": 0.3}, unpaired=0.3)
    sampler = BatchSampler(ToySource(), LENGTHS, "train", config.batch_size, config.seed, plan)
    assert (sampler.labels == -1).any()
    assert (sampler.presence.sum(1) == 1).any()
    batches = validation_batches(ToySource(), config)
    before = cross_entropy(system, every_moment())
    trainer = Trainer(system, sampler, lambda: batches, config, tmp_path)
    trainer.run()
    assert all(math.isfinite(v) for h in trainer.state.history.values() for r in h for v in r.values())
    assert cross_entropy(system, every_moment()) < 0.9 * before


def test_it_runs_live_and_imputes_a_sensor_that_falls_silent(trained: Trained, endpoints: Endpoints) -> None:
    """A real node over real sockets: all live, then ``c`` goes silent and is decided without, imputed and flagged."""
    source, stop, silent = ToySource(), threading.Event(), threading.Event()
    rig = source.rig

    def play() -> None:
        sensors = {n: Sensor(rig, n, endpoint=endpoints.frames) for n in LENGTHS}
        sample = 0
        while not stop.wait(0.05):
            for n, sensor in sensors.items():
                if not (n == "c" and silent.is_set()):
                    sensor.publish(source.read("test", (sample // 20) % 24, n, sample % 20, 1))
            sample += 1
        for sensor in sensors.values():
            sensor.close()

    with open_session(trained.bundle) as session, Node(rig, session, endpoints) as node:
        threads = [threading.Thread(target=play), threading.Thread(target=node.run, args=(stop,))]
        for thread in threads:
            thread.start()
        try:
            with Client(rig, ("fused", "imputed/c"), endpoint=endpoints.decisions) as client:
                complete = _await(client, lambda m: _presence(m) == (1, 1, 1))
                silent.set()
                alone = _await(client, lambda m: _presence(m) == (1, 1, 0))
                imputed = _await(client, lambda m: isinstance(m, Observation))
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
    for decision in (complete, alone):
        assert sum(decision.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert decision.bundle == session.bundle_hash
    assert alone.modalities["c"].state == "missing"
    assert alone.modalities["c"].imputed
    assert imputed.imputed
    assert np.isfinite(imputed.values).all()


def _presence(message: Any) -> tuple[int, ...] | None:
    return tuple(message.presence.values()) if isinstance(message, Decision) else None


def _await(client: Client, condition: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + LIVE_S
    while time.monotonic() < end:
        message = client.receive(1.0)
        if message is not None and condition(message):
            return message
    raise AssertionError(f"waited {LIVE_S} s in vain")
