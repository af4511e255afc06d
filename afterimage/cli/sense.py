"""``afterimage sense``: play sensors of a rig to a node, as separate processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from afterimage.cli.arguments import DataOption, RigOption, SeedOption, SyntheticOption, data_name


def sense(
    rig: RigOption = "commands-4",
    modality: Annotated[
        list[str] | None, typer.Option(help="Only this sensor; repeatable. Default: all.")
    ] = None,
    data: DataOption = None,
    synthetic: SyntheticOption = False,
    seed: SeedOption = 0,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    faults: Annotated[
        Path | None, typer.Option(help="Fault schedule (YAML).", exists=True, dir_okay=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")
    ] = None,
) -> None:
    """Play recorded or synthetic sensors at their native rates, one process each, until Ctrl-C.

    Examples:

      afterimage sense

      afterimage sense --modality rgb --modality depth --faults faults.yaml
    """
    import threading
    from contextlib import suppress

    from runtime.rig import load_rig
    from runtime.sensors.faults import load_schedule
    from runtime.sensors.moments import SPLITS, Split
    from runtime.sensors.process import spawn_sensors
    from runtime.sensors.sources import find_data_dir
    from runtime.transport.endpoints import default_endpoints

    if split not in SPLITS:
        raise typer.BadParameter(f"split should be one of {', '.join(SPLITS)}, got {split!r}")
    loaded = load_rig(rig)
    asked = data_name(data, synthetic)
    folder = None if asked == "synthetic" else find_data_dir(data)
    kind: Literal["recorded", "synthetic"] = "synthetic" if folder is None else "recorded"
    group = spawn_sensors(
        [loaded.sensor(m).modality for m in modality] if modality else loaded.modality_names,
        default_endpoints(loaded.name).frames,
        data=kind,
        data_dir=folder,
        split=cast(Split, split),
        plan_seed=seed,
        faults=load_schedule(faults) if faults else None,
    )
    with group:
        group.start()
        typer.echo(
            f"playing {kind} {', '.join(group.modalities)} to rig {loaded.name}; Ctrl-C stops", err=True
        )
        with suppress(KeyboardInterrupt):
            threading.Event().wait(seconds)
        counts = group.stop()
    for processes in counts.values():
        for c in processes:
            typer.echo(f"{c['modality']}: published {c['published']}, silenced {c['silenced']}", err=True)
