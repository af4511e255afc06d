"""``afterimage bridge``: a node's decisions for other frameworks, and their topics as its sensors."""

from __future__ import annotations

from typing import Annotated

import typer

from afterimage.cli.arguments import KeysOption, RigOption, ServerKeyOption, read_keys
from afterimage.cli.logging_options import with_logging_options
from runtime.stopping import stop_on_signals

bridge = typer.Typer(
    help="Carry a node's decisions to Lab Streaming Layer or ROS 2, and ROS topics to the node.",
    no_args_is_help=True,
)

EndpointOption = Annotated[
    str | None, typer.Option(help="The node's decisions endpoint. Default: the rig's.")
]
SecondsOption = Annotated[float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")]


@bridge.command("lsl")
@with_logging_options
def lsl(
    rig: RigOption = "commands-4",
    endpoint: EndpointOption = None,
    control: Annotated[
        str | None,
        typer.Option(
            help="The node's control endpoint, to measure its clock; needed if the node is on another machine."
        ),
    ] = None,
    seconds: SecondsOption = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Publish decisions as two LSL streams: class probabilities with what was imputed, and markers.

    LSL sends unencrypted to whoever asks on the network. Needs the `lsl` extra.

    Examples:

      afterimage bridge lsl
    """
    from contextlib import nullcontext

    from runtime.bridges.lsl import bridge as run
    from runtime.rig import load_rig
    from runtime.transport.clock_sync import ClockSync

    stop = stop_on_signals()
    own = read_keys(keys, server_key)
    with nullcontext() if control is None else ClockSync(control, "lsl-bridge", keys=own) as clocks:

        def node_ahead_ns() -> int:
            clock = clocks.clock() if clocks is not None else None
            return 0 if clock is None else -clock.offset_ns

        published = run(
            load_rig(rig),
            stop,
            endpoint=endpoint,
            keys=own,
            node_ahead_ns=node_ahead_ns,
            until_s=seconds,
        )
    _say(published)


@bridge.command("ros2")
@with_logging_options
def ros2(
    rig: RigOption = "commands-4",
    endpoint: EndpointOption = None,
    frames: Annotated[
        str | None, typer.Option(help="The node's frames endpoint. Default: the rig's.")
    ] = None,
    sensor: Annotated[
        list[str] | None,
        typer.Option(
            help="MODALITY=/ros/topic: a topic that feeds a sensor of the rig; repeatable. Default: none."
        ),
    ] = None,
    seconds: SecondsOption = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Publish decisions, health and observations as ROS 2 topics, and take ROS topics as sensors; see docs/ros2.md.

    Needs rclpy, which comes with ROS 2: source its setup file first.

    Examples:

      afterimage bridge ros2 --sensor rgb=/camera/color/image_raw --sensor depth=/camera/depth/image_raw
    """
    from runtime.bridges.ros2 import Ros2Bridge
    from runtime.rig import load_rig

    inputs = {}
    for given in sensor or ():
        modality, equals, topic = given.partition("=")
        if not (modality and equals and topic):
            raise typer.BadParameter(f"--sensor takes MODALITY=/ros/topic, got {given!r}")
        inputs[modality] = topic
    stop = stop_on_signals()
    with Ros2Bridge(
        load_rig(rig), inputs=inputs, decisions=endpoint, frames=frames, keys=read_keys(keys, server_key)
    ) as carrying:
        carrying.run(stop, seconds)
    _say(carrying.published)


def _say(published: int) -> None:
    typer.echo(f"{published} decisions published", err=True)
    if not published:
        typer.echo(
            "afterimage: no decision came; is a node running? start one with `afterimage run`", err=True
        )
        raise typer.Exit(1)
