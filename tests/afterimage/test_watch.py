"""`afterimage watch`: the page by default, the terminal on request, and its exit codes."""

from __future__ import annotations

import json
import re
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator

import pytest
from published_node import PublishedNode
from typer.testing import CliRunner

from afterimage.cli import app, main
from runtime.view import serving


@pytest.fixture
def node() -> Iterator[PublishedNode]:
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, PublishedNode(f"ipc://{folder}/d") as running:
        yield running


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The links that a browser was asked to open."""
    links: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda link: bool(links.append(link)) or True)
    return links


def watch(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["watch", *arguments])
    return result.exit_code, result.output


def test_the_page_is_served_and_its_address_said(
    node: PublishedNode, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":7")
    code, printed = watch("--endpoint", node.endpoint, "--port", "0", "--seconds", "1.5")
    assert code == 0
    link = re.search(r"live page: (http://127\.0\.0\.1:\d+/) ", printed)
    assert link
    assert opened == [link.group(1)]
    watch("--endpoint", node.endpoint, "--port", "0", "--seconds", "0", "--no-browser")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    watch("--endpoint", node.endpoint, "--port", "0", "--seconds", "0")
    assert len(opened) == 1, "no browser where it is not wanted or cannot be seen"


def test_without_a_node_the_exit_code_says_so(opened: list[str]) -> None:
    code, printed = watch("--endpoint", "ipc:///nonexistent/d", "--port", "0", "--seconds", "0.2")
    assert code == 1
    assert "afterimage run" in printed


def test_beyond_this_machine_a_random_token_is_printed_and_no_browser_opened(
    node: PublishedNode, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":7")
    arguments = ("--endpoint", node.endpoint, "--port", "0", "--seconds", "0.5", "--host", "0.0.0.0")
    link = re.compile(rf"http://{re.escape(socket.gethostname())}:\d+/\?token=(\S{{20,}}) ")
    tokens = {tuple(link.findall(watch(*arguments)[1])) for _ in range(2)}
    assert all(len(found) == 1 for found in tokens)
    assert len(tokens) == 2
    assert "?token=my-own-token-of-length " in watch(*arguments, "--token", "my-own-token-of-length")[1]
    assert opened == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--token", "short"), "16 printable"),
        (("--host", "192.0.2.1", "--port", "8765"), "192.0.2.1 port 8765"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["afterimage", "watch", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert named in printed
    assert "Traceback" not in printed


def test_without_the_extra_it_says_what_to_install_and_the_terminal_works_all_the_same(
    node: PublishedNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [m for m in sys.modules if m.startswith(("runtime.view.page", "runtime.view.server"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr("sys.argv", ["afterimage", "watch", "--endpoint", node.endpoint])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "pip install 'afterimage[view]'" in capsys.readouterr().err
    assert watch("--terminal", "--endpoint", node.endpoint, "--seconds", "1")[0] == 0


def test_json_is_one_decision_a_line(node: PublishedNode) -> None:
    code, printed = watch("--json", "--endpoint", node.endpoint, "--seconds", "1.5")
    assert code == 0
    messages = [json.loads(line) for line in printed.splitlines()]
    assert {m["type"] for m in messages} <= {"decision", "healthevent"}
    assert sum(m["type"] == "decision" for m in messages) > 5


def test_the_default_port_gives_way_where_it_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free, serving.DEFAULT_PORT = serving.DEFAULT_PORT, port
        try:
            assert serving._free_port("127.0.0.1") == 0
        finally:
            serving.DEFAULT_PORT = free
