"""The loop: it learns, resumes bit-exactly in the middle of any phase, keeps to its budget, and fails by name."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_sensors import LENGTHS, ToySource

from trainers.calibration import validation_evidence
from trainers.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from trainers.configuration import ModelConfig, OptimizerConfig
from trainers.data.sampler import Batch, BatchSampler
from trainers.data.windows import evaluation_windows
from trainers.loop import Trainer, TrainingError
from trainers.optimization import learning_rate_factor
from trainers.systems.base import System

Make = Callable[[ModelConfig], System]
Configure = Callable[..., ModelConfig]


def validation() -> list[Batch]:
    return [
        Batch(
            {m: torch.from_numpy(w) for m, w in chunk.windows.items()},
            torch.from_numpy(chunk.labels),
            torch.ones(len(chunk.labels), 3),
        )
        for chunk in evaluation_windows(ToySource(), "validation", LENGTHS)
    ]


def trainer(config: ModelConfig, make: Make, folder: Path) -> Trainer:
    sampler = BatchSampler(ToySource(), LENGTHS, "train", config.batch_size, config.seed, config.missingness)
    return Trainer(make(config), sampler, validation, config, folder)


def same(a: System, b: System) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


@pytest.mark.parametrize(("system", "stops"), [("svae", (10,)), ("associators", (7, 33, 52))])
def test_resumed_training_is_bit_equal_to_training_on(
    system: str, stops: tuple[int, ...], tmp_path: Path, toy_config: Configure, toy_system: Make
) -> None:
    """20 steps a phase; the run is interrupted at some steps, in every phase for associators."""
    config = toy_config(system, steps=20)
    straight = trainer(config, toy_system, tmp_path / "straight")
    straight.run()
    done = 0
    for stop in stops:
        torch.manual_seed(1000 + stop)  # what else a process has drawn must not matter
        part = trainer(config, toy_system, tmp_path / "parts")
        if done:
            part.resume()
        part.run(until=stop - done)
        done = stop
    last = trainer(config, toy_system, tmp_path / "parts")
    last.resume()
    last.run()
    assert same(straight.system, last.system)
    assert straight.system.structure() == last.system.structure()
    assert {p: [r["step"] for r in h] for p, h in straight.state.history.items()} == {
        p: [r["step"] for r in h] for p, h in last.state.history.items()
    }


def test_a_run_can_go_on_in_the_same_process(tmp_path: Path, toy_config: Configure, toy_system: Make) -> None:
    config = toy_config("svae", steps=20)
    straight, paused = (trainer(config, toy_system, tmp_path / d) for d in "ab")
    straight.run()
    paused.run(until=9)
    paused.run()
    assert same(straight.system, paused.system)


def test_another_seed_gives_other_weights(tmp_path: Path, toy_config: Configure, toy_system: Make) -> None:
    config = toy_config("svae", steps=5)
    one, two = (trainer(config, toy_system, tmp_path / d) for d in "ab")
    three = trainer(config.model_copy(update={"seed": 1}), toy_system, tmp_path / "c")
    for t in (one, two, three):
        t.run()
    assert same(one.system, two.system)
    assert not same(one.system, three.system)


@pytest.mark.parametrize("system", ["svae", "associators"])
def test_training_learns_every_missing_pattern(
    system: str, tmp_path: Path, toy_config: Configure, toy_system: Make
) -> None:
    settings = {"classification": 5.0} if system == "svae" else {"intra_classification": 5.0}
    run = trainer(toy_config(system, steps=150, **settings), toy_system, tmp_path)
    run.run()
    evidence, labels = validation_evidence(run.system.eval(), validation)
    for pattern in ((1, 1, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        mask = torch.tensor(pattern, dtype=torch.float32).expand(len(labels), 3)
        logits = run.system.fuse(evidence, mask).logits
        assert (logits.argmax(1) == labels).float().mean() >= 0.9, pattern
    # Imputing c from a and b: nearer to what c measured than the mean over both classes (0 on channel 2).
    fused = run.system.fuse(evidence, torch.tensor([1.0, 1.0, 0.0]).expand(len(labels), 3))
    imputed = run.system.decode("c", fused.latents["c"])[:, 2]
    assert bool((torch.sign(imputed) == 2.0 * labels - 1).float().mean() > 0.9)


def test_a_time_budget_ends_every_phase_early(
    tmp_path: Path, toy_config: Configure, toy_system: Make
) -> None:
    run = trainer(toy_config("associators", steps=1_000_000), toy_system, tmp_path)
    begin = time.monotonic()
    run.run(minutes=1.5 / 60)
    assert time.monotonic() - begin < 20
    assert run.state.phase == 3
    assert all(0 < run.state.decided[p]["steps"] < 1_000_000 for p in ("intra", "cross", "classify"))


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path, toy_config: Configure, toy_system: Make) -> None:
    run = trainer(toy_config("svae", steps=3), toy_system, tmp_path)
    with torch.no_grad():
        next(run.system.network("b").decoder.parameters()).fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match=r"'joint', step 0.*unimodal_b"):
        run.run()


def test_gradients_are_clipped_after_they_are_there(
    tmp_path: Path, toy_config: Configure, toy_system: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(toy_config("svae", steps=3, optimizer={"clip_norm": 0.01}), toy_system, tmp_path)
    norms = []
    original = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: object, **kwargs: object) -> object:
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run.run()
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_learning_rate_warms_up_and_follows_half_a_cosine() -> None:
    settings = OptimizerConfig(warmup=0.1)
    factors = [learning_rate_factor(p / 100, settings) for p in range(101)]
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) == 10
    assert factors[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
    assert factors[100] == pytest.approx(0.0)
    assert learning_rate_factor(0.9, OptimizerConfig(schedule="constant")) == 1.0


def test_a_checkpoint_of_other_settings_or_none_is_refused(
    tmp_path: Path, toy_config: Configure, toy_system: Make
) -> None:
    run = trainer(toy_config("svae", steps=4), toy_system, tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run.resume()
    run.run(until=2)
    other = trainer(toy_config("svae", steps=5), toy_system, tmp_path)
    with pytest.raises(TrainingError, match="phases"):
        other.resume()


def test_checkpoints_hold_no_pickle_and_are_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {"w": torch.arange(3.0)}, {"n": 1})
    save_checkpoint(folder, {"w": torch.arange(3.0) + 1}, {"n": 2})
    tensors, state = load_checkpoint(folder)
    assert tensors["w"].tolist() == [1, 2, 3]
    assert state == {"n": 2}
    assert sorted(p.name for p in folder.iterdir()) == ["state.json", "tensors.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("harm", ["truncate", "format", "not json"])
def test_a_broken_checkpoint_is_refused(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, {"w": torch.arange(300.0)}, {})
    if harm == "truncate":
        path = folder / "tensors.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    elif harm == "format":
        (folder / "state.json").write_text(json.dumps({"format": 99}))
    else:
        (folder / "state.json").write_text("}{")
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(folder)


def test_sound_and_eeg_are_reconstructed_as_measured(
    tmp_path: Path, toy_config: Configure, toy_system: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(toy_config("svae", steps=1), toy_system, tmp_path)
    drawn = BatchSampler(ToySource(), LENGTHS, "train", 8, 0).next()
    seen: list[Batch] = []
    original = run.system.loss

    def spy(phase: str, batch: Batch, *args: object, **kwargs: object) -> object:
        seen.append(batch)
        return original(phase, batch, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(run.system, "loss", spy)
    run.run()
    for name, window in drawn.windows.items():
        target, weight = seen[0].targets[name]
        assert torch.equal(target, run.system.network(name).target(window))
        assert torch.equal(weight, torch.ones_like(target))
        assert not torch.equal(seen[0].windows[name], window)
