"""A folder of keys, and a node's two sockets that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from curve_peers import KeyFolder, free_endpoint

from runtime.transport.sockets import DecisionSender, FrameReceiver


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def frames(folder: KeyFolder) -> Iterator[FrameReceiver]:
    with FrameReceiver(free_endpoint(), keys=folder.node) as receiver:
        yield receiver


@pytest.fixture
def decisions(folder: KeyFolder) -> Iterator[DecisionSender]:
    with DecisionSender(free_endpoint(), keys=folder.node) as sender:
        yield sender
