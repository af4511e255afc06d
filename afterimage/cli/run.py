"""``afterimage run``: the node. Sensors in, decisions out, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import JsonOption, KeysOption, read_keys, write_json
from runtime.stopping import stop_on_signals


def run(
    engine: Annotated[Path, typer.Argument(help="A compiled engine folder or a bundle.", exists=True)],
    rig: Annotated[
        list[str],
        typer.Option(
            help="A shipped rig's name, or a YAML file. Repeat it for several rigs that share the node; "
            "their windows are encoded in batches.",
        ),
    ] = ["commands-4"],  # noqa: B006 - typer reads it, nobody changes it
    compare: Annotated[
        str,
        typer.Option(
            help="Further fill policies to decide by on every tick, separated by commas: hold,zero."
        ),
    ] = "",
    frames: Annotated[str | None, typer.Option(help="Endpoint that sensors connect to.")] = None,
    decisions: Annotated[str | None, typer.Option(help="Endpoint that clients connect to.")] = None,
    control: Annotated[
        str | None, typer.Option(help="Endpoint where sensors measure their clocks and commands come in.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Record from the first message on, to this new MCAP file.")
    ] = None,
    keys: KeysOption = None,
    json_file: JsonOption = None,
) -> None:
    """Run the node of a rig: receive frames, judge every sensor's health, publish one fused decision per tick.

    Examples:

      afterimage run runs/svae/engine

      afterimage run runs/svae/bundle --rig my-rig.yaml --compare hold,zero --json statistics.json

      afterimage run runs/svae/bundle --record session.mcap

      afterimage run runs/svae/bundle --rig left-arm.yaml --rig right-arm.yaml

      afterimage run runs/svae/bundle --frames tcp://0.0.0.0:5555 --decisions tcp://0.0.0.0:5556 --keys robot
    """
    from contextlib import nullcontext
    from typing import cast, get_args

    from afterimage.recording import recording
    from engines.opening import open_session
    from runtime.node.node import Node
    from runtime.rig import FillPolicy, load_rig
    from runtime.transport.control import default_control
    from runtime.transport.endpoints import Endpoints, default_endpoints

    policies = tuple(p for p in compare.split(",") if p)
    if unknown := [p for p in policies if p not in get_args(FillPolicy)]:
        raise typer.BadParameter(
            f"--compare takes {', '.join(get_args(FillPolicy))}, got {', '.join(unknown)}"
        )
    if record is not None and len(rig) > 1:
        raise typer.BadParameter("--record takes a node of one rig; start a node for each rig to be recorded")
    loaded = [load_rig(name) for name in rig]
    default = default_endpoints(loaded[0].name)
    endpoints = Endpoints(frames or default.frames, decisions or default.decisions, read_keys(keys, None))
    stop = stop_on_signals()
    with (
        open_session(engine) as session,
        Node(
            loaded,
            session,
            endpoints,
            control=control or default_control(loaded[0].name),
            compare=cast("tuple[FillPolicy, ...]", policies),
        ) as node,
        recording(node, rig[0], record, keys) if record is not None else nullcontext(),
    ):
        until = None if seconds is None else time.monotonic_ns() + round(seconds * 1e9)
        statistics = node.run(stop, until_ns=until)
    if json_file is not None:
        write_json(json_file, json.dumps(statistics, indent=1))
