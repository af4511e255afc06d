"""docs/sensors.md says of every health policy what it is set to unless the rig says otherwise."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.rig import HealthPolicy

PAGE = Path(__file__).parents[2] / "docs" / "sensors.md"


def test_the_table_of_health_policies_is_whole_and_right() -> None:
    section = PAGE.read_text().split("### What the node makes of it")[1].split("\n## ")[0]
    told: dict[str, str] = {}
    for names, defaults in re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", section, re.MULTILINE):
        if names != "`health`":
            told |= dict(zip(re.findall(r"`(\w+)`", names), defaults.strip().split(", "), strict=True))
    defaults = {name: field.default for name, field in HealthPolicy.model_fields.items()}
    assert told.keys() == defaults.keys()
    for name, default in defaults.items():
        assert told[name] == ("off" if default is None else f"{default:g}"), name
