"""The rig: a named set of sensors with their rates, and the node's policies, read from YAML.

A rig says what the sensors *deliver*; the bundle's manifest says what the model *needs*. The node refuses to start
when the two disagree (:func:`check_rig_feeds_bundle`), naming the field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.errors import AfterimageError
from configs.reading import StrictModel, config_path, read_yaml, shipped, validated
from engines.bundle import Manifest, ModalityKind, ModalitySpec, WireDtype
from runtime.rig.source_options import Source, Transform

FillPolicy = Literal["impute", "hold", "zero"]


class RigError(AfterimageError):
    """A rig that cannot be used; the message names the file, the field, what was expected and what came."""


class SensorSpec(StrictModel):
    """One sensor stream as it is published, and where its samples come from.

    `source` and `transform` are for the sensor's own process: they are left out when a rig is dumped, so that no
    recording holds the password in the address of a camera.
    """

    modality: str
    kind: ModalityKind
    sample_shape: tuple[int, ...]
    dtype: WireDtype
    unit: str
    rate_hz: float = Field(gt=0, le=1_000_000)
    chunk: int = Field(ge=1, description="samples in one message")
    channels: tuple[str, ...] = Field(default=(), description="names along the last axis, for people")
    source: Source | None = Field(
        default=None, exclude=True, repr=False, description="the synthetic rig if not given"
    )
    transform: Transform | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="after")
    def _named(self) -> SensorSpec:
        count = self.sample_shape[-1] if self.sample_shape else 0
        if self.channels and len(self.channels) != count:
            raise ValueError(
                f"channels: expected {count} names, one per entry of the last axis, got {len(self.channels)}"
            )
        return self

    @property
    def period_s(self) -> float:
        """Seconds between messages at the nominal rate: chunk / rate_hz."""
        return self.chunk / self.rate_hz


class TickPolicy(StrictModel):
    """When a fused decision is published.

    `rate`: on a steady clock. `arrival`: as soon as a new window of a modality in `on` is encoded, and in any case
    1 / `rate_hz` after the decision before; the lowest latency, at the cost of a decision per window.
    """

    policy: Literal["rate", "arrival"] = "rate"
    rate_hz: float = Field(default=20.0, gt=0, le=1000)
    on: tuple[str, ...] = Field(
        default=(), description="modalities whose windows bring a decision; every one if not given"
    )

    @model_validator(mode="after")
    def _only_arrivals_have_modalities(self) -> TickPolicy:
        if self.on and self.policy != "arrival":
            raise ValueError(
                f"tick.on names what a tick waits for under policy arrival, got policy {self.policy}"
            )
        return self


class HealthPolicy(StrictModel):
    """How silence and return are judged; content checks take their thresholds from the bundle."""

    silence_periods: float = Field(default=3.0, ge=1, description="periods without a frame before `missing`")
    silence_floor_s: float = Field(default=0.1, gt=0, description="that silence is at least this long")
    even_share: float = Field(
        default=0.85, gt=0, le=1, description="share of that silence for a sensor whose messages come evenly"
    )
    first_frame_grace_s: float = Field(default=2.0, ge=0, description="a sensor may take this long to begin")
    frozen_frames: int = Field(default=5, ge=2, description="identical messages in a row before `frozen`")
    recover_frames: int = Field(default=3, ge=1, description="good messages in a row before `live` again")
    late_s: float = Field(default=0.25, gt=0, description="data older than this when used is `late`")
    future_tolerance_s: float = Field(
        default=0.05, ge=0, description="a capture time further ahead is refused"
    )
    implausible_odds: float | None = Field(
        default=None,
        gt=1,
        description="`implausible` where it is so much to one that a sensor perceives something else",
    )
    clock_uncertainty_s: float = Field(
        default=0.1,
        gt=0,
        description="`bad_clock` where a sensor's clock offset is known less surely than this",
    )


class Rig(StrictModel):
    """A rig file: `version: 1`, sensors in the order of the presence mask, tick and health policies."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    sensors: tuple[SensorSpec, ...] = Field(min_length=1)
    tick: TickPolicy = TickPolicy()
    health: HealthPolicy = HealthPolicy()
    fill: FillPolicy = "impute"

    @model_validator(mode="after")
    def _unique(self) -> Rig:
        names = self.modality_names
        if len(set(names)) != len(names):
            raise ValueError(f"sensors must have distinct modality names, got {list(names)}")
        if unknown := [m for m in self.tick.on if m not in names]:
            raise ValueError(f"tick.on: expected modalities of this rig {list(names)}, got {unknown}")
        return self

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Modality names in the order of the presence mask."""
        return tuple(s.modality for s in self.sensors)

    def sensor(self, modality: str) -> SensorSpec:
        """The sensor of one modality; raises RigError that lists the known names."""
        for s in self.sensors:
            if s.modality == modality:
                return s
        raise RigError(
            f"modality {modality!r} is not in rig {self.name!r}; it has {list(self.modality_names)}"
        )

    def with_source(self, source: Source) -> Rig:
        """This rig, with a source for every sensor that names none."""
        sensors = tuple(
            s if s.source is not None else s.model_copy(update={"source": source}) for s in self.sensors
        )
        return self.model_copy(update={"sensors": sensors})


def load_rig(name_or_path: str | Path) -> Rig:
    """Read a rig by the name of a shipped one (``commands-4``) or by the path of a YAML file.

    Raises:
        RigError: no such file, not YAML, an unknown key, or a value of the wrong kind; every fault is listed.
    """
    path = config_path("rigs", name_or_path)
    absent = f"no rig {str(name_or_path)!r}; shipped rigs: {shipped('rigs')}, or give the path of a YAML file"
    return validated(read_yaml(path, absent, RigError), Rig, path, RigError)


def check_rig_feeds_bundle(rig: Rig, manifest: Manifest) -> None:
    """Refuse a rig whose sensors cannot feed a bundle.

    Raises:
        RigError: names the first modality and field that differ, with both values.
    """
    if rig.modality_names != manifest.modality_names:
        raise RigError(
            f"rig {rig.name!r} has sensors {list(rig.modality_names)}, "
            f"bundle {manifest.name!r} needs {list(manifest.modality_names)} in that order"
        )
    for sensor, spec in zip(rig.sensors, manifest.modalities, strict=True):
        for field in ("kind", "sample_shape", "dtype", "unit", "rate_hz"):
            have, need = getattr(sensor, field), getattr(spec, field)
            if have != need:
                raise RigError(
                    f"sensor {sensor.modality!r}: {field} is {have!r} in rig {rig.name!r}, "
                    f"bundle {manifest.name!r} needs {need!r}"
                )


def check_same_windows(now: ModalitySpec, then: ModalitySpec) -> None:
    """Refuse a bundle that cannot take over from another one while a node runs.

    Raises:
        RigError: names the field, with both values.
    """
    for field in ("window", "hop"):
        have, need = getattr(now, field), getattr(then, field)
        if have != need:
            raise RigError(
                f"modality {now.name!r}: the node cuts windows with {field} {have}, the other bundle needs {need}; "
                "start another node for it"
            )
