"""Targets: what a bundle is compiled for, read from YAML (``configs/targets`` holds the shipped ones)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.reading import config_path, read_yaml, shipped, validated
from engines.errors import EngineError

EngineBackend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16"]

_CAPABILITY = re.compile(r"SM\d{2,3}")


class TargetError(EngineError):
    """A target that cannot be used; the message names the file, the field, what was expected and what came."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchProfile(_Strict):
    """The batch sizes an engine takes, 1 to ``maximum``; the runtime uses 1, evaluation uses more."""

    optimum: int = Field(default=1, ge=1, description="the size the engine is tuned for")
    maximum: int = Field(default=8, ge=1, description="the largest size it takes")

    @model_validator(mode="after")
    def _ordered(self) -> BatchProfile:
        if self.optimum > self.maximum:
            raise ValueError(f"expected optimum <= maximum, got {self.optimum} and {self.maximum}")
        return self


class Target(_Strict):
    """One target file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    backend: EngineBackend
    precision: Precision = Field(
        default="fp32",
        description="fp16: convolutions and matrix products in half precision, everything else in float32",
    )
    batch: BatchProfile | None = Field(
        default=None, description="None: any batch size (ONNX Runtime); TensorRT needs a profile"
    )
    compute_capabilities: tuple[str, ...] = Field(
        default=(),
        description="tensorrt-rtx: SM86, SM89, ...; empty means every GPU that the library supports",
    )

    @model_validator(mode="after")
    def _fits_backend(self) -> Target:
        if self.backend == "onnxruntime":
            if self.batch is not None:
                raise ValueError("batch: onnxruntime takes any batch size; leave it out")
            if self.precision != "fp32":
                raise ValueError(f"precision: onnxruntime on the CPU runs fp32, got {self.precision}")
        elif self.batch is None:
            raise ValueError(f"batch: {self.backend} needs a profile, {{optimum, maximum}}")
        if self.compute_capabilities and self.backend != "tensorrt-rtx":
            raise ValueError(
                f"compute_capabilities: only tensorrt-rtx takes them, the backend is {self.backend}"
            )
        bad = [c for c in self.compute_capabilities if not _CAPABILITY.fullmatch(c)]
        if bad:
            raise ValueError(f"compute_capabilities: expected names like SM89, got {bad}")
        return self


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
