"""Targets: what a bundle is compiled for, read from YAML (``configs/targets`` holds the shipped ones)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from configs.reading import StrictModel, config_path, read_yaml, shipped, validated
from engines.errors import EngineError

EngineBackend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Provider = Literal["cpu", "cuda"]

ALLOWED_DECISION_CHANGE: dict[Precision, float] = {"fp32": 0.0, "fp16": 0.005, "bf16": 0.005, "int8": 0.01}
"""Share of a missing pattern's decisions that may differ from PyTorch's, unless the target says otherwise."""

_CAPABILITY = re.compile(r"SM\d{2,3}")


_BATCH = re.compile(r"(?:1\.\.)?([1-9]\d*)")


class TargetError(EngineError):
    """A target that cannot be used; the message names the file, the field, what was expected and what came."""


class BatchProfile(StrictModel):
    """The batch sizes an engine takes, 1 to ``maximum``; the runtime uses 1, evaluation uses more."""

    optimum: int = Field(default=1, ge=1, description="the size the engine is tuned for")
    maximum: int = Field(default=8, ge=1, description="the largest size it takes")

    @model_validator(mode="after")
    def _ordered(self) -> BatchProfile:
        if self.optimum > self.maximum:
            raise ValueError(f"expected optimum <= maximum, got {self.optimum} and {self.maximum}")
        return self


class Target(StrictModel):
    """One target file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    backend: EngineBackend
    precision: Precision = Field(
        default="fp32",
        description="fp16, bf16, int8: for the convolutions and matrix products where it was measured to be "
        "harmless; everything else stays in float32",
    )
    allowed_decision_change: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="largest share of any missing pattern's decisions that may differ from PyTorch's; None: the "
        "precision's default",
    )
    batch: BatchProfile | None = Field(
        default=None, description="None: any batch size (ONNX Runtime); TensorRT needs a profile"
    )
    compute_capabilities: tuple[str, ...] = Field(
        default=(),
        description="tensorrt-rtx: SM86, SM89, ...; empty means every GPU that the library supports",
    )
    provider: Provider = Field(default="cpu", description="onnxruntime: what executes the graphs")
    workspace_mib: int | None = Field(
        default=None,
        ge=1,
        description="tensorrt: scratch memory a build may use, in MiB; None: all of the GPU's",
    )
    dla_core: int | None = Field(
        default=None,
        ge=0,
        description="tensorrt: the deep learning accelerator (Jetson) to build for; None: the GPU",
    )

    @model_validator(mode="after")
    def _fits_backend(self) -> Target:
        if self.backend == "onnxruntime":
            if self.batch is not None:
                raise ValueError("batch: onnxruntime takes any batch size; leave it out")
            self._check_onnxruntime_precision()
        elif self.batch is None:
            raise ValueError(f"batch: {self.backend} needs a profile, {{optimum, maximum}}")
        elif self.provider != "cpu":
            raise ValueError(f"provider: only onnxruntime takes one, the backend is {self.backend}")
        for field in ("workspace_mib", "dla_core"):
            if getattr(self, field) is not None and self.backend != "tensorrt":
                raise ValueError(f"{field}: only tensorrt takes it, the backend is {self.backend}")
        if self.dla_core is not None and self.precision not in ("fp16", "int8"):
            raise ValueError(f"dla_core: the accelerator runs fp16 and int8, got precision {self.precision}")
        if self.compute_capabilities and self.backend != "tensorrt-rtx":
            raise ValueError(
                f"compute_capabilities: only tensorrt-rtx takes them, the backend is {self.backend}"
            )
        bad = [c for c in self.compute_capabilities if not _CAPABILITY.fullmatch(c)]
        if bad:
            raise ValueError(f"compute_capabilities: expected names like SM89, got {bad}")
        return self

    def _check_onnxruntime_precision(self) -> None:
        if self.precision in ("fp16", "bf16"):
            raise ValueError(
                f"precision: onnxruntime runs fp32 and int8, got {self.precision}; on a CPU it has no 16-bit kernels "
                "and would only add casts"
            )
        if self.precision == "int8" and self.provider == "cuda":
            raise ValueError(
                "precision: onnxruntime's CUDA provider has no integer kernels; for int8 on a GPU use TensorRT"
            )

    @property
    def decision_change(self) -> float:
        """Largest share of any missing pattern's decisions that may differ from PyTorch's."""
        if self.allowed_decision_change is not None:
            return self.allowed_decision_change
        return ALLOWED_DECISION_CHANGE[self.precision]


def shipped_targets() -> tuple[str, ...]:
    """Names of the targets that come with the package."""
    return tuple(shipped("targets"))


def load_target(name_or_path: str | Path) -> Target:
    """Read a target by the name of a shipped one (``cpu``) or by the path of a YAML file.

    Raises:
        TargetError: no such file, not YAML, an unknown key, or a value of the wrong kind; every fault is listed.
    """
    path = config_path("targets", name_or_path)
    absent = f"no target {str(name_or_path)!r}; shipped targets: {shipped('targets')}, or give the path of a YAML file"
    return validated(read_yaml(path, absent, TargetError), Target, path, TargetError)


def overridden(target: Target, precision: str | None = None, batch: str | None = None) -> Target:
    """A target with another precision or largest batch.

    Args:
        target: what to start from.
        precision: fp32, fp16, bf16 or int8; None keeps the target's.
        batch: the largest batch, as ``8`` or ``1..8``; None keeps the target's profile.

    Raises:
        TargetError: not a precision or batch, or the backend cannot do it.
    """
    raw = target.model_dump()
    if precision is not None:
        raw["precision"] = precision
    if batch is not None:
        found = _BATCH.fullmatch(batch)
        if found is None:
            raise TargetError(f"--batch {batch!r}: expected a number or a range from 1, like 8 or 1..8")
        maximum = int(found.group(1))
        optimum = 1 if target.batch is None else min(target.batch.optimum, maximum)
        raw["batch"] = {"optimum": optimum, "maximum": maximum}
    try:
        return Target.model_validate(raw)
    except ValidationError as e:
        faults = "; ".join(f["msg"].removeprefix("Value error, ") for f in e.errors())
        asked = " ".join(
            f"--{name} {value}" for name, value in (("precision", precision), ("batch", batch)) if value
        )
        raise TargetError(f"target {target.name} with {asked}: {faults}") from e
