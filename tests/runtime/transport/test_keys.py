from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
import zmq.auth
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.transport.keys import Keys, KeysError, default_folder, load_keys, new_keys, read_public_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_a_new_pair_is_private_and_any_zeromq_tool_reads_it(folder: Path) -> None:
    public_file, secret_file = new_keys("robot", folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert secret_file.stat().st_mode & 0o777 == 0o600
    keys = load_keys("robot", folder=folder)
    assert zmq.auth.load_certificate(secret_file) == (keys.public.encode(), keys.secret.encode())
    assert zmq.auth.load_certificate(public_file) == (keys.public.encode(), None)
    assert keys.secret not in public_file.read_text()


def test_the_secret_is_in_no_text_of_the_keys(folder: Path) -> None:
    new_keys("robot", folder)
    keys = load_keys("robot", "robot", folder=folder)
    assert keys.secret not in f"{keys!r} {keys}"
    other = load_keys(str(new_keys("other", folder)[1]))
    with pytest.raises(KeysError) as caught:
        Keys("robot", other.public, keys.secret)
    assert keys.secret not in str(caught.value)
    with pytest.raises(KeysError) as caught:
        Keys("robot", keys.public, keys.secret + "!")
    assert keys.secret not in str(caught.value)


def test_an_old_pair_is_never_overwritten(folder: Path) -> None:
    _, secret_file = new_keys("robot", folder)
    before = secret_file.read_text()
    with pytest.raises(KeysError, match="is there already"):
        new_keys("robot", folder)
    assert secret_file.read_text() == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "x" * 31, "x y", "robot.key", "robot.key_secret"])
def test_names_that_could_be_anything_else_are_refused(folder: Path, name: str) -> None:
    with pytest.raises(KeysError, match="key name"):
        new_keys(name, folder)


def test_a_secret_that_others_can_read_is_refused(folder: Path) -> None:
    _, secret_file = new_keys("robot", folder)
    secret_file.chmod(0o640)
    with pytest.raises(KeysError, match="chmod 600"):
        load_keys("robot", folder=folder)
    secret_file.chmod(0o600)
    folder.chmod(0o755)
    with pytest.raises(KeysError, match="chmod 700"):
        new_keys("other", folder)


def test_a_public_key_is_given_as_itself_a_file_or_a_name(folder: Path) -> None:
    public_file, secret_file = new_keys("robot", folder)
    key = load_keys("robot", folder=folder).public
    for given_as in (key, str(public_file), "robot", str(secret_file)):
        assert read_public_key(given_as, folder=folder) == key
    for wrong in ("nobody", key[:-1], "x" * 40 + ".key", "#" * 40, "é" * 40, str(folder)):
        with pytest.raises(KeysError, match="public key"):
            read_public_key(wrong, folder=folder)


def test_what_is_missing_is_named_with_the_command_that_makes_it(folder: Path) -> None:
    with pytest.raises(KeysError, match=r"robot\.key_secret: no such file .*afterimage keys new robot"):
        load_keys("robot", folder=folder)
    public_file, _ = new_keys("robot", folder)
    with pytest.raises(KeysError, match="holds no secret key"):
        load_keys(str(public_file))
    with pytest.raises(KeysError, match="no such file"):
        load_keys(str(folder / "nobody.key_secret"))


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "afterimage" / "keys"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".config" / "afterimage" / "keys"


def test_a_pipe_in_place_of_a_file_does_not_hold_anybody_up(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "robot.key_secret", 0o600)
    with pytest.raises(KeysError, match="no such file"):
        load_keys("robot", folder=folder)


lines = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"curve", b"metadata", b"#", b"public-key", b"public-key =", b"secret-key = ''"]),
    st.builds(
        lambda kind, key: kind + b' = "' + key + b'"',
        st.sampled_from([b"public-key", b"secret-key"]),
        st.text("0123456789abcdefABCDEF.-:+=^!/*?&<>()[]{}@%$#", min_size=38, max_size=41).map(str.encode),
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(lines, max_size=8).map(b"\n".join))
def test_whatever_is_in_a_file_of_keys_it_is_keys_or_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "robot.key_secret"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeysError, match="robot") as caught:  # a good pair does not come about by chance
        load_keys(str(path))
    assert len(content) < 8 or content[:40].decode("latin-1") not in str(caught.value)
    with suppress(KeysError):
        assert re.fullmatch(r"[!-~]{40}", read_public_key(str(path)))
