"""The page's server over real sockets: what it answers, to whom, and what a browser that never reads costs."""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from published_node import PublishedNode, Switches, wait_until

pytest.importorskip("websockets", reason="of the `view` extra, which is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from runtime.view import browser as browser_module
from runtime.view.access import AccessError
from runtime.view.browser import IN_FLIGHT

Serve = Callable[..., Any]
TOKEN = "a-token-that-nobody-guesses"


def get(url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of an answer; redirects are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.headers.items()}
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode(), {k.lower(): v for k, v in e.headers.items()}


def read(socket: ClientConnection) -> dict[str, Any]:
    message = socket.recv(timeout=10)
    assert isinstance(message, bytes)
    socket.send("taken")
    (length,) = struct.unpack("<I", message[:4])
    body: dict[str, Any] = json.loads(message[4 : 4 + length])
    return body


def read_on(socket: ClientConnection) -> None:
    """Read until the connection ends."""
    while True:
        read(socket)


def live(server: Any, **options: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}/live", **options)


def test_the_page_is_whole_asks_nobody_else_and_forbids_it(node: PublishedNode, serve: Serve) -> None:
    server, _ = serve(node.endpoint)
    status, page, headers = get(server.url)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    referred = re.findall(r'(?:href|src)="([^"#]+)"', page)
    assert set(referred) == {"icon.svg", "page.css", "page.js"}
    for name in (*referred, "charts.js", "panes.js"):
        status, text, headers = get(server.url + name)
        assert status == 200
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace("https:", "", 1), name
        assert headers["content-security-policy"]
    assert get(server.url + "../server.py")[0] == 404
    assert get(server.url + "page.html")[0] == 404


def test_health_metrics_and_log_follow_the_node(
    node: PublishedNode, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server, feed = serve(node.endpoint)
    wait_until(lambda: get(server.url + "health")[0] == 200, "a decision")
    node.missing.add("depth")
    wait_until(
        lambda: json.loads(get(server.url + "health")[1])["imputed"] == ["depth"], "depth to be missing"
    )
    status, text, headers = get(server.url + "metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert "afterimage_node_up 1.0" in text
    wait_until(lambda: feed.snapshot().rates_hz, "two statistics")
    assert 'afterimage_sensor_state{modality="depth",state="missing"} 1.0' in get(server.url + "metrics")[1]
    node.speaking = False
    wait_until(lambda: get(server.url + "health")[0] == 503, "the node to count as stopped")
    assert "afterimage_node_up 0.0" in get(server.url + "metrics")[1]
    expected = ["the node of rig commands-4 is deciding", "the node of rig commands-4 is silent"]

    def logged() -> list[str]:
        """What the feed's thread logged about the node; the server logs its address at any time between."""
        lines = (r.getMessage() for r in caplog.records if r.name == "afterimage.view")
        return [line for line in lines if line.startswith("the node")]

    wait_until(lambda: logged() == expected, f"the log to say {expected}")


def test_without_a_node_the_page_says_so(silent_endpoint: str, serve: Serve) -> None:
    server, feed = serve(silent_endpoint)
    status, text, _ = get(server.url + "health")
    assert (status, json.loads(text)["node"]) == (503, "absent")
    with live(server) as browser:
        assert read(browser)["status"] == "absent"
    assert feed.decisions == 0


def test_the_node_decodes_only_while_a_browser_looks(node: PublishedNode, serve: Serve) -> None:
    server, feed = serve(node.endpoint)
    wait_until(lambda: feed.decisions > 5, "decisions")
    assert node.observed == 0
    with live(server) as browser:
        panes = set()
        while len(panes) < 8:
            panes |= {(p["stream"], p["modality"]) for p in read(browser)["panes"]}
        assert feed.watching == 1
    wait_until(lambda: feed.watching == 0, "the browser to be gone")
    time.sleep(0.5)
    seen, ticks = node.observed, node.ticks
    wait_until(lambda: node.ticks > ticks + 10, "more ticks")
    assert node.observed == seen
    assert not feed.snapshot().observations


def test_a_switch_is_passed_on_and_nonsense_ends_the_connection(node: PublishedNode, serve: Serve) -> None:
    server, _ = serve(node.endpoint, switches=Switches(node))
    with live(server) as browser:
        assert read(browser)["switches"]["depth"] == "playing"
        browser.send('{"drop": "depth"}')
        while not (body := read(browser)).get("sensors", {}).get("depth", {}).get("imputed"):
            pass
        assert body["switches"]["depth"] == "dropped"
        browser.send('{"restore": "depth"}')
        while read(browser)["sensors"]["depth"]["imputed"]:
            pass
    for nonsense in (
        "",
        "[]",
        '{"drop": "lidar"}',
        '{"explode": "rgb"}',
        '{"drop": ["rgb"]}',
        "x" * 2000,
        b"\x00",
    ):
        with live(server) as browser:
            browser.send(nonsense)
            with pytest.raises(ConnectionClosed):
                read_on(browser)
    assert not node.missing


def test_a_browser_that_never_reads_gets_two_messages_and_costs_nobody_anything(
    node: PublishedNode, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(browser_module, "TAKING_TIMEOUT_S", 1.0)
    server, feed = serve(node.endpoint)
    with socket.create_connection(("127.0.0.1", server.port)) as stalled, live(server) as browser:
        stalled.sendall(
            f"GET /live HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        wait_until(lambda: feed.watching == 2, "both browsers")
        ticks, updates = node.ticks, 0
        while feed.watching == 2:
            read(browser)
            updates += 1
        assert updates > 5, "the other browser goes on"
        assert node.ticks > ticks + 20, "so does the node"
        read(browser)
        assert feed.watching == 1
        owed = b""
        stalled.settimeout(10)
        while part := stalled.recv(65536):
            owed += part
    head, _, frames = owed.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101")
    assert len(binary_frames(frames)) == IN_FLIGHT
    assert any("took no message for 1 s" in r.getMessage() for r in caplog.records)


def binary_frames(data: bytes) -> list[int]:
    """Sizes of the unmasked binary WebSocket frames in some bytes."""
    sizes, at = [], 0
    while at + 2 <= len(data):
        size, head = data[at + 1], 2
        if size == 126:
            size, head = struct.unpack(">H", data[at + 2 : at + 4])[0], 4
        elif size == 127:
            size, head = struct.unpack(">Q", data[at + 2 : at + 10])[0], 10
        if data[at] & 0x0F == 2:
            sizes.append(size)
        at += head + size
    assert at == len(data)
    return sizes


def test_a_slow_browser_misses_pictures_but_no_tick(node: PublishedNode, serve: Serve) -> None:
    server, feed = serve(node.endpoint)
    wait_until(lambda: feed.decisions > 3, "decisions")
    with live(server) as browser:
        times = [p[0] for p in read(browser)["points"]]
        for _ in range(5):
            time.sleep(0.3)
            times += [p[0] for p in read(browser)["points"]]
    history = [round(p.at_ns / 1e9, 3) for p in feed.snapshot().points]
    begin = history.index(times[0])
    assert len(times) > 10
    assert times == history[begin : begin + len(times)]


@pytest.mark.parametrize("path", ["", "page.js", "metrics", "health"])
def test_beyond_this_machine_nothing_is_read_without_the_token(
    path: str,
    node: PublishedNode,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server, _ = serve(node.endpoint, host="0.0.0.0", token=TOKEN)
    url = f"http://127.0.0.1:{server.port}/{path}"
    assert server.link.endswith(f"/?token={TOKEN}")
    assert TOKEN not in server.url
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"afterimage-{server.port}=wrong"}):
        assert get(url, **headers)[0] == 403
    assert get(url, Authorization=f"Bearer {TOKEN}")[0] in (200, 503)
    assert get(url + "?token=wrong-token-of-some-length")[0] == 403
    status, _, headers = get(url + f"?token={TOKEN}")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert get(url, Cookie=cookie.partition(";")[0])[0] in (200, 503)
    with pytest.raises(InvalidStatus, match="403"), live(server):
        pass
    with live(server, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as browser:
        assert read(browser)["status"] in ("live", "absent")
    printed = capsys.readouterr()
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets.client")]
    assert TOKEN not in "".join(ours) + printed.out + printed.err


def test_beyond_this_machine_there_is_no_page_without_a_token(silent_endpoint: str, serve: Serve) -> None:
    with pytest.raises(AccessError, match="needs a token"):
        serve(silent_endpoint, host="0.0.0.0")


def test_other_sites_reach_neither_page_nor_socket_and_are_logged(
    node: PublishedNode, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = serve(node.endpoint)
    assert get(server.url, Host="rebound.example.com")[0] == 403
    assert get(server.url, Host=f"localhost:{server.port}")[0] == 200
    with pytest.raises(InvalidStatus, match="403"), live(server, origin="https://example.com"):
        pass
    with live(server, origin=f"http://127.0.0.1:{server.port}"):
        pass
    refusals = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(refusals) == 2
    assert "127.0.0.1 was refused: its Host 'rebound.example.com' is no loopback name" in refusals


def test_a_port_that_is_taken_is_named(node: PublishedNode, serve: Serve) -> None:
    from runtime.client import Client
    from runtime.view.page import open_page
    from runtime.view.server import PageError

    server, _ = serve(node.endpoint)
    client = Client("commands-4", endpoint=node.endpoint)
    with (
        pytest.raises(PageError, match=rf"port {server.port}.*--port"),
        open_page(client, "1", port=server.port),
    ):
        pass


def test_browsers_beyond_the_limit_are_turned_away(
    node: PublishedNode, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.view import server as server_module

    monkeypatch.setattr(server_module, "MOST_BROWSERS", 1)
    server, _ = serve(node.endpoint)
    with live(server) as first:
        read(first)
        with pytest.raises(InvalidStatus, match="403"), live(server):
            pass
        assert read(first)["status"] in ("live", "absent")
