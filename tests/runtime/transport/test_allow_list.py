from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.transport.allow_list import (
    AllowedKey,
    AllowList,
    FollowedAllowList,
    read_allow_list,
    write_allow_list,
)
from runtime.transport.keys import KeysError


def key() -> str:
    return str(zmq.curve_keypair()[0].decode())


CAMERA, DESK, NODE = key(), key(), key()


def listed() -> AllowList:
    camera = AllowedKey(key=CAMERA, name="camera", role="sensor", modalities=("rgb", "depth"))
    return AllowList().with_key(camera).with_key(AllowedKey(key=DESK, role="reader"))


def test_a_key_may_do_what_its_role_says_and_nothing_else() -> None:
    allowed = listed()
    assert allowed.admits(CAMERA, ("sensor",))
    assert allowed.admits(CAMERA, ("sensor",), "depth")
    assert not allowed.admits(CAMERA, ("sensor",), "eeg")
    assert not allowed.admits(CAMERA, ("reader",))
    assert allowed.admits(CAMERA, ("sensor", "reader"))
    assert not allowed.admits(DESK, ("sensor",), "rgb")
    assert not allowed.admits(key(), ("sensor", "reader"))


def test_a_key_has_one_entry_for_each_role() -> None:
    allowed = listed().with_key(AllowedKey(key=CAMERA, role="reader"))
    allowed = allowed.with_key(AllowedKey(key=CAMERA, role="sensor"))
    assert allowed.admits(CAMERA, ("sensor",), "eeg")
    assert allowed.admits(CAMERA, ("reader",))
    assert len(allowed.keys) == 3
    assert not allowed.without_key(CAMERA, "reader").admits(CAMERA, ("reader",))
    assert not allowed.without_key(CAMERA).admits(CAMERA, ("reader", "sensor"))


def test_it_is_written_in_one_step_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "allowed.yaml"
    assert read_allow_list(path) == AllowList()
    write_allow_list(path, listed())
    assert read_allow_list(path) == listed()
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["allowed.yaml"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("version: 2\nkeys: []", "version"),
        ("keys: []\nport: 5", "port"),
        ("keys:\n- {key: short, role: sensor}", r"keys\.0\.key"),
        (f"keys:\n- {{key: '{CAMERA}', role: king}}", r"keys\.0\.role"),
        (f"keys:\n- {{key: '{CAMERA}'}}", r"keys\.0\.role"),
        (f"keys:\n- {{key: '{CAMERA}', role: reader, modalities: [rgb]}}", "restrict a sensor"),
        ("keys: [", "not YAML"),
        ("- 1", "file"),
        ("[" * 1200, "cannot be read"),
        ("\x00", "not YAML"),
    ],
    # Keys are drawn anew in every process, and tests must have the same names in all of them.
    ids=[
        "version",
        "port",
        "key",
        "role",
        "no role",
        "reader of a modality",
        "not YAML",
        "list",
        "deep",
        "zero byte",
    ],
)
def test_a_bad_list_is_named_with_its_fault(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "allowed.yaml"
    path.write_text(text)
    with pytest.raises(KeysError, match=named) as caught:
        read_allow_list(path)
    assert str(path) in str(caught.value)


def test_a_followed_list_changes_with_its_file_and_outlives_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "allowed.yaml"
    followed = FollowedAllowList(path, NODE)
    assert followed.admits(NODE, ("reader",))
    assert not followed.admits(CAMERA, ("sensor",))
    assert not followed.refresh()
    tmp_path.chmod(0o700)
    write_allow_list(path, listed())
    assert followed.refresh()
    assert followed.version == 1
    assert followed.admits(CAMERA, ("sensor",), "rgb")
    assert followed.knows(CAMERA)
    path.write_text("keys: [")
    assert not followed.refresh()
    assert "not YAML" in followed.fault
    assert followed.admits(CAMERA, ("sensor",))
    write_allow_list(path, listed().without_key(CAMERA))
    assert followed.refresh()
    assert (followed.version, followed.fault) == (2, "")
    assert not followed.admits(CAMERA, ("sensor",))
    path.unlink()
    assert followed.refresh()
    assert not followed.admits(DESK, ("reader",))


def test_a_list_that_is_bad_at_the_start_is_refused(tmp_path: Path) -> None:
    (tmp_path / "allowed.yaml").write_text("keys: 5")
    with pytest.raises(KeysError, match=r"allowed\.yaml"):
        FollowedAllowList(tmp_path / "allowed.yaml", NODE)


entries = st.fixed_dictionaries(
    {},
    optional={
        "key": st.one_of(st.just(CAMERA), st.text(max_size=45), st.integers()),
        "role": st.one_of(st.sampled_from(["sensor", "reader"]), st.text(max_size=5)),
        "name": st.one_of(st.text(max_size=70), st.none()),
        "modalities": st.one_of(st.lists(st.text(max_size=5)), st.text(max_size=3)),
    },
)
files = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda version, keys: yaml.safe_dump({"version": version, "keys": keys}).encode(),
        st.one_of(st.just(1), st.none(), st.booleans(), st.floats()),
        st.one_of(st.lists(entries, max_size=3), st.none(), st.text(max_size=5)),
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=files)
def test_whatever_is_in_the_file_it_is_a_list_or_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "allowed.yaml"
    path.write_bytes(content)
    allowed = None
    with suppress(KeysError):
        allowed = read_allow_list(path)
    if allowed is None:
        with pytest.raises(KeysError, match=re.escape(str(path))):
            read_allow_list(path)
    else:
        assert not allowed.admits(DESK, ("sensor", "reader"))
