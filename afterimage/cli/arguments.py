"""Options that several subcommands share, and how their values are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from configs.errors import AfterimageError

if TYPE_CHECKING:
    from runtime.transport.keys import Keys

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with the recorded packs. Default: $AFTERIMAGE_DATA, then ../shared/data, else the synthetic rig.",
        exists=True,
        file_okay=False,
    ),
]
SyntheticOption = Annotated[
    bool, typer.Option("--synthetic", help="Use the synthetic rig even if packs are found.")
]
RigOption = Annotated[str, typer.Option("--rig", help="Name of a shipped rig, or the path of a rig file.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON to this file; - for stdout.")
]
KeysOption = Annotated[
    str | None,
    typer.Option(
        "--keys",
        help="Own key pair (its name, or its secret file) for endpoints on TCP; needed beyond this machine. See "
        "`afterimage keys`.",
    ),
]
ServerKeyOption = Annotated[
    str | None,
    typer.Option("--server-key", help="The node's public key: its file, its name, or its 40 characters."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]


def data_name(data: Path | None, synthetic: bool) -> Literal["recorded", "synthetic", "auto"]:
    """The source that the options ask for; ``--data`` and ``--synthetic`` exclude each other."""
    if synthetic and data is not None:
        raise typer.BadParameter("give --data DIR or --synthetic, not both")
    return "synthetic" if synthetic else "recorded" if data is not None else "auto"


def read_keys(keys: str | None, server_key: str | None) -> Keys | None:
    """The keys that ``--keys`` and ``--server-key`` name; None if none are.

    Raises:
        KeysError: the keys cannot be used.
    """
    if keys is None:
        if server_key is not None:
            raise typer.BadParameter("--server-key needs --keys as well: both sides prove who they are")
        return None
    from runtime.transport.keys import load_keys

    return load_keys(keys, server_key)


class ResultFileError(AfterimageError):
    """The file for a result cannot be written; the message names it."""


def write_json(path: Path, text: str) -> None:
    """Write JSON text to a file, or to stdout where the path is ``-``.

    Raises:
        ResultFileError: the file cannot be written.
    """
    if str(path) == "-":
        typer.echo(text)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    except OSError as e:
        raise ResultFileError(f"--json {path}: cannot be written ({e.strerror}); name another file") from e
