"""The allow-list: the public keys that a node admits, with their roles and modalities.

A small YAML file that ``afterimage keys allow`` writes and a person may edit::

    version: 1
    keys:
      - {key: 'b(Ah>]}SR8+Pq8fB-19e.XS$x-Sl!#j(%I{D2MK?', name: head-camera, role: sensor, modalities: [rgb, depth]}
      - {key: 'F4C0i)(?GAhsg:FKCZZQ-iY8Y{tnCe=hI1G@iH=O', name: desk, role: reader}
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from configs.reading import StrictModel, read_yaml, validated
from runtime.transport.keys import KeysError, check_key, prepare_folder

Role = Literal["sensor", "reader", "operator"]
"""A ``sensor`` may publish frames, a ``reader`` read all that a node publishes, an ``operator`` change its bundle."""

_LARGEST_FILE = 1024 * 1024


class AllowedKey(StrictModel):
    """One key that is admitted.

    Attributes:
        key: the public key, 40 characters of Z85.
        name: of its owner, for people.
        role: what it may do. A key with two roles has two entries.
        modalities: the only ones that a sensor may publish; empty allows all.
    """

    key: str
    name: str = Field(default="", max_length=60)
    role: Role
    modalities: tuple[str, ...] = ()

    @field_validator("key")
    @classmethod
    def _is_key(cls, key: str) -> str:
        try:
            return check_key(key, "key")
        except KeysError as e:
            raise ValueError(str(e)) from e

    @model_validator(mode="after")
    def _only_sensors_have_modalities(self) -> AllowedKey:
        if self.modalities and self.role != "sensor":
            raise ValueError(f"modalities restrict a sensor, not a key of role {self.role}")
        return self


class AllowList(StrictModel):
    """The file: `version: 1` and its keys."""

    version: Literal[1] = 1
    keys: tuple[AllowedKey, ...] = ()

    def with_key(self, allowed: AllowedKey) -> AllowList:
        """The list with one more entry, which replaces an entry of the same key and role."""
        others = (k for k in self.keys if (k.key, k.role) != (allowed.key, allowed.role))
        return AllowList(keys=(*others, allowed))

    def without_key(self, key: str, role: Role | None = None) -> AllowList:
        """The list without a key, or without one role of it."""
        return AllowList(keys=tuple(k for k in self.keys if k.key != key or role not in (None, k.role)))

    def admits(self, key: str, roles: Collection[Role], modality: str | None = None) -> bool:
        """Whether a key is admitted as one of the roles and, if a modality is given, may publish it."""
        return any(
            k.key == key
            and k.role in roles
            and (modality is None or not k.modalities or modality in k.modalities)
            for k in self.keys
        )


def read_allow_list(path: Path) -> AllowList:
    """Read an allow-list; without a file, no key is admitted.

    Raises:
        KeysError: the file is no allow-list; every fault is named.
    """
    try:
        if not path.exists():
            return AllowList()
        if path.stat().st_size > _LARGEST_FILE:
            raise KeysError(f"{path}: larger than {_LARGEST_FILE} bytes, no allow-list")
        raw = read_yaml(path, f"{path}: cannot be read", KeysError)
    except (OSError, RecursionError, ValueError) as e:
        raise KeysError(f"{path}: cannot be read: {e}") from e
    return AllowList() if raw is None else validated(raw, AllowList, path, KeysError)


def write_allow_list(path: Path, allow_list: AllowList) -> None:
    """Write an allow-list in one step: a node that reads it meanwhile sees either the old or the new one.

    Raises:
        KeysError: it cannot be written.
    """
    text = "# Keys that a node admits; `afterimage keys allow` and `revoke` write it. A running node follows it.\n"
    text += yaml.safe_dump(allow_list.model_dump(mode="json"), sort_keys=False, default_flow_style=False)
    try:
        prepare_folder(path.parent)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".allowed-", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as e:
        raise KeysError(f"{path}: cannot be written: {e.strerror}") from e


class FollowedAllowList:
    """An allow-list that follows its file. One thread refreshes it; any thread may query it.

    If the file becomes invalid, the last valid list stays in force, and :attr:`fault` says what is wrong.

    Attributes:
        version: grows with every change of the list.
        fault: what is wrong with the file now; empty if nothing is.
    """

    def __init__(self, path: Path, own_key: str) -> None:
        """Read the file.

        Args:
            path: of the file, which need not exist.
            own_key: the node's own public key. It is always admitted, because whoever has its secret key is the node.

        Raises:
            KeysError: the file is no allow-list.
        """
        self.path = path
        self.version = 0
        self.fault = ""
        self._own_key = own_key
        self._signature = self._sign()
        self._list = read_allow_list(path)

    def refresh(self) -> bool:
        """Read the file again if it changed; True if that changed the list."""
        signature = self._sign()
        if signature == self._signature:
            return False
        self._signature = signature
        try:
            fresh = read_allow_list(self.path)
        except KeysError as e:
            self.fault = str(e)
            return False
        self.fault = ""
        changed, self._list = fresh != self._list, fresh
        self.version += changed
        return changed

    def admits(self, key: str, roles: Collection[Role], modality: str | None = None) -> bool:
        """As :meth:`AllowList.admits`; the node's own key is always admitted."""
        return key == self._own_key or self._list.admits(key, roles, modality)

    def knows(self, key: str) -> bool:
        """Whether a key is in the list in any role."""
        return any(k.key == key for k in self._list.keys)

    def _sign(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
