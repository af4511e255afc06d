"""The live page of one node: a feed that reads the node, its metrics, and the server that shows both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.client import Client
from runtime.view.feed import NodeFeed
from runtime.view.metrics import NodeMetrics
from runtime.view.server import ViewServer
from runtime.view.updates import Commentary, SensorSwitches

TOPICS = ("fused", "health", "statistics")
"""Topics that the client of a page is subscribed to; observations are added while a browser is connected."""


@contextmanager
def open_page(
    client: Client,
    version: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    switches: SensorSwitches | None = None,
    commentary: Commentary | None = None,
) -> Iterator[tuple[ViewServer, NodeFeed]]:
    """Serve the page for the length of a context.

    Args:
        client: of the node, subscribed to :data:`TOPICS`; closed at the end.
        version: of this package, for the metrics.
        host: address to listen on.
        port: 0 takes any free one.
        token: needed to read the page; required for an address beyond this machine.
        switches: kill switches of a demo.
        commentary: of a demo.

    Raises:
        AccessError: an address beyond this machine without a token, or a bad token.
        PageError: the address cannot be listened on.
    """
    metrics = NodeMetrics(client.rig, version)
    feed = NodeFeed(client, watcher=metrics, clock=time.monotonic_ns)
    try:
        server = ViewServer(
            feed, metrics, host=host, port=port, token=token, switches=switches, commentary=commentary
        )
        feed.start()
        with server:
            yield server, feed
    finally:
        feed.close()
