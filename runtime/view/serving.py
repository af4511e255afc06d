"""Serving the live page from a command: its address, its token, and the browser that shows it."""

from __future__ import annotations

import os
import secrets
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from configs.errors import import_extra
from runtime.client import Client
from runtime.transport.endpoints import is_loopback

if TYPE_CHECKING:
    from runtime.view.feed import NodeFeed
    from runtime.view.updates import Commentary, SensorSwitches

DEFAULT_PORT = 8765


@dataclass(frozen=True)
class PageOptions:
    """Where a page is served.

    Attributes:
        host: address to listen on.
        port: to listen on; None takes :data:`DEFAULT_PORT`, or any free one if that is taken.
        token: needed to read the page; None takes a random one if the host needs one.
        browser: whether to open a browser, if there is a display.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    token: str | None = None
    browser: bool = True


def has_display() -> bool:
    """Whether a browser with a window can be opened."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@contextmanager
def serving_page(
    client: Client,
    options: PageOptions,
    say: Callable[[str], None],
    *,
    switches: SensorSwitches | None = None,
    commentary: Commentary | None = None,
) -> Iterator[NodeFeed]:
    """Serve the page of a node, tell the user its address, and open it in a browser if there is a display.

    Args:
        client: of the node, subscribed to ``fused``, ``health`` and ``statistics``; closed at the end.
        options: where.
        say: shows a line to the user.
        switches: kill switches of a demo.
        commentary: of a demo.

    Raises:
        MissingExtraError: the ``view`` extra is not installed.
        AccessError: a token that is too short or has other characters than printable ASCII.
        PageError: the address cannot be listened on.
    """
    try:
        page = import_extra("runtime.view.page", "the live page")
        token = options.token
        if token is None and not is_loopback(options.host):
            token = secrets.token_urlsafe(24)
        port = options.port if options.port is not None else _free_port(options.host)
        opened = page.open_page(
            client,
            version("afterimage"),
            host=options.host,
            port=port,
            token=token,
            switches=switches,
            commentary=commentary,
        )
    except BaseException:
        client.close()
        raise
    with opened as (server, feed):
        link = server.link
        if options.host in ("0.0.0.0", "::"):
            link = link.replace(f"//{options.host}:", f"//{socket.gethostname()}:").replace(
                "//[::]:", f"//{socket.gethostname()}:"
            )
        say(f"live page: {link}")
        # A link with a token is only printed: other users could read it in the command line of a browser.
        if options.browser and token is None and has_display():
            webbrowser.open(link)
        yield feed


def _free_port(host: str) -> int:
    """The default port, or 0 (any free one) if something listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, DEFAULT_PORT))
        except OSError:
            return 0
    return DEFAULT_PORT
