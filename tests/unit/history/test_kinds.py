"""history.kinds: the table is sound, and everything that is recorded is in it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from string import Formatter

import pytest

from p2pfwd.history.kinds import DROPS, KINDS, PROBLEMS, TOPICS, Kind

PACKAGE = Path(__file__).parents[3] / "p2pfwd"
OF_EVERY_EVENT = {"peer", "protocol", "count"}


@cache
def recorded() -> dict[str, set[str]]:
    """What `record` is called with in the package: codes, each with the fields given somewhere."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("record", "_record") or not node.args:
                continue
            names = {keyword.arg for keyword in node.keywords if keyword.arg}
            for text in ast.walk(node.args[0]):
                if isinstance(text, ast.Constant) and text.value in KINDS:
                    found.setdefault(str(text.value), set()).update(names)
    return found


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_the_words_of_a_kind_name_fields_that_are_recorded(kind: Kind) -> None:
    fields = {name for _, name, _, _ in Formatter().parse(kind.words) if name}
    given = recorded().get(kind.code)
    if given is not None:
        assert fields <= given | OF_EVERY_EVENT
    specs = {spec for _, name, spec, _ in Formatter().parse(kind.words) if name}
    assert specs <= {"", "size", "age", "clock"}


def test_the_table_is_sound() -> None:
    assert set(KINDS) >= PROBLEMS | DROPS
    assert not set(TOPICS) & set(KINDS), "a filter means one thing"
    assert all(kind.fold == "always" for kind in KINDS.values() if kind.sums)
    assert {"stream-ended", "daemon-started", "refused", "peer-named"} <= set(recorded()), (
        "the search finds them"
    )
