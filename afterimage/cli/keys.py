"""``afterimage keys``: make CURVE keys, and say whose are admitted to a node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(
    help="Keys for sensors, nodes and readers on other machines: make them, and say whom a node admits.",
    no_args_is_help=True,
)

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder", help="Folder of the keys. Default: $XDG_CONFIG_HOME/afterimage/keys.", file_okay=False
    ),
]
PublicArgument = Annotated[
    str, typer.Argument(help="A public key: its file, its name in the folder, or its 40 characters.")
]
RoleOption = Annotated[
    str,
    typer.Option(
        "--role",
        help="sensor: may publish frames. reader: may read all that a node publishes. operator: may "
        "have a node go on with another bundle (`afterimage swap`).",
    ),
]


@keys.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of the pair, such as the machine's name.")],
    folder: FolderOption = None,
) -> None:
    """Make a key pair: NAME.key, to be given to others, and NAME.key_secret, which stays here.

    Examples:

      afterimage keys new robot
    """
    from runtime.transport.keys import new_keys, read_public_key

    public, secret = new_keys(name, folder)
    typer.echo(f"{public}: give this one to others; it holds {read_public_key(str(public))}")
    typer.echo(f"{secret}: stays here; whoever has it is {name!r}")


@keys.command("list")
def show(folder: FolderOption = None) -> None:
    """Show the pairs here and the keys that a node with this folder admits.

    Examples:

      afterimage keys list
    """
    from runtime.transport.allow_list import read_allow_list
    from runtime.transport.keys import (
        ALLOW_LIST_NAME,
        PUBLIC_SUFFIX,
        SECRET_SUFFIX,
        default_folder,
        read_public_key,
    )

    where = folder or default_folder()
    typer.echo(f"{where}:")
    for path in sorted(where.glob(f"*{PUBLIC_SUFFIX}")):
        kind = "pair" if path.with_suffix(SECRET_SUFFIX).exists() else "public"
        typer.echo(f"  {read_public_key(str(path))}  {kind:6}  {path.stem}")
    allowed = read_allow_list(where / ALLOW_LIST_NAME).keys
    typer.echo(f"{where / ALLOW_LIST_NAME}:" + ("" if allowed else " nobody is admitted"))
    for entry in allowed:
        typer.echo(f"  {entry.key}  {entry.role}  {entry.name}  {' '.join(entry.modalities)}".rstrip())


@keys.command("allow")
def allow(
    public: PublicArgument,
    role: RoleOption,
    modality: Annotated[
        list[str] | None, typer.Option(help="Only this one may the sensor publish; repeatable. Default: any.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Whose key it is. Default: the file's name.")] = None,
    folder: FolderOption = None,
) -> None:
    """Admit a key, as a sensor, a reader or an operator; a running node follows within a second.

    Examples:

      afterimage keys allow head-camera.key --role sensor --modality rgb --modality depth

      afterimage keys allow desk.key --role reader
    """
    from typing import cast, get_args

    from runtime.transport.allow_list import AllowedKey, Role, read_allow_list, write_allow_list
    from runtime.transport.keys import ALLOW_LIST_NAME, default_folder, read_public_key

    if role not in get_args(Role):
        raise typer.BadParameter(f"--role takes {', '.join(get_args(Role))}, got {role!r}")
    if role != "sensor" and modality:
        raise typer.BadParameter(f"--modality restricts a sensor, not a key of role {role}")
    where = folder or default_folder()
    key = read_public_key(public, folder=where)
    label = name if name is not None else "" if public == key else Path(public).stem
    entry = AllowedKey(key=key, name=label[:60], role=cast(Role, role), modalities=tuple(modality or ()))
    path = where / ALLOW_LIST_NAME
    write_allow_list(path, read_allow_list(path).with_key(entry))
    typer.echo(
        f"{path}: {label or key} may come in as {role}{' of ' + ', '.join(modality) if modality else ''}"
    )


@keys.command("revoke")
def revoke(
    public: PublicArgument,
    role: Annotated[str | None, typer.Option(help="Only as this. Default: altogether.")] = None,
    folder: FolderOption = None,
) -> None:
    """No longer admit a key; a running node cuts it off within about a second.

    PUBLIC may also be the name that `keys list` shows in the allow-list.

    Examples:

      afterimage keys revoke head-camera.key
    """
    from runtime.transport.allow_list import read_allow_list, write_allow_list
    from runtime.transport.keys import ALLOW_LIST_NAME, KeysError, default_folder, read_public_key

    if role not in ("sensor", "reader", None):
        raise typer.BadParameter(f"--role takes sensor or reader, got {role!r}")
    where = folder or default_folder()
    path = where / ALLOW_LIST_NAME
    before = read_allow_list(path)
    named = {k.key for k in before.keys if k.name == public}
    if len(named) > 1:
        raise KeysError(f"{path}: {len(named)} keys are named {public!r}; give the key itself")
    key = named.pop() if named else read_public_key(public, folder=where)
    after = before.without_key(key, role)  # type: ignore[arg-type]  # checked above
    if after == before:
        raise KeysError(
            f"{path}: key {key!r} is not in it{' as ' + role if role else ''}; see `afterimage keys list`"
        )
    write_allow_list(path, after)
    typer.echo(f"{path}: {public} may not come in{' as ' + role if role else ''} any more")
