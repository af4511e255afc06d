"""Who may read the page."""

from __future__ import annotations

import pytest

from runtime.transport.endpoints import is_loopback
from runtime.view.access import AccessError, check_token, may_read, same_origin

TOKEN = "a-token-that-nobody-guesses"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_what_stays_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    if loopback:
        check_token(host, None)
    else:
        with pytest.raises(AccessError, match="needs a token"):
            check_token(host, None)
    check_token(host, TOKEN)


@pytest.mark.parametrize(
    "token", ["", "short", "sixteen chars and a space", "ü" * 20, "line\nbreak-of-20-chars"]
)
def test_a_token_that_can_be_guessed_or_does_not_fit_a_header_is_refused(token: str) -> None:
    with pytest.raises(AccessError, match="16 printable ASCII"):
        check_token("127.0.0.1", token)


@pytest.mark.parametrize(
    ("headers", "cookies", "may"),
    [
        ({"host": "192.0.2.1:80"}, {}, False),
        ({"authorization": f"Bearer {TOKEN}"}, {}, True),
        ({"authorization": f"bearer {TOKEN}"}, {}, True),
        ({"authorization": f"Bearer {TOKEN}x"}, {}, False),
        ({"authorization": f"Basic {TOKEN}"}, {}, False),
        ({"authorization": "Bearer"}, {"afterimage-8765": TOKEN}, False),
        ({}, {"afterimage-8765": TOKEN}, True),
        ({}, {"afterimage-8766": TOKEN}, False),
        ({}, {"afterimage-8765": ""}, False),
        ({"authorization": "Bearer \u00fc"}, {}, False),
    ],
)
def test_with_a_token_only_those_read_who_have_it(
    headers: dict[str, str], cookies: dict[str, str], may: bool
) -> None:
    assert may_read(headers, cookies, TOKEN, 8765) == may


@pytest.mark.parametrize(
    ("host", "may"),
    [
        ("127.0.0.1:8765", True),
        ("localhost:8765", True),
        ("[::1]:8765", True),
        ("rebound.example.com:8765", False),
        ("", False),
        ("[", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_without_a_token_the_host_must_be_this_machine(host: str, may: bool) -> None:
    assert may_read({"host": host}, {}, None, 8765) == may


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        (None, True),
        ("http://127.0.0.1:8765", True),
        ("http://127.0.0.1:9999", False),
        ("https://example.com", False),
        ("null", False),
    ],
)
def test_a_websocket_of_another_site_is_told_apart(origin: str | None, same: bool) -> None:
    headers = {"host": "127.0.0.1:8765"} | ({"origin": origin} if origin is not None else {})
    assert same_origin(headers) == same
