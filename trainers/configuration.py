"""The configuration of a training run: one YAML file, validated; unknown keys are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from configs.errors import AfterimageError
from configs.reading import StrictModel, config_path, read_yaml, shipped, validated
from trainers.data.missingness import MissingnessPlan
from trainers.systems.registry import SYSTEMS


class ConfigurationError(AfterimageError):
    """A training configuration that cannot be used; names the file, every faulty field and what came."""


class ModalityConfig(StrictModel):
    """The window that a model takes from one sensor, and the width of its network."""

    window: int = Field(ge=1, description="samples in one window")
    hop: int = Field(ge=1, description="samples between successive windows")
    hidden_size: int = Field(default=128, ge=1, description="size of the trunk's output")


class PhaseConfig(StrictModel):
    """Length and learning rates of one training phase."""

    steps: int = Field(ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    adversary_learning_rate: float | None = Field(
        default=None, gt=0, description="of the phase's adversaries, if it has any; None: the same"
    )
    share: float = Field(default=1.0, gt=0, description="of the time budget, relative to the other phases")


class OptimizerConfig(StrictModel):
    """Adam or AdamW, its schedule, clipping and averaging of weights."""

    name: Literal["adam", "adamw"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(
        default=0.03, ge=0, lt=1, description="share of a phase over which the rate rises from 0"
    )
    clip_norm: float | None = Field(default=5.0, gt=0, description="largest norm of the gradients")
    average: float = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights; 0: none")


class ModelConfig(StrictModel):
    """A training run: `version: 1`, the windows of the rig, the system and how it is trained."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    modalities: dict[str, ModalityConfig] = Field(
        min_length=1, description="in the order of the presence mask"
    )
    system: Annotated[Union[tuple(config for config, _ in SYSTEMS)], Field(discriminator="name")]  # noqa: UP007
    phases: dict[str, PhaseConfig] = Field(min_length=1)
    batch_size: int = Field(default=32, ge=2)
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: bool = True
    missingness: MissingnessPlan = MissingnessPlan()
    validation_views: int = Field(
        default=2, ge=1, description="windows per validation moment for calibration"
    )
    validation_moments: int = Field(default=1000, ge=1, description="largest number of validation moments")
    seed: int = 0
    device: str = Field(default="cpu", description="where training runs: cpu, cuda, cuda:1, ...")
    torch_threads: int = Field(
        default=1,
        ge=1,
        description="more threads only help on idle physical cores: on shared ones they wait for each other",
    )

    @model_validator(mode="after")
    def _phases_of_system(self) -> ModelConfig:
        wanted = self.system.PHASES
        if sorted(self.phases) != sorted(wanted):
            raise ValueError(
                f"phases of system {self.system.name!r} are {list(wanted)}, got {sorted(self.phases)}"
            )
        return self

    @property
    def window_lengths(self) -> dict[str, int]:
        """Modality -> window in samples, in the order of the presence mask."""
        return {name: modality.window for name, modality in self.modalities.items()}


def shipped_models() -> list[str]:
    """Names of the model configurations that come with the package."""
    return shipped("models")


def load_model_config(name_or_path: str | Path, changes: Mapping[str, object] | None = None) -> ModelConfig:
    """Read a model configuration by the name of a shipped one (``svae``) or by the path of a YAML file.

    Args:
        name_or_path: ``svae``, ``associators``, or a path that ends in .yaml or .yml.
        changes: dotted key -> value that replaces what the file has, ``{"phases.joint.steps": 100}``.

    Raises:
        ConfigurationError: no such file, not YAML, an unknown key, or a value of the wrong kind; every fault
            is listed.
    """
    path = config_path("models", name_or_path)
    absent = (
        f"no model {str(name_or_path)!r}; shipped models: {shipped_models()}, or give the path of a YAML file"
    )
    raw = read_yaml(path, absent, ConfigurationError)
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path}: expected a mapping at the top, got {type(raw).__name__}")
    for key, value in (changes or {}).items():
        _replace(raw, key, value, path)
    return validated(raw, ModelConfig, path, ConfigurationError)


def _replace(raw: dict[str, object], dotted: str, value: object, path: Path) -> None:
    *parents, last = dotted.split(".")
    at = raw
    for key in parents:
        below = at.setdefault(key, {})
        if not isinstance(below, dict):
            raise ConfigurationError(f"{path}: cannot set {dotted!r}: {key!r} is not a mapping")
        at = below
    at[last] = value
