"""Every command that an error, a hint or a text of p2pfwd names is one that can be typed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import p2pfwd
from p2pfwd.cli.tree import root_command

ROOT = Path(p2pfwd.__file__).parent

NAMED = re.compile(r"\bp2pfwd ([a-z]+)(?: ([a-z]+))?")

PROSE = {"can", "from", "in", "that"}
"""Words that follow the name of the program in a sentence about it."""


def texts(source: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a module, but for its docstrings."""
    tree = ast.parse(source.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def test_commands_that_are_named_are_there() -> None:
    root = root_command()
    wrong, seen = [], 0
    for source in sorted(ROOT.rglob("*.py")):
        for line, text in texts(source):
            for found in NAMED.finditer(text):
                first, second = found[1], found[2]
                command = root.get_command(None, first)
                seen += command is not None
                has_commands = hasattr(command, "commands") and not command.params[1:]
                is_wrong = command is None or (has_commands and second not in (None, *command.commands))
                if is_wrong and first not in PROSE:
                    wrong.append(f"{source.relative_to(ROOT)}:{line}: {found[0]}")
    assert wrong == []
    assert seen > 100, "it looks at something"
