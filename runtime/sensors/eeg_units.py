"""Units of EEG channels, in the spellings that streams and files use."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.rig import SensorSpec

_SPELLINGS = {
    "V": ("v", "volt", "volts", "0"),
    "mV": ("mv", "millivolt", "millivolts", "-3"),
    "uV": ("uv", "µv", "μv", "microvolt", "microvolts", "-6"),
    "nV": ("nv", "nanovolt", "nanovolts", "-9"),
}
_UNITS = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings}


def common_unit(sensor: SensorSpec, names: Sequence[str], written: Sequence[str | None]) -> str | None:
    """The unit of the channels that a sensor keeps; None where it is not stated, not known, or differs among them.

    Args:
        sensor: its `transform.channels` are the channels that it keeps; all by default.
        names: of the channels; may be empty.
        written: their units as written, one per channel; may be empty.
    """
    kept = (
        sensor.transform.channels if sensor.transform and sensor.transform.channels else range(len(written))
    )
    indices = [
        list(names).index(c) if isinstance(c, str) and c in names else c if isinstance(c, int) else -1
        for c in kept
    ]
    units = {_UNITS.get(str(written[i]).strip().lower()) for i in indices if 0 <= i < len(written)}
    return units.pop() if len(units) == 1 else None
