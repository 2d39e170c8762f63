"""state.json_file: what is answered is in the file, what fails changes nothing, what is wrong is told."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.errors import InvalidConfig, NotFound, StorageFailed
from p2pfwd.state import json_file
from p2pfwd.state.json_file import JsonFile, on_copy

LOG = logging.getLogger("p2pfwd.test")


def opened(path: Path) -> JsonFile[dict[str, int]]:
    empty: dict[str, int] = {}
    return JsonFile(path, "numbers", empty, encode=lambda table: {"numbers": table}, log=LOG)


def read(path: Path, max_bytes: int = 1000) -> tuple[dict[str, int], Exception | None]:
    file = opened(path)
    why = file.load(lambda document: dict(document["numbers"]), max_bytes=max_bytes, without="none is known")
    return file.table, why


def setting(name: str, number: int) -> Any:
    return on_copy(lambda table: table.update({name: number}))


def test_what_is_answered_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "n.json"
    file = opened(path)

    async def main() -> None:
        await asyncio.gather(*(file.change(setting(str(n), n)) for n in range(5)))

    asyncio.run(main())
    assert read(path) == (file.table, None) and len(file.table) == 5


def test_what_holds_holds_when_it_is_in_the_file_and_what_fails_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, applied = opened(tmp_path / "n.json"), list[int]()

    def full(*_args: object) -> None:
        assert file.table == {}
        raise StorageFailed("the disk is full")

    def refused(_table: dict[str, int]) -> dict[str, int]:
        raise NotFound("there is none")

    async def main() -> None:
        monkeypatch.setattr(json_file, "write_atomically", full)
        with pytest.raises(StorageFailed):
            await file.change(setting("a", 1), lambda: applied.append(1))
        with pytest.raises(NotFound):
            await file.change(refused)
        await file.change(on_copy(lambda _table: None))  # no change is written nowhere
        monkeypatch.undo()
        assert (file.table, applied) == ({}, [])
        monkeypatch.setattr(json_file, "write_atomically", lambda *_args: None)
        await file.change(setting("a", 1), lambda: applied.append(file.table["a"]))

    asyncio.run(main())
    assert applied == [1]


def test_a_change_at_once_holds_whatever_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(tmp_path / "n.json")

    def full(*_args: object) -> None:
        raise StorageFailed("the disk is full")

    async def main() -> None:
        monkeypatch.setattr(json_file, "write_atomically", full)
        with pytest.raises(StorageFailed):
            await file.change_at_once(setting("a", 1), lambda: None)

    asyncio.run(main())
    assert file.table == {"a": 1}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[" * 900, "Expecting value"),
        ("[]", "it is no object"),
        ("{}", "version"),
        ('{"version": 0}', "it is not of the form 1"),
        ('{"version": 1}', "numbers"),
        ('{"version": 1, "numbers": {"a": NaN}}', "NaN is no number"),
        ('{"version": 1, "numbers": {"a": -Infinity}}', "-Infinity is no number"),
        ('{"version": 1, "numbers": {"a": 1e999}}', "1e999 is no number"),
        (json.dumps({"version": 1, "numbers": {}, "more": "x" * 2000}), "it is longer than 1000 bytes"),
    ],
)
def test_what_cannot_be_understood_is_told_and_can_be_set_aside(
    tmp_path: Path, text: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "n.json"
    path.write_text(text)
    table, error = read(path)
    assert table == {} and error is not None and why in str(error)
    assert opened(path).set_aside(error).read_text() == text and not path.exists()
    assert "the file was moved to" in caplog.text


def test_one_of_a_newer_version_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "n.json"
    path.write_text('{"version": 2, "something": "else"}')
    with pytest.raises(InvalidConfig, match="of a newer version of p2pfwd") as caught:
        read(path)
    assert caught.value.hint == "use that version; or move the file away: then none is known"
    assert path.exists()
