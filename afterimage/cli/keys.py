"""``afterimage keys``: make CURVE key pairs, and list the keys that a node admits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(
    help="Make keys for nodes, sensors and readers on several machines, and choose the keys that a node admits.",
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
        "change the node's bundle (`afterimage swap`).",
    ),
]


@keys.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the pair, such as the machine's.")],
    folder: FolderOption = None,
) -> None:
    """Make a key pair: NAME.key, which you give to others, and NAME.key_secret, which stays on this machine.

    Examples:

      afterimage keys new robot
    """
    from runtime.transport.keys import new_keys, read_public_key

    public, secret = new_keys(name, folder)
    typer.echo(f"{public}: the public key, for others: {read_public_key(str(public))}")
    typer.echo(f"{secret}: the secret key; keep it here, because whoever has it can act as {name!r}")


@keys.command("list")
def show(folder: FolderOption = None) -> None:
    """List the key pairs in the folder, and the keys that a node with this folder admits.

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
    typer.echo(f"{where / ALLOW_LIST_NAME}:" + ("" if allowed else " no key is admitted"))
    for entry in allowed:
        typer.echo(f"  {entry.key}  {entry.role}  {entry.name}  {' '.join(entry.modalities)}".rstrip())


@keys.command("allow")
def allow(
    public: PublicArgument,
    role: RoleOption,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="The sensor may publish only this modality; repeatable. Default: all."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for the list. Default: the file's name.")] = None,
    folder: FolderOption = None,
) -> None:
    """Admit a key as a sensor, a reader or an operator; a running node follows within a second.

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
        f"{path}: {label or key} is admitted as {role}{' of ' + ', '.join(modality) if modality else ''}"
    )


@keys.command("revoke")
def revoke(
    public: PublicArgument,
    role: Annotated[str | None, typer.Option(help="Revoke only this role. Default: all.")] = None,
    folder: FolderOption = None,
) -> None:
    """Stop admitting a key; a running node disconnects it within about a second.

    The key may also be given by the name that `afterimage keys list` shows in the allow-list.

    Examples:

      afterimage keys revoke head-camera.key
    """
    from typing import cast, get_args

    from runtime.transport.allow_list import Role, read_allow_list, write_allow_list
    from runtime.transport.keys import ALLOW_LIST_NAME, KeysError, default_folder, read_public_key

    if role is not None and role not in get_args(Role):
        raise typer.BadParameter(f"--role takes {', '.join(get_args(Role))}, got {role!r}")
    where = folder or default_folder()
    path = where / ALLOW_LIST_NAME
    before = read_allow_list(path)
    named = {k.key for k in before.keys if k.name == public}
    if len(named) > 1:
        raise KeysError(f"{path}: {len(named)} keys are named {public!r}; give the key itself")
    key = named.pop() if named else read_public_key(public, folder=where)
    after = before.without_key(key, cast("Role | None", role))
    if after == before:
        raise KeysError(
            f"{path}: key {key!r} is not in it{' as ' + role if role else ''}; see `afterimage keys list`"
        )
    write_allow_list(path, after)
    typer.echo(f"{path}: {public} is no longer admitted{' as ' + role if role else ''}")
