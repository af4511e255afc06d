"""Shipped configurations load; a typo is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.rig import load_rig
from trainers.build import build_system, sensor_windows
from trainers.configuration import ConfigurationError, load_model_config, shipped_models


@pytest.mark.parametrize("name", ["svae", "associators"])
def test_shipped_models_build_for_the_headline_rig(name: str) -> None:
    assert name in shipped_models()
    config = load_model_config(name)
    system = build_system(config, load_rig("commands-4"), 4)
    assert system.names == ("rgb", "depth", "audio", "eeg")
    assert {p.name for p in system.phases()} == set(config.phases)
    assert config.window_lengths == {"rgb": 1, "depth": 1, "audio": 16000, "eeg": 768}


def test_the_seed_decides_the_weights() -> None:
    rig = load_rig("commands-4")
    one, two, other = (
        build_system(load_model_config("svae", {"seed": s}), rig, 4).state_dict() for s in (3, 3, 4)
    )
    assert all(one[k].equal(two[k]) for k in one)
    assert not all(one[k].equal(other[k]) for k in one)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("system.latnt_size", 3, "latnt_size"),
        ("system.latent_size", 0, "latent_size"),
        ("system.name", "svea", "svea"),
        ("phases", {"intra": {"steps": 3}}, "joint"),
        ("optimizer.schedule", "cosinus", "schedule"),
        ("batch_size", "many", "many"),
    ],
)
def test_a_fault_is_named(key: str, value: object, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        load_model_config("svae", {key: value})


def test_files_that_are_not_configurations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"shipped models.*associators"):
        load_model_config("svaee")
    for text in ("- a\n- b\n", "{", ""):
        path = tmp_path / "model.yaml"
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"model\.yaml"):
            load_model_config(path)


def test_modalities_must_be_the_rigs_in_its_order() -> None:
    config = load_model_config("svae")
    swapped = dict(reversed(config.modalities.items()))
    with pytest.raises(ConfigurationError, match="same order"):
        sensor_windows(config.model_copy(update={"modalities": swapped}), load_rig("commands-4"))
