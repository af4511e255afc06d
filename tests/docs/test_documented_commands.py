"""Every command, path, link, name and example in README.md and docs exists, and fits the program as it is."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from documentation import (
    PAGES,
    REPOSITORY,
    Block,
    Command,
    blocks,
    commands,
    links,
    spans,
)
from typer.main import get_command

from afterimage.cli import app
from configs.reading import shipped
from runtime.rig import SensorSpec, load_rig
from runtime.sessions.markers import load_marker_map
from runtime.signals.faults import load_schedule
from runtime.transport.allow_list import AllowList

UsageError: Any = typer.BadParameter.__base__
PACKAGES = ("afterimage", "benchmarks", "configs", "docs", "engines", "runtime", "tests", "trainers")
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

AFTERIMAGE = get_command(app)
COMMANDS = [c for page in PAGES for c in commands(page, frozenset(AFTERIMAGE.commands))]  # type: ignore[attr-defined]
SPANS = [s for page in PAGES for s in spans(page)]
BLOCKS = [b for page in PAGES for b in blocks(page)]


def of(program: str) -> list[Command]:
    return [c for c in COMMANDS if c.words[0] == program]


def parse(root: Any, name: str, words: Sequence[str], *, whole: bool) -> dict[str, Any]:
    """Parse a command line as the program does, but run nothing.

    Args:
        root: the program's command.
        name: of the program.
        words: what follows it.
        whole: whether an argument may not be missing.

    Returns:
        The values of the parameters, and under ``command`` the path of the command, such as ``afterimage keys new``.

    Raises:
        UsageError: no such subcommand or option, or a value or number of arguments that does not fit.
    """
    words = [w for w in words if w != "--help"]
    if not words:
        return {"command": name}
    context = root.make_context(name, words)
    while hasattr(context.command, "commands"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return {"command": context.command_path}
        below, command, rest = context.command.resolve_command(context, rest)
        if hasattr(command, "commands") and not rest:
            return {"command": f"{context.command_path} {below}"}
        context = _context(command, below, rest, context, whole=whole)
    return {"command": context.command_path, **context.params}


def _context(command: Any, name: str, words: Sequence[str], parent: Any, *, whole: bool) -> Any:
    """A subcommand's context; the files that its arguments name are made, since a page cannot bring them."""
    while True:
        try:
            return command.make_context(name, list(words), parent=parent)
        except UsageError as e:
            absent = re.search(r"(\S+) '([^']+)' does not exist", e.message)
            incomplete = "Missing" in type(e).__name__ or "requires an argument" in e.message
            if absent is None and incomplete and not whole:
                return type(parent)(command, parent=parent, info_name=name)
            if absent is None:
                raise
            path = Path(absent.group(2))
            if path.is_absolute():
                raise
            path.parent.mkdir(parents=True, exist_ok=True)
            if "dir" in absent.group(1).lower():
                path.mkdir()
            else:
                path.touch()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, where files that commands name can be made."""
    monkeypatch.chdir(tmp_path)


def test_the_pages_are_read() -> None:
    """The floor of what the tests below look at, so that a change to the reading of pages cannot empty them."""
    assert len(of("afterimage")) > 80
    assert {c.words[1] for c in of("afterimage") if c.whole} >= {
        "demo",
        "train",
        "run",
        "sense",
        "keys",
        "bridge",
    }
    assert any(c.words[1:] == ("demo",) for c in of("make"))
    assert any(c.words[1:3] == ("-m", "benchmarks") for c in of("python"))
    assert len(SPANS) > 500


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", of("afterimage"), ids=str)
def test_every_afterimage_command_is_understood(command: Command) -> None:
    try:
        values = parse(AFTERIMAGE, "afterimage", command.words[1:], whole=command.whole)
    except UsageError as e:
        raise AssertionError(f"{command}: {e.format_message()}") from None
    _check_names(values, command)


def _check_names(values: dict[str, Any], command: Command) -> None:
    """What a command names that the package ships: rigs, targets, models, protocols, sensors, endpoints."""
    for key, kind in (("rig", "rigs"), ("target", "targets"), ("system", "models")):
        given = values.get(key)
        if values["command"].endswith("retrieve"):
            continue
        for name in given if isinstance(given, list | tuple) else [given] if given else []:
            assert str(name).endswith(".yaml") or name in shipped(kind), f"{command}: no {kind[:-1]} {name!r}"
    if values["command"].endswith(" paper") and "name" in values:
        from afterimage.cli.paper import PROTOCOL_NAMES

        assert values["name"] in (*PROTOCOL_NAMES, "NAME"), command
    names = load_rig("commands-4").modality_names
    if values["command"].endswith("retrieve") and "source" in values:
        assert {values["source"], values["target"]} <= set(names), command


@pytest.mark.usefixtures("elsewhere")
def test_every_example_of_a_commands_help_is_understood() -> None:
    found = []
    for path, command in _leaves(AFTERIMAGE, ("afterimage",)):
        lines = re.sub(r"\\\n\s+", "", command.help or "").splitlines()
        examples = [line.split() for line in lines if line.startswith("  afterimage ")]
        assert "\\" not in (command.help or "").replace("\\\n", ""), f"{path}: its help shows a backslash"
        for words in examples:
            words = words[: words.index(">")] if ">" in words else words
            try:
                parse(AFTERIMAGE, "afterimage", words[1:], whole=True)
            except UsageError as e:
                raise AssertionError(f"{' '.join(path)} --help: {words}: {e.format_message()}") from None
        found += examples
    assert len(found) > 40


def _leaves(command: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [leaf for name, below in command.commands.items() for leaf in _leaves(below, (*path, name))]


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("command", of("python"), ids=str)
def test_every_python_command_names_a_module_that_takes_it(command: Command) -> None:
    flag, module, *words = command.words[1:]
    assert flag == "-m", f"{command}: scripts are run as modules"
    assert find_spec(module) is not None, f"{command}: no module {module!r}"
    if module == "benchmarks":
        from benchmarks.__main__ import app as benchmarks

        try:
            parse(get_command(benchmarks), "benchmarks", words, whole=command.whole)
        except UsageError as e:
            raise AssertionError(f"{command}: {e.format_message()}") from None
    else:
        assert module in ("pip", "pytest", "venv", "afterimage"), command


@pytest.mark.parametrize("command", of("make"), ids=str)
def test_every_make_target_exists(command: Command) -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert set(command.words[1:]) <= set(targets), command


@pytest.mark.parametrize("command", of("pytest"), ids=str)
def test_every_pytest_command_names_tests_and_markers(command: Command) -> None:
    markers = [m.split(":")[0] for m in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    words = list(command.words[1:])
    for flag in ("-m", "-k"):
        if flag in words:
            at = words.index(flag)
            value = words[at + 1]
            assert flag != "-m" or value in markers, f"{command}: no marker {value!r}"
            del words[at : at + 2]
    for word in words:
        if not word.startswith("-"):
            path, _, name = word.partition("::")
            assert (REPOSITORY / path).exists(), f"{command}: no {path}"
            assert not name or f"def {name}(" in (REPOSITORY / path).read_text(), f"{command}: no test {name}"


@pytest.mark.parametrize("command", of("pip"), ids=str)
def test_every_extra_exists(command: Command) -> None:
    extras = {e for e in re.findall(r"\[([^\]]+)\]", " ".join(command.words)) for e in e.split(",")}
    assert extras <= set(PYPROJECT["project"]["optional-dependencies"]), command
    assert any(w.startswith((".", "afterimage")) for w in command.words), command


@pytest.mark.parametrize("command", [*of("cd"), *of("node")], ids=str)
def test_every_folder_and_script_exists(command: Command) -> None:
    folder = command.page.parent if command.words[0] == "node" else REPOSITORY
    assert (folder / command.words[1]).exists(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+://", link.text):
            continue
        path, _, anchor = link.text.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in _anchors(target), f"{link}: no such heading; there are {_anchors(target)}"


def _anchors(page: Path) -> list[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]


def test_every_page_is_in_the_index() -> None:
    index = REPOSITORY / "docs" / "README.md"
    linked = [(index.parent / s.text.partition("#")[0]).resolve() for s in links(index)]
    for page in (REPOSITORY / "docs").rglob("*.md"):
        assert page == index or linked.count(page) == 1, f"{page} is {linked.count(page)} times in {index}"
    assert index in [(REPOSITORY / s.text).resolve() for s in links(REPOSITORY / "README.md")]


def test_every_path_in_inline_code_exists() -> None:
    found = [s for s in SPANS if re.fullmatch(rf"({'|'.join(PACKAGES)})/[\w./*-]*", s.text)]
    found += [s for s in SPANS if re.fullmatch(r"[\w.-]+/[\w./-]+\.(py|md|mjs|yaml)", s.text)]
    assert len(found) > 40
    absent = [s for s in found if not any(any(f.glob(s.text)) for f in (REPOSITORY, s.page.parent))]
    assert not absent, "no such paths:\n" + "\n".join(map(str, absent))


def test_every_python_name_in_inline_code_exists() -> None:
    found = [s for s in SPANS if re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+(\(\))?(?<!\.mjs)", s.text)]
    assert len(found) > 10
    quoted = _quoted()
    absent = [
        s
        for s in found
        if s.text.removesuffix("()") not in quoted and not _resolves(s.text.removesuffix("()"))
    ]
    assert not absent, "no such names:\n" + "\n".join(map(str, absent))


def _quoted() -> set[str]:
    """Every string in quotation marks of the product: names of loggers, of entry points, of variables."""
    folders = [REPOSITORY / name for name in ("afterimage", "engines", "runtime")]
    sources = [path.read_text() for folder in folders for path in folder.rglob("*.py")]
    return {string for source in sources for string in re.findall(r'"([\w.]+)"', source)}


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_test_in_inline_code_exists() -> None:
    names = set(
        re.findall(r"def (test_\w+)\(", "\n".join(p.read_text() for p in REPOSITORY.glob("tests/**/*.py")))
    )
    found = [s for s in SPANS if re.fullmatch(r"test_\w+(\.\.\.)?", s.text)]
    assert len(found) > 10
    for span in found:
        name = span.text.removesuffix("...")
        assert any(n == name or (n.startswith(name) and span.text.endswith("...")) for n in names), span


def test_every_environment_variable_of_ours_exists() -> None:
    found = [(name, span) for span in SPANS for name in re.findall(r"AFTERIMAGE_[A-Z_]+", span.text)]
    assert found
    quoted = _quoted()
    for name, span in found:
        assert name in quoted, f"{span}: nothing reads {name}"


def of_language(*languages: str) -> list[Block]:
    return [b for b in BLOCKS if b.language in languages]


def test_no_block_is_of_an_unknown_language() -> None:
    assert {b.language for b in BLOCKS} <= {"", "sh", "python", "yaml", "toml", "js"}


@pytest.mark.parametrize("block", of_language("python"), ids=str)
def test_every_python_example_compiles_and_its_imports_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, str(block))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert find_spec(alias.name) is not None, f"{block}: no module {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block}: no {alias.name} in {node.module}"


@pytest.mark.parametrize("block", of_language("yaml"), ids=str)
def test_every_yaml_example_is_read_by_what_it_is_for(block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.text)
    path = tmp_path / "example.yaml"
    path.write_text(block.text)
    if isinstance(content, list):
        for sensor in content:
            SensorSpec.model_validate(sensor)
    elif "sensors" in content:
        load_rig(path)
    elif "faults" in content:
        load_schedule(path).check(load_rig("commands-4"))
    elif "markers" in content:
        load_marker_map(path)
    elif "keys" in content:
        AllowList.model_validate(content)
    else:
        assert "scrape_configs" in content, f"{block}: an example of what?"


@pytest.mark.parametrize("block", of_language("toml"), ids=str)
def test_every_toml_example_names_the_entry_points(block: Block) -> None:
    groups = tomllib.loads(block.text)["project"]["entry-points"].keys()
    assert groups
    assert groups <= _quoted()


def test_the_readme_lists_every_system() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert set(shipped("models")) <= named


def test_commands_are_found_in_every_form_that_pages_have(tmp_path: Path) -> None:
    text = """Prose, `afterimage watch
--terminal`, `run --record` and ``make demo``.

    $ .venv/bin/afterimage train svae \\
        --out DIR   # a comment
    cd docs && venv/bin/pip install .

```sh
make test
```

```yaml
make: none
```
"""
    (tmp_path / "page.md").write_text(text)
    found = [(c.line, c.words, c.whole) for c in commands(tmp_path / "page.md", frozenset({"run"}))]
    assert found == [
        (4, ("afterimage", "train", "svae", "--out", "DIR"), True),
        (6, ("cd", "docs"), True),
        (6, ("pip", "install", "."), True),
        (9, ("make", "test"), True),
        (1, ("afterimage", "watch", "--terminal"), False),
        (2, ("afterimage", "run", "--record"), False),
        (2, ("make", "demo"), False),
    ]
