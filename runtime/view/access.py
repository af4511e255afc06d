"""Access to the page: which requests may read it. Pure functions of headers; tokens are compared in constant time.

A page on a loopback address asks for no token. But a web site that is open in a browser of this machine must not read
it through that browser: the Host must be a loopback name (against DNS rebinding), and a WebSocket's Origin must be the
page's own. A page on any other address asks for a token: once in the link, then in a cookie that no script can read.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from configs.errors import AfterimageError
from runtime.transport.endpoints import is_loopback


class AccessError(AfterimageError, ValueError):
    """The page cannot be served with this address or token; the message says what to do."""


def check_token(host: str, token: str | None) -> None:
    """Refuse to serve beyond this machine without a token that cannot be guessed.

    Raises:
        AccessError: an address beyond this machine and no token, or one shorter than 16 characters.
    """
    if token is not None and (
        len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token
    ):
        raise AccessError("--token: expected at least 16 printable ASCII characters without spaces")
    if token is None and not is_loopback(host):
        raise AccessError(f"--host {host}: an address beyond this machine needs a token")


def cookie_name(port: int) -> str:
    """Name of the cookie that holds the token. Browsers send a cookie to every port of a host, so it names the port."""
    return f"afterimage-{port}"


def same_token(given: str, token: str) -> bool:
    """Whether two tokens are equal; takes the same time wherever they differ."""
    return hmac.compare_digest(given.encode(), token.encode())


def may_read(headers: Mapping[str, str], cookies: Mapping[str, str], token: str | None, port: int) -> bool:
    """Whether a request may be answered.

    Args:
        headers: of the request, names in lower case.
        cookies: of the request.
        token: the one that is needed; None on a loopback address, where the Host must be a loopback name instead.
        port: of the page.
    """
    if token is None:
        return is_loopback(_host_of(f"//{headers.get('host', '')}"))
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else cookies.get(cookie_name(port), "")
    return same_token(given, token)


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a WebSocket was opened by the page itself, or by a program, which sends no Origin."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # not a URL: no host
        return ""
