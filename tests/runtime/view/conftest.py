"""A published node, and a page that reads it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from published_node import PublishedNode

from runtime.client import Client
from runtime.rig import load_rig


@pytest.fixture
def node() -> Iterator[PublishedNode]:
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, PublishedNode(f"ipc://{folder}/d") as running:
        yield running


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ai-") as folder:
        yield f"ipc://{Path(folder)}/d"


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """``serve(endpoint, **options)`` gives a server and its feed, closed with the test."""
    pytest.importorskip(
        "uvicorn", reason="the page is served by uvicorn, of the `view` extra, which is not installed"
    )
    from runtime.view.page import TOPICS, open_page

    with ExitStack() as stack:

        def start(endpoint: str, topics: Sequence[str] = TOPICS, **options: Any) -> Any:
            client = Client(load_rig("commands-4"), topics, endpoint=endpoint)
            return stack.enter_context(open_page(client, "0.0-test", port=0, **options))

        yield start
