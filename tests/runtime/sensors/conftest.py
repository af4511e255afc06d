"""What tests of sensors share: the node's end of the line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from runtime.transport.sockets import FrameReceiver


@pytest.fixture
def receiver() -> Iterator[FrameReceiver]:
    """What a node listens with."""
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, FrameReceiver(f"ipc://{folder}/frames") as r:
        yield r
