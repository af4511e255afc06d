"""``afterimage sense``: run the sensors of a rig, as separate processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from afterimage.cli.arguments import (
    DataOption,
    KeysOption,
    RigOption,
    SeedOption,
    ServerKeyOption,
    SyntheticOption,
    data_name,
)
from runtime.stopping import stop_on_signals

if TYPE_CHECKING:
    from runtime.rig import Rig
    from runtime.sensors.capture_process import RemoteNode
    from runtime.signals.faults import FaultSchedule
    from runtime.signals.moments import Split


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
    restart: Annotated[bool, typer.Option(help="Start a sensor's process again when it dies.")] = True,
    endpoint: Annotated[
        str | None, typer.Option(help="The node's frames endpoint. Default: the rig's.")
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(help="The control endpoint of a node on another machine, to measure its clock."),
    ] = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    r"""Run the sensors of a rig, one process each, until Ctrl-C.

    A rig whose sensors have a `source` reads real ones: cameras, microphones, LSL and more (docs/sensors.md). Any other
    plays recorded or synthetic signals at their native rates; --data, --synthetic, --seed and --split are for those.

    Examples:

      afterimage sense

      afterimage sense --rig my-rig.yaml

      afterimage sense --modality rgb --modality depth --faults faults.yaml

      afterimage sense --rig my-rig.yaml --endpoint tcp://robot:5555 --control tcp://robot:5557 \\
        --keys desk --server-key robot
    """
    from runtime.rig import load_rig
    from runtime.signals.faults import load_schedule
    from runtime.signals.moments import SPLITS

    if split not in SPLITS:
        raise typer.BadParameter(f"split should be one of {', '.join(SPLITS)}, got {split!r}")
    loaded = load_rig(rig)
    asked = data_name(data, synthetic)
    schedule = load_schedule(faults) if faults else None
    remote = _remote(control, keys, server_key)
    wanted = [loaded.sensor(m).modality for m in modality] if modality else list(loaded.modality_names)
    if any(s.source is not None for s in loaded.sensors):
        if asked != "auto":
            raise typer.BadParameter(
                f"--data and --synthetic are for rigs without sources; in rig {loaded.name!r} give them as options of "
                "`source: {kind: synthetic}`"
            )
        _run(loaded, wanted, endpoint, remote, schedule, seconds, restart)
    elif remote is not None:
        raise typer.BadParameter(
            f"rig {loaded.name!r} names no sources; to play to another machine give its sensors "
            "`source: {kind: synthetic}` or another"
        )
    else:
        folder = None if asked == "synthetic" else _data_dir(data)
        _play(loaded, wanted, endpoint, folder, cast("Split", split), seed, schedule, seconds)


def _remote(control: str | None, keys: str | None, server_key: str | None) -> RemoteNode | None:
    """What is needed of a node on another machine: all three, or none."""
    from runtime.sensors.capture_process import RemoteNode

    given = {"--control": control, "--keys": keys, "--server-key": server_key}
    lacking = [name for name, value in given.items() if value is None]
    if len(lacking) == len(given):
        return None
    if control is None or keys is None or server_key is None:
        raise typer.BadParameter(
            f"a node on another machine needs {', '.join(given)}; {', '.join(lacking)} not given"
        )
    return RemoteNode(control=control, keys=keys, server_key=server_key)


def _data_dir(data: Path | None) -> Path | None:
    from runtime.signals.sources import find_data_dir

    return find_data_dir(data)


def _run(
    rig: Rig,
    modalities: list[str],
    endpoint: str | None,
    remote: RemoteNode | None,
    faults: FaultSchedule | None,
    seconds: float | None,
    restart: bool,
) -> None:
    """Read the sources of a rig, and start again what dies."""
    import time

    from runtime.sensors.supervisor import Supervisor
    from runtime.transport.endpoints import default_endpoints

    def say(text: str) -> None:
        typer.echo(text, err=True)

    stop = stop_on_signals()
    end = None if seconds is None else time.monotonic() + seconds
    with Supervisor(
        rig,
        endpoint or default_endpoints(rig.name).frames,
        modalities=modalities,
        remote=remote,
        faults=faults,
        restart=restart,
        say=say,
    ) as supervisor:
        say(f"sensing {', '.join(modalities)} for rig {rig.name}; Ctrl-C stops")
        while supervisor.look() and (end is None or time.monotonic() < end) and not stop.wait(0.1):
            pass
        counts = supervisor.stop()
    for name, count in counts.items():
        published = sum(p["published"] for p in count["processes"])
        lost = sum(sum(p["lost"].values()) for p in count["processes"])
        say(
            f"{name}: published {published}, lost {lost} times, process started again {count['restarts']} times"
        )


def _play(
    rig: Rig,
    modalities: list[str],
    endpoint: str | None,
    folder: Path | None,
    split: Split,
    seed: int,
    faults: FaultSchedule | None,
    seconds: float | None,
) -> None:
    """Play recorded or synthetic signals on one beat."""
    from runtime.sensors.process import spawn_sensors
    from runtime.transport.endpoints import default_endpoints

    stop = stop_on_signals()
    kind: Literal["recorded", "synthetic"] = "synthetic" if folder is None else "recorded"
    group = spawn_sensors(
        modalities,
        endpoint or default_endpoints(rig.name).frames,
        data=kind,
        data_dir=folder,
        split=split,
        plan_seed=seed,
        faults=faults,
    )
    with group:
        group.start()
        typer.echo(f"playing {kind} {', '.join(group.modalities)} to rig {rig.name}; Ctrl-C stops", err=True)
        stop.wait(seconds)
        counts = group.stop()
    for processes in counts.values():
        for c in processes:
            typer.echo(f"{c['modality']}: published {c['published']}, silenced {c['silenced']}", err=True)
