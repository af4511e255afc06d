"""Cache files: where they go, and that no damage to them is ever an error."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engines.backends.cache_files import cache_folder, read_cache, write_cache


def test_the_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("AFTERIMAGE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("AFTERIMAGE_CACHE")
    assert cache_folder() == Path("/b/afterimage")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/c/.cache/afterimage")


def test_what_is_written_is_read_and_replaced(tmp_path):
    path = tmp_path / "deep" / "er" / "kernels"
    assert read_cache(path) == b""
    for blob in (b"first", b""):
        write_cache(path, blob)
        assert read_cache(path) == blob
    assert os.listdir(path.parent) == ["kernels"], "nothing half-written is left"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 10, 32, 36])
def test_a_truncated_file_counts_as_empty(tmp_path, size):
    write_cache(tmp_path / "kernels", b"content")
    content = (tmp_path / "kernels").read_bytes()
    (tmp_path / "kernels").write_bytes(content[:size])
    assert read_cache(tmp_path / "kernels") == b""


def test_a_flipped_bit_counts_as_empty_wherever_it_is(tmp_path):
    path = tmp_path / "kernels"
    write_cache(path, b"content")
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1
        path.write_bytes(damaged)
        assert read_cache(path) == b"", index


def test_folders_and_full_disks_are_no_fault(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir()
    assert read_cache(tmp_path / "kernels") == b""
    write_cache(tmp_path / "kernels", b"content")
    assert os.listdir(tmp_path) == ["kernels"], "the partial file is removed"

    def full(handle, mode):
        os.close(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    write_cache(tmp_path / "other", b"content")
    assert os.listdir(tmp_path) == ["kernels"]
