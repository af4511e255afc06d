"""``afterimage swap``: change the bundle of a running node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import KeysOption, RigOption, ServerKeyOption, read_keys


def swap(
    engine: Annotated[str, typer.Argument(help="A bundle or compiled engine folder on the node's machine.")],
    rig: RigOption = "commands-4",
    control: Annotated[
        str | None,
        typer.Option(help="The node's control endpoint. Default: that of the rig on this machine."),
    ] = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the node.", min=0.1)] = 60.0,
) -> None:
    """Change the bundle of a running node, without missing a decision.

    The node opens and warms up the new bundle while it decides with the old one, and changes between two ticks. Every
    decision names the bundle that made it. The new bundle must take the same windows. Over TCP the command needs an
    operator's key: afterimage keys allow KEY --role operator

    Examples:

      afterimage swap runs/associators/bundle

      afterimage swap /srv/bundles/night --control tcp://robot:5557 --keys desk --server-key robot.key
    """
    from runtime.rig import load_rig
    from runtime.transport.control import default_control, swap_bundle

    endpoint = control or default_control(load_rig(rig).name)
    path = (
        engine if control is not None and not control.startswith("ipc://") else str(Path(engine).absolute())
    )
    bundle = swap_bundle(endpoint, path, keys=read_keys(keys, server_key), timeout_s=timeout)
    typer.echo(f"the node now decides with bundle {bundle}")
