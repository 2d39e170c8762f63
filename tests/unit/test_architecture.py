"""The shape of the code that no linter knows: sizes, names, and that every module says what it is.

Import directions are contracts of import-linter (`make lint`), broad excepts and prints are ruff's.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "p2pfwd").rglob("*.py") if not path.name.endswith("_pb2.py")
)
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_LINES = 200
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


def read(module: Path) -> str:
    """Source of a module."""
    return (ROOT / module).read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_is_small_named_and_explained(module: Path) -> None:
    """At most 500 lines, functions of at most 60, a docstring, a name that says something."""
    source = read(module)
    tree = ast.parse(source)
    assert source.count("\n") <= MAX_FILE_LINES
    assert module.stem not in VAGUE
    assert source == "" or ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Utils")), node.name


@pytest.mark.parametrize("module", [path for path in MODULES if "wire" in path.parts], ids=str)
def test_an_engine_draws_no_randomness(module: Path) -> None:
    """It is given some, so that tests can repeat what happened. (Modules that draw it are lint's.)"""
    drawn = re.findall(r"\.generate\(|generate_private_key|random_serial_number|urandom", read(module))
    assert drawn == []


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_class_pattern_names_its_attributes(module: Path) -> None:
    """Python 3.11 makes the string "__match_args__" anew for each positional match. Its cache of attributes
    keeps thousands of them, each in a page of its own: 5 MB after a flood."""
    matches = [node for node in ast.walk(ast.parse(read(module))) if isinstance(node, ast.MatchClass)]
    assert not any(match.patterns for match in matches)


def test_the_median_module_is_short() -> None:
    """Half of the modules have at most 200 lines."""
    assert statistics.median(read(module).count("\n") for module in MODULES) <= MAX_MEDIAN_LINES


def test_architecture_md_places_every_module() -> None:
    """Who commits a module says on the map where it belongs."""
    listed = subprocess.run(
        ["git", "ls-files", "p2pfwd"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    committed = {Path(line) for line in listed.stdout.splitlines()}  # empty outside a checkout
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[a-z_0-9]+", page)) | {"__init__", "__main__"}
    assert [str(module) for module in MODULES if module in committed and module.stem not in named] == []


def rule(number: int) -> str:
    """One of the rules of ARCHITECTURE.md."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Rules")[2]
    found = re.search(rf"^{number}\. (.*?)^(?:{number + 1}\. |## )", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_architecture_md_names_what_is_an_exception_to_its_rules() -> None:
    """Every lock (rule 2), and every class of more than 400 lines (rule 9)."""
    locks = {str(module.with_suffix("")) for module in MODULES if "asyncio.Lock(" in read(module)}
    assert locks == {f"p2pfwd/{name}" for name in re.findall(r"`([a-z_/]+/[a-z_]+)`", rule(2))}
    classes = [node for module in MODULES for node in ast.walk(ast.parse(read(module)))]
    large = {
        node.name
        for node in classes
        if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= 400
    }
    assert large == set(re.findall(r"`([A-Z][A-Za-z]+)`", rule(9)))


HOT = (
    *("wire/yamux/frame", "wire/yamux/session", "wire/yamux/stream", "wire/yamux/window", "wire/yamux/work"),
    *("wire/noise/cipher", "wire/multistream", "net/channel", "net/conduit/tcp", "net/link/bridge"),
    *("net/link/conn", "net/link/intake", "net/link/outbox", "net/link/stream", "forwarding/splice"),
    *("forwarding/kubo", "forwarding/pacing", "system/buffers", "system/busy_poll", "system/poller"),
)
"""What runs per frame or message: a compiler of typed Python has to be able to take it."""

DYNAMIC = {"setattr", "delattr", "exec", "eval", "globals", "locals", "vars", "__import__"}
HOOKS = {"__getattr__", "__getattribute__", "__setattr__", "__dict__", "__class__"}


@pytest.mark.parametrize("name", HOT)
def test_the_hot_path_is_typed_and_has_no_dynamic_tricks(name: str) -> None:
    text = read(Path("p2pfwd", f"{name}.py"))
    assert "type: ignore" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            assert node.id not in DYNAMIC, f"{name}:{node.lineno}"
        elif isinstance(node, ast.Attribute):
            assert node.attr not in HOOKS, f"{name}:{node.lineno}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.name not in HOOKS, f"{name}:{node.lineno}"
