"""Opening recorded or synthetic signals by name, and finding the folder of the recorded ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from runtime.signals.moments import MomentSource
from runtime.signals.packs import PackError

DataName = Literal["auto", "recorded", "synthetic"]
PACKS = ("asl_rgbd.npz", "speech_commands.npz", "ssvep_exo.npz")


def find_data_dir(explicit: Path | None = None) -> Path | None:
    """The folder that holds the recorded packs: the argument, then ``$AFTERIMAGE_DATA``, then ``../shared/data``.

    A folder named by the argument or by the environment is returned even where packs are missing in it, so that the
    mistake is reported when the source is opened; the default folder is returned only if it exists.

    Returns:
        The folder; None if none is named and the default one does not exist.
    """
    if explicit is not None:
        return explicit
    if named := os.environ.get("AFTERIMAGE_DATA"):
        return Path(named)
    beside = Path("../shared/data")
    return beside if beside.is_dir() else None


def open_source(
    data: DataName = "auto",
    data_dir: Path | None = None,
    seed: int = 0,
    modalities: Sequence[str] | None = None,
) -> MomentSource:
    """Open recorded or synthetic signals.

    Args:
        data: ``recorded``, ``synthetic``, or ``auto``: recorded where a data folder is found, else synthetic.
        data_dir: folder of the packs; see :func:`find_data_dir` for the default.
        seed: of the pairing, or of the synthetic scenes.
        modalities: whose signals will be read; all by default.

    Raises:
        PackError: recorded data were asked for, or found, and cannot be used.
        ValueError: an unknown name of data.
    """
    if data not in ("auto", "recorded", "synthetic"):
        raise ValueError(f"data should be auto, recorded or synthetic, got {data!r}")
    folder = find_data_dir(data_dir)
    if data == "recorded" and folder is None:
        raise PackError(
            f"no data folder: give --data DIR or $AFTERIMAGE_DATA with {', '.join(PACKS)} in it, "
            "or use the synthetic rig"
        )
    if data != "synthetic" and folder is not None:
        from runtime.signals.recorded import RecordedSource

        return RecordedSource(folder, seed=seed, modalities=modalities)
    from runtime.signals.synthetic import SyntheticSource

    return SyntheticSource(seed=seed, modalities=modalities)
