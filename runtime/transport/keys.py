"""Keys: the CURVE key pairs of nodes, sensors and readers, written and read as ZeroMQ certificate files.

A pair is two files in a folder that only the user can enter: ``NAME.key`` (public, to give to others) and
``NAME.key_secret`` (mode 600). The format is that of ``zmq.auth`` and czmq; the cryptography is libsodium's.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from configs.errors import AfterimageError

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"
ALLOW_LIST_NAME = "allowed.yaml"

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,29}$")
_LARGEST_FILE = 4096


class KeysError(AfterimageError):
    """A key or a file of keys cannot be used; the message names it and what to do, and holds no secret."""


@dataclass(frozen=True)
class Keys:
    """The identity of this process, and the peers that it talks to.

    A node needs its own pair and an allow-list; a sensor or reader its own pair and the node's public key. The secret
    is left out of the repr.

    Attributes:
        name: of the pair, for messages.
        public: own public key, 40 characters of Z85.
        secret: own secret key, 40 characters of Z85.
        server: the node's public key; only sensors and readers need it.
        allow_list: file of the keys that a node admits; only nodes need it.
    """

    name: str
    public: str
    secret: str = field(repr=False)
    server: str | None = None
    allow_list: Path | None = None

    def __post_init__(self) -> None:
        """Refuse keys that do not belong together; the message does not repeat them."""
        check_key(self.public, f"public key of {self.name!r}")
        check_key(self.secret, f"secret key of {self.name!r}")
        if zmq.curve_public(self.secret.encode()).decode() != self.public:
            raise KeysError(f"keys {self.name!r}: the secret key does not belong to the public one")
        if self.server is not None:
            check_key(self.server, f"server key for {self.name!r}")


def check_key(key: str, what: str) -> str:
    """The key itself, if it is 32 bytes in Z85.

    Raises:
        KeysError: it is not; the message names the key by ``what``, and does not repeat it.
    """
    try:
        size = len(z85.decode(key.encode("ascii"))) if len(key) == 40 else None
    except (KeyError, ValueError, struct.error):
        size = None
    if size != 32:
        raise KeysError(f"{what}: expected 40 characters of Z85, got {len(key)} that are not")
    return key


def default_folder() -> Path:
    """The folder of keys: ``$XDG_CONFIG_HOME/afterimage/keys``, else ``~/.config/afterimage/keys``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "afterimage" / "keys"


def check_name(name: str) -> str:
    """The name itself, if it can name a pair.

    Raises:
        KeysError: it cannot be a name.
    """
    if not _NAME.match(name) or name.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)):
        raise KeysError(
            f"key name {name!r}: expected 1 to 30 letters, digits, '-', '_' or '.', a letter or digit first"
        )
    return name


def new_keys(name: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Make a key pair.

    Args:
        name: of the pair and its files.
        folder: where; the default folder if not given. It is made with mode 700 if it does not exist.

    Returns:
        The public and the secret file.

    Raises:
        KeysError: a bad name, a pair of that name that exists, a folder that others can enter, or a full disk.
    """
    check_name(name)
    folder = folder or default_folder()
    public_file, secret_file = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    public, secret = zmq.curve_keypair()
    while not public[:1].isalnum():  # a key that begins with "-" would read as an option on a command line
        public, secret = zmq.curve_keypair()
    head = f'metadata\n    name = "{name}"\ncurve\n    public-key = "{public.decode()}"\n'
    try:
        prepare_folder(folder)
        # The secret file first: it decides whether the pair exists, and an old one is never overwritten.
        _write_new(
            secret_file,
            0o600,
            f'# CURVE secret key. Keep it here.\n{head}    secret-key = "{secret.decode()}"\n',
        )
        _write_new(public_file, 0o644, f"# CURVE public key. Give it to whom it is for.\n{head}")
    except FileExistsError as e:
        raise KeysError(f"{e.filename}: is there already; choose another name or remove the pair") from e
    except OSError as e:
        raise KeysError(f"{e.filename or folder}: cannot write keys: {e.strerror}") from e
    return public_file, secret_file


def prepare_folder(folder: Path) -> None:
    """Make a folder for keys with mode 700, or check the mode of one that exists.

    Raises:
        KeysError: others can enter it.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        raise KeysError(f"{folder}: mode {mode:o}, expected 700; run `chmod 700 {folder}`")


def load_keys(
    name_or_path: str,
    server_key: str | None = None,
    *,
    folder: Path | None = None,
    allow_list: Path | None = None,
) -> Keys:
    """Read a key pair.

    Args:
        name_or_path: name of a pair in the folder, or the path of its secret file.
        server_key: the node's public key, for sensors and readers: see :func:`read_public_key`.
        folder: where names are looked up; the default folder if not given.
        allow_list: for nodes; ``allowed.yaml`` in the folder if not given.

    Raises:
        KeysError: no such file, a secret file that others can read, or one that holds no pair.
    """
    folder = folder or default_folder()
    path = Path(name_or_path)
    if path.suffix != SECRET_SUFFIX and "/" not in name_or_path:
        path = folder / f"{check_name(name_or_path)}{SECRET_SUFFIX}"
    public, secret = _read_certificate(path, f"make the pair with `afterimage keys new {path.stem}`")
    if secret is None:
        raise KeysError(f"{path}: holds no secret key; name the {SECRET_SUFFIX} file")
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise KeysError(f"{path}: mode {mode:o}, others can read a secret key; run `chmod 600 {path}`")
    server = None if server_key is None else read_public_key(server_key, folder=folder)
    return Keys(path.stem, public, secret, server, allow_list or folder / ALLOW_LIST_NAME)


def read_public_key(key: str, *, folder: Path | None = None) -> str:
    """A public key, given as its 40 characters of Z85, as a file, or as the name of a file in the folder.

    Raises:
        KeysError: it is none of these.
    """
    folder = folder or default_folder()
    advice = "give the public key itself, its file, or its name in the folder of keys"
    named = (folder / key, folder / f"{key}{PUBLIC_SUFFIX}") if _NAME.match(key) else ()
    for path in (Path(key), *named):
        if path.is_file():
            return _read_certificate(path, advice)[0]
    if len(key) != 40 or key.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)):
        raise KeysError(f"public key {key[:60]!r}: no such file or name in {folder}; {advice}")
    return check_key(key, "public key")


def _read_certificate(path: Path, advice: str) -> tuple[str, str | None]:
    """The public key and, if the file has one, the secret key; both are checked."""
    try:
        if not path.is_file():
            raise KeysError(f"{path}: no such file of keys; {advice}")
        if path.stat().st_size > _LARGEST_FILE:
            raise KeysError(f"{path}: larger than {_LARGEST_FILE} bytes, no file of keys; {advice}")
        raw_public, raw_secret = load_certificate(path)
        public = raw_public.decode("ascii")
        secret = None if raw_secret is None else raw_secret.decode("ascii")
    except OSError as e:
        raise KeysError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, IndexError):  # from None: the cause may show a secret
        raise KeysError(f"{path}: not a ZeroMQ certificate; {advice}") from None
    check_key(public, f"{path}: public key")
    if secret is not None:
        check_key(secret, f"{path}: secret key")
    return public, secret


def _write_new(path: Path, mode: int, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text)
