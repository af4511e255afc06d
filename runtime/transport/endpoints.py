"""Endpoints: the addresses where a node takes frames and publishes decisions, and which addresses are allowed.

By default both are ipc sockets in a directory that only the user can enter. A TCP endpoint without keys must be on the
loopback interface; with CURVE keys (:mod:`runtime.transport.keys`) it may be on any.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from configs.errors import AfterimageError
from runtime.transport.keys import Keys

MAX_IPC_PATH = 107
"""Longest path of a Unix socket on Linux: sun_path holds 108 bytes with the closing zero."""

_TCP = re.compile(r"^tcp://(?P<host>\[[0-9a-fA-F:]+\]|[^:/]+):(?P<port>\d{1,5})$")


class EndpointError(AfterimageError):
    """An endpoint cannot be used; the message names it, what was expected and what to do."""


@dataclass(frozen=True)
class Endpoints:
    """The two addresses of a node: sensors connect to ``frames``, readers to ``decisions``.

    With ``keys``, sockets on TCP admit only the keys of the allow-list; ipc sockets are guarded by their directory.
    """

    frames: str
    decisions: str
    keys: Keys | None = None

    def __post_init__(self) -> None:
        """Refuse addresses that are not allowed; see :func:`check_endpoint`."""
        check_endpoint(self.frames, self.keys)
        check_endpoint(self.decisions, self.keys)
        if self.frames == self.decisions:
            raise EndpointError(f"frames and decisions need two endpoints, both are {self.frames!r}")


def check_endpoint(endpoint: str, keys: Keys | None = None) -> None:
    """Refuse an endpoint that is neither ipc nor TCP and, without keys, one that is not on this machine.

    Raises:
        EndpointError: another transport, a malformed address, a path too long, or an address beyond this
            machine without keys.
    """
    if endpoint.startswith("ipc://"):
        path = endpoint.removeprefix("ipc://")
        if not path.startswith("/"):
            raise EndpointError(f"endpoint {endpoint!r}: expected ipc:// with an absolute path")
        if (size := len(os.fsencode(path))) > MAX_IPC_PATH:
            raise EndpointError(
                f"endpoint {endpoint!r}: the path has {size} bytes, a Unix socket allows {MAX_IPC_PATH}; "
                "set XDG_RUNTIME_DIR to a shorter directory or name the endpoints yourself"
            )
        return
    match = _TCP.match(endpoint)
    if match is None:
        raise EndpointError(f"endpoint {endpoint!r}: expected ipc:///path or tcp://127.0.0.1:PORT")
    if not 0 < int(match["port"]) < 65536:
        raise EndpointError(f"endpoint {endpoint!r}: expected a port from 1 to 65535, got {match['port']}")
    if keys is None and not is_loopback(match["host"]):
        raise EndpointError(
            f"endpoint {endpoint!r}: {match['host']} is not a loopback address, and beyond this machine CURVE keys "
            "are needed: make them with `afterimage keys new NAME` and give --keys (docs/security.md), "
            "or use ipc:// or tcp://127.0.0.1:PORT"
        )
    if match["host"] == "*":
        raise EndpointError(
            f"endpoint {endpoint!r}: name an address of this machine, or tcp://0.0.0.0:PORT for all"
        )


def is_tcp(endpoint: str) -> bool:
    """Whether an endpoint is on TCP, where keys apply."""
    return endpoint.startswith("tcp://")


def is_loopback(host: str) -> bool:
    """Whether a host name or address stays on this machine.

    Only ``localhost`` is known by name (RFC 6761 fixes what it means); other names are not resolved, because somebody
    else decides what they mean.
    """
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def runtime_directory(rig: str) -> Path:
    """The directory of a rig's sockets: ``{XDG_RUNTIME_DIR or temporary directory}/afterimage-<uid>/<rig>``."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if not base or not Path(base).is_dir():
        base = tempfile.gettempdir()
    return Path(base) / f"afterimage-{os.getuid()}" / rig


def default_endpoints(rig: str) -> Endpoints:
    """The endpoints that nodes, sensors and clients of a rig use unless they are given others.

    Raises:
        EndpointError: the path is too long for a Unix socket.
    """
    folder = runtime_directory(rig)
    return Endpoints(frames=f"ipc://{folder}/frames", decisions=f"ipc://{folder}/decisions")


def prepare_directory(endpoint: str) -> None:
    """Make the directory of an ipc endpoint, private to the user; does nothing for TCP.

    Raises:
        EndpointError: the directory belongs to somebody else, or others can enter it.
    """
    if not endpoint.startswith("ipc://"):
        return
    folder = Path(endpoint.removeprefix("ipc://")).parent
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    # Everybody can write to a shared temporary directory: somebody else may have made this one, as a trap.
    for path in (folder, folder.parent) if folder.parent.name == f"afterimage-{os.getuid()}" else (folder,):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise EndpointError(f"{path}: expected a directory of this user (uid {os.getuid()}); remove it")
        if status.st_mode & 0o077:
            raise EndpointError(
                f"{path}: mode {stat.S_IMODE(status.st_mode):o}, expected 700: others could enter the node's "
                f"sockets; run `chmod 700 {path}`"
            )
