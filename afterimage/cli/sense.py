"""``afterimage sense``: run the sensors of a rig, as separate processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

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
from runtime.stopping import StopEvent, stop_on_signals

if TYPE_CHECKING:
    from runtime.rig.source_options import SyntheticOptions
    from runtime.sensors.capture_process import RemoteNode
    from runtime.sensors.supervisor import Supervisor
    from runtime.signals.moments import Split

_LOOK_S = 0.1


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

    Sensors with a `source` in the rig file are real ones: cameras, microphones, LSL and more (docs/sensors.md). A rig
    without any source plays recorded or synthetic signals at their native rates; --data, --synthetic, --seed and
    --split are for those.

    Examples:

      afterimage sense

      afterimage sense --rig my-rig.yaml

      afterimage sense --modality rgb --modality depth --faults faults.yaml

      afterimage sense --rig my-rig.yaml --endpoint tcp://robot:5555 --control tcp://robot:5557 \
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
    playing = all(s.source is None for s in loaded.sensors)
    action = "sensing"
    if playing:
        moments = _moments(asked, data, cast("Split", split), seed)
        loaded, action = loaded.with_source(moments), f"playing {moments.data}"
    elif asked != "auto":
        raise typer.BadParameter(
            f"--data and --synthetic are for rigs without sources; in rig {loaded.name!r} give them as options of "
            "`source: {kind: synthetic}`"
        )
    from runtime.sensors.supervisor import Supervisor
    from runtime.transport.endpoints import default_endpoints

    stop = stop_on_signals()
    with Supervisor(
        loaded,
        endpoint or default_endpoints(loaded.name).frames,
        modalities=wanted,
        remote=remote,
        faults=schedule,
        restart=restart,
        together=playing,
    ) as supervisor:
        _supervise(supervisor, f"{action} {', '.join(wanted)} for rig {loaded.name}", seconds, stop)
        counts = supervisor.stop()
    for name, count in counts.items():
        typer.echo(f"{name}: {_summary(count)}", err=True)


def _remote(control: str | None, keys: str | None, server_key: str | None) -> RemoteNode | None:
    """What is needed to reach a node on another machine: all three, or none."""
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


def _moments(
    asked: Literal["recorded", "synthetic", "auto"], data: Path | None, split: Split, seed: int
) -> SyntheticOptions:
    """What the sensors of a rig without sources play: recorded signals where there are packs, else synthetic ones."""
    from runtime.rig.source_options import SyntheticOptions
    from runtime.signals.opening import find_data_dir

    folder = None if asked == "synthetic" else find_data_dir(data)
    kind: Literal["recorded", "synthetic"] = "synthetic" if folder is None else "recorded"
    return SyntheticOptions(data=kind, data_dir=folder, plan_seed=seed, split=split)


def _supervise(supervisor: Supervisor, action: str, seconds: float | None, stop: StopEvent) -> None:
    """Keep the sensors running until Ctrl-C, the end of the time, or the end of all of them."""
    from runtime.core.clock import NS_PER_S

    announced = False
    while supervisor.look():
        if (start_ns := supervisor.start_ns) is not None:
            if not announced:
                typer.echo(f"{action}; Ctrl-C stops", err=True)
                announced = True
            if seconds is not None and time.monotonic_ns() > start_ns + seconds * NS_PER_S:
                return
        if stop.wait(_LOOK_S):
            return


def _summary(count: dict[str, Any]) -> str:
    """The counts of one sensor's processes, in words."""
    processes = count["processes"]
    published, silenced = (sum(p.get(key, 0) for p in processes) for key in ("published", "silenced"))
    lost = sum(sum(p.get("lost", {}).values()) for p in processes)
    return (
        f"published {published}, silenced {silenced}, lost {lost} times, "
        f"process started again {count['restarts']} times"
    )
