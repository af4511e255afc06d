"""The rig: a named set of sensors, where their samples come from, and the node's policies; read from YAML."""

from runtime.rig.rig import (
    FillPolicy,
    HealthPolicy,
    Rig,
    RigError,
    SensorSpec,
    TickPolicy,
    check_rig_feeds_bundle,
    check_same_windows,
    load_rig,
)

__all__ = [
    "FillPolicy",
    "HealthPolicy",
    "Rig",
    "RigError",
    "SensorSpec",
    "TickPolicy",
    "check_rig_feeds_bundle",
    "check_same_windows",
    "load_rig",
]
