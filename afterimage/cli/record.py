"""``afterimage record``: what a node receives and decides, or sensors and labels without a node, to MCAP files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from afterimage.cli.arguments import KeysOption, RigOption, ServerKeyOption, read_keys
from runtime.stopping import stop_on_signals


def record(
    out: Annotated[
        Path | None, typer.Argument(help="A new file. Default: RIG-DATE-TIME.mcap in this folder.")
    ] = None,
    rig: RigOption = "commands-4",
    sessions: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Without a node: start the rig's sensors, record a session into this folder."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="With --out: a,b,c; keys 1, 2, 3 label them while recording.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="With --out: ask for each class this often, in random order.")
    ] = None,
    hold: Annotated[float, typer.Option(help="With --trials: seconds that a class is asked for.")] = 4.0,
    rest: Annotated[float, typer.Option(help="With --trials: seconds of rest before each.")] = 2.0,
    settle: Annotated[
        float, typer.Option(help="With --trials: seconds from a cue to the onset of its label.")
    ] = 0.5,
    tag: Annotated[
        list[str] | None, typer.Option(help="With --out: NAME=VALUE, such as person=ada; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="With --trials: of the order.")] = 0,
    endpoint: Annotated[
        str | None, typer.Option(help="The node's decisions endpoint. Default: the rig's.")
    ] = None,
    observations: Annotated[
        bool,
        typer.Option("--observations", help="Record observations too; the node then decodes on every tick."),
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this long. Default: until Ctrl-C.")
    ] = None,
    keys: KeysOption = None,
    server_key: ServerKeyOption = None,
) -> None:
    """Record a node's frames, health and decisions, or, with --out, a rig's sensors and labels without any node.

    A session needs no model: with --out the sensors are started and recorded together with labels, from keys, from
    cues (--trials), or from a program (`Labeller`). With cues, keys are r redo, s skip, p pause, q end.

    A recording of a node may start while the node runs. Only one that begins with the node replays bit for bit:
    `afterimage run --record FILE`. If this process is killed, the file is readable up to its last chunk.

    Exit code 1 if no message came.

    Examples:

      afterimage record session.mcap

      afterimage record --seconds 60 --observations

      afterimage record --rig my-rig.yaml --out sessions/ --classes stop,go,rest --trials 20 --tag person=ada
    """
    if sessions is not None:
        if out is not None:
            raise typer.BadParameter(
                f"give a file to record a node, or --out to record sensors, not both ({out})"
            )
        _record_session(sessions, rig, classes, (trials, hold, rest, settle, seed), tag, seconds)
        return
    if classes or trials or tag:
        raise typer.BadParameter("--classes, --trials and --tag label a session: give its folder with --out")
    _record_node(out, rig, endpoint, observations, seconds, keys, server_key)


def _record_session(
    folder: Path,
    rig: str,
    classes: str | None,
    cues: tuple[int | None, float, float, float, int],
    tags: list[str] | None,
    seconds: float | None,
) -> None:
    from rich.console import Console

    from afterimage.cli.import_file import pairs
    from runtime.rig import load_rig
    from runtime.sessions.cues import CuePlan, parse_classes
    from runtime.sessions.terminal import SessionOptions, record_session

    trials, hold, rest, settle, seed = cues
    names = parse_classes(classes or "")
    plan = None if trials is None else CuePlan(names, trials, hold, rest, settle, seed)
    options = SessionOptions(load_rig(rig), folder, names, plan, seconds, pairs("--tag", tags))
    progress = record_session(options, stop_on_signals(), Console(stderr=True))
    counts = ", ".join(f"{name} {n}" for name, n in progress.counts.items()) or "none"
    typer.echo(f"{progress.path}: {progress.messages} messages, labels: {counts}", err=True)
    if not progress.messages:
        typer.echo("afterimage: no message came; is a sensor on? try `afterimage doctor --rig`", err=True)
        raise typer.Exit(1)


def _record_node(
    out: Path | None,
    rig: str,
    endpoint: str | None,
    observations: bool,
    seconds: float | None,
    keys: str | None,
    server_key: str | None,
) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from runtime.record.recorder import record as run
    from runtime.record.writer import RecordingWriter, default_name
    from runtime.rig import load_rig

    loaded = load_rig(rig)
    path = out or default_name(loaded.name)
    stop = stop_on_signals()
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def report(writer: RecordingWriter) -> None:
            size = path.stat().st_size / 1e6
            live.update(
                Text(f"{path}: {sum(writer.received.values())} messages, {size:.1f} MB"), refresh=True
            )

        writer = run(
            loaded,
            path,
            stop,
            endpoint=endpoint,
            observations=observations,
            until_s=seconds,
            report=report,
            keys=read_keys(keys, server_key),
        )
    received, lost = sum(writer.received.values()), sum(writer.lost.values())
    typer.echo(f"{path}: {received} messages, {lost} lost", err=True)
    if not received:
        typer.echo(
            "afterimage: no message came; is a node running? start one with `afterimage run`", err=True
        )
        raise typer.Exit(1)
