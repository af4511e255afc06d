"""``afterimage replay``: replay a recording, exactly or with faults, another bundle or another fill policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from afterimage.cli.arguments import JsonOption, write_json


def replay(
    recording: Annotated[Path, typer.Argument(help="An MCAP file of `afterimage record`.", exists=True)],
    engine: Annotated[Path, typer.Argument(help="A bundle or a compiled engine folder.", exists=True)],
    then: Annotated[
        list[Path] | None,
        typer.Option(
            "--then",
            help="A bundle that the node changed to during the recording (`afterimage swap`). Repeat it for several.",
            exists=True,
        ),
    ] = None,
    free: Annotated[
        bool,
        typer.Option("--free", help="Repeat only the frames, not the recorded timing of the node's work."),
    ] = False,
    faults: Annotated[
        Path | None,
        typer.Option(
            help="Fault schedule (YAML), in seconds since the run began. Implies --free.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    fill: Annotated[
        str | None, typer.Option(help="Fill policy: impute, hold or zero. Implies --free.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(help="1: as recorded; 2: twice as fast. Default: as fast as possible.", min=0.01),
    ] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Publish as the rig's node does, for `afterimage watch` and clients."),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Replay a recording through the node's own pipeline, and compare its decisions with the recorded ones.

    With the same bundles and backend, a recording made by `afterimage run --record` gives bit-equal decisions.

    Exit code 1 if an exact replay gave a different decision.

    Examples:

      afterimage replay session.mcap runs/svae/bundle

      afterimage replay session.mcap runs/svae/bundle --then runs/associators/bundle

      afterimage replay session.mcap runs/svae/bundle --faults pull-the-camera.yaml --speed 1 --publish
    """
    from contextlib import ExitStack
    from typing import cast, get_args

    from engines.opening import open_session
    from runtime.record.replay_file import replay_recording
    from runtime.rig import FillPolicy
    from runtime.signals.faults import load_schedule

    if fill is not None and fill not in get_args(FillPolicy):
        raise typer.BadParameter(f"--fill takes {', '.join(get_args(FillPolicy))}, got {fill}")
    with ExitStack() as opened:
        session, *others = (opened.enter_context(open_session(path)) for path in (engine, *(then or ())))
        summary = replay_recording(
            recording,
            session,
            others=others,
            exact=not (free or faults is not None or fill is not None),
            faults=load_schedule(faults) if faults else None,
            fill=cast("FillPolicy | None", fill),
            speed=speed,
            publish=publish,
        )
    if json_file is not None:
        write_json(json_file, json.dumps(summary, indent=1))
    if json_file is None or str(json_file) != "-":
        typer.echo(_in_words(summary))
    if summary["exact"] and summary["different"]:
        raise typer.Exit(1)


def _in_words(summary: dict[str, Any]) -> str:
    compared, equal = summary["compared"], summary["equal"]
    lines = [
        f"{summary['decisions']} decisions from {summary['frames']} frames in {summary['seconds']:.1f} s"
    ]
    if summary["exact"]:
        verdict = "bit-equal to the recorded ones" if compared == equal else "equal to the recorded ones"
        lines.append(f"{equal} of {compared} {verdict}")
    else:
        lines.append(
            f"{summary['same_label']} of {compared} have the recorded label, {equal} are equal in everything"
        )
    lines += [f"first difference: {summary['first_difference']}"] if summary["first_difference"] else []
    if lost := summary["lost"]:
        lines.append(f"lost while recording: {lost}")
    return "\n".join(lines)
