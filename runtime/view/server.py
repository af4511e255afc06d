"""The web server of the live page: one page, one WebSocket, ``/metrics`` and ``/health``. Needs the ``view`` extra."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from configs.errors import AfterimageError
from runtime.logs import throttled
from runtime.view.access import check_token, cookie_name, may_read, same_origin, same_token
from runtime.view.browser import TAKING_TIMEOUT_S, Browser
from runtime.view.feed import NodeFeed
from runtime.view.metrics import NodeMetrics
from runtime.view.panes import PaneMaker
from runtime.view.updates import Commentary, SensorSwitches, UpdateMaker

MOST_BROWSERS = 16
_MOST_CONNECTIONS = 64
_LONGEST_REQUEST = 1024
_LOG = logging.getLogger("afterimage.view")

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/panes.js": ("panes.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class PageError(AfterimageError):
    """The page cannot be served; the message names the address and says what to do."""


class ViewServer:
    """Serves the page of one node from a thread of its own, until closed.

    Attributes:
        url: of the page, without the token.
        link: of the page, with the token where one is needed: a person opens it, and no log may hold it.
    """

    def __init__(
        self,
        feed: NodeFeed,
        metrics: NodeMetrics,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
        switches: SensorSwitches | None = None,
        commentary: Commentary | None = None,
    ) -> None:
        """Listen; requests are answered once :meth:`start` is called.

        Args:
            feed: of the node; started and closed by the caller.
            metrics: fed by the feed.
            host: address to listen on.
            port: 0 takes any free one.
            token: needed to read the page; required for an address beyond this machine.
            switches: kill switches of a demo.
            commentary: of a demo.

        Raises:
            AccessError: an address beyond this machine without a token, or a bad token.
            PageError: the address cannot be listened on.
        """
        check_token(host, token)
        self._feed = feed
        self._metrics = metrics
        self._token = token
        self._switches = switches
        self._commentary = commentary
        self._panes = PaneMaker({s.modality: s.kind for s in feed.rig.sensors})
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/"
        self.link = self.url if token is None else f"{self.url}?token={token}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                _Guarded(self._application(), self._token, self.port),
                log_config=None,
                log_level="critical",  # lines of the web server can hold links, and links hold the token
                access_log=False,
                lifespan="off",
                server_header=False,
                ws="websockets-sansio",
                ws_max_size=_LONGEST_REQUEST,
                ws_per_message_deflate=False,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="afterimage-view-server", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        _LOG.info("the page of rig %s is served on %s", self._feed.rig.name, self.url)

    def close(self) -> None:
        """Stop answering; may be called again."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> ViewServer:
        """Start, and give the server itself."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop answering."""
        self.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])

    def _application(self) -> Starlette:
        files = {path: _read(name) for path, (name, _) in _FILES.items()}

        async def serve_file(request: Request) -> Response:
            path = request.url.path
            return Response(files[path], media_type=_FILES[path][1])

        return Starlette(
            routes=[
                *(Route(path, serve_file) for path in _FILES),
                Route("/metrics", self._serve_metrics),
                Route("/health", self._serve_health),
                WebSocketRoute("/live", self._serve_browser),
            ]
        )

    async def _serve_metrics(self, request: Request) -> Response:
        text, content_type = self._metrics.text(
            self._feed.snapshot(), time.monotonic_ns(), self._feed.watching, request.headers.get("accept", "")
        )
        return Response(text, headers={"content-type": content_type})

    async def _serve_health(self, request: Request) -> Response:
        snapshot = self._feed.snapshot()
        decision = snapshot.decision
        answer: dict[str, Any] = {
            "node": snapshot.status,
            "rig": self._feed.rig.name,
            "seconds_since_decision": snapshot.silent_s,
        }
        if decision is not None:
            answer |= {
                "bundle": decision.bundle,
                "tick": decision.tick,
                "sensors": {m: r.state for m, r in decision.modalities.items()},
                "imputed": [m for m, r in decision.modalities.items() if r.imputed],
            }
        return JSONResponse(answer, 200 if snapshot.status == "live" else 503)

    async def _serve_browser(self, websocket: WebSocket) -> None:
        if self._feed.watching >= MOST_BROWSERS:
            _log_refusal(websocket, f"{MOST_BROWSERS} browsers are connected already")
            await websocket.close(1013)
            return
        await websocket.accept()
        updates = UpdateMaker(self._feed.rig, self._panes, self._switches, self._commentary)
        await Browser(websocket, self._feed, updates, self._switches).serve()


class _Guarded:
    """Answers only requests that may read the page, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, token: str | None, port: int) -> None:
        self._app = app
        self._token = token
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        connection = HTTPConnection(scope)
        answer: ASGIApp = self._app
        given = connection.query_params.get("token")
        if self._token is not None and given is not None and scope["type"] == "http":
            answer = self._exchange_token(given, connection)
        elif not may_read(connection.headers, connection.cookies, self._token, self._port):
            answer = self._refuse(connection)
        elif scope["type"] == "websocket" and not same_origin(connection.headers):
            _log_refusal(connection, "its WebSocket was opened by another site's page")
            answer = PlainTextResponse("this WebSocket is for the page itself\n", 403)
        await answer(scope, receive, _with_headers(send))

    def _exchange_token(self, given: str, connection: HTTPConnection) -> Response:
        """Exchange the token in the link for a cookie, so that no browser history and no referrer keeps it."""
        assert self._token is not None
        if not same_token(given, self._token):
            return self._refuse(connection)
        response = RedirectResponse("/", 303)
        response.set_cookie(cookie_name(self._port), self._token, httponly=True, samesite="strict")
        return response

    def _refuse(self, connection: HTTPConnection) -> Response:
        if self._token is None:
            _log_refusal(
                connection, f"its Host {connection.headers.get('host', '')[:80]!r} is no loopback name"
            )
            return PlainTextResponse(
                "this page answers to loopback names only (127.0.0.1, localhost, [::1])\n", 403
            )
        _log_refusal(connection, "it gave no token or a wrong one")
        return PlainTextResponse("open the link that `afterimage watch` printed: it holds the token\n", 403)


def _log_refusal(connection: HTTPConnection, why: str) -> None:
    peer = connection.client.host if connection.client is not None else "an unknown address"
    _LOG.warning("%s was refused: %s", peer, why, extra=throttled(f"refused {peer}", peer=peer))


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    async def send_with_headers(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            known = {name.lower() for name, _ in message.get("headers", [])}
            extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in known]
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return send_with_headers


def _read(name: str) -> bytes:
    return (resources.files("runtime.view") / "static" / name).read_bytes()


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections end when a peer reads nothing for too long.

    Raises:
        PageError: the address is taken, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit this: one whose peer never reads ends, and what was waiting for it is dropped.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(2000 * TAKING_TIMEOUT_S))
        listening.bind((host.strip("[]"), port))
        listening.listen(128)
    except (OSError, OverflowError) as e:
        listening.close()
        raise PageError(
            f"the page cannot be served on {host} port {port}: {e}; give another --port or --host"
        ) from e
    return listening
