"""The nightly run: every target is in it and has a smoke test, what breaks is kept, its table adds up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz import nightly

FOLDER = Path(__file__).parent


def test_every_target_has_a_smoke_test() -> None:
    tests = "".join(path.read_text() for path in FOLDER.glob("test_*_fuzz.py"))
    named = set(re.findall(r'"(?:fuzz_)?(\w+?)(?:\.py)?"', tests))
    assert set(nightly.TARGETS) <= named


@pytest.mark.parametrize("target", nightly.TARGETS)
def test_what_once_broke_a_target_does_not_any_more(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    one, seeds = nightly.load(target)
    for data in (*seeds, *nightly.kept(target), b""):
        one(data)


def test_every_kept_input_has_its_target() -> None:
    folders = [path.name for path in nightly.KEPT.iterdir()] if nightly.KEPT.exists() else []
    assert set(folders) <= set(nightly.TARGETS)


def test_an_input_that_breaks_a_target_is_kept_once_for_each_way(tmp_path: Path) -> None:
    def one(data: bytes) -> None:
        assert data != b"bad", "broken 17"
        if data == b"worse":
            raise ValueError("at 0x1234")

    tally = nightly.Tally()
    stream = iter([b"good", b"bad", b"bad", b"worse", b"bad"])
    tally.executions += nightly.run_batch(one, stream, "varint", tmp_path, tally)
    assert (tally.executions, len(tally.findings)) == (5, 2)
    kept = {path.read_bytes() for path in (tmp_path / "findings" / "varint").iterdir()}
    assert kept == {b"bad", b"worse"}
    text = nightly.table({"varint": tally})
    assert re.search(r"^\| all \| 5 \| - \| .* \| 2 \|$", text, re.MULTILINE)


def test_a_run_ends_in_time_with_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--minutes", "0.02", "--only", "varint", "--mutate-only", "--corpus", str(tmp_path)]
    assert nightly.main(words) == 0
    assert re.search(r"^\| varint \| [\d,]+ \| - \|.*\| none \|$", capsys.readouterr().out, re.MULTILINE)
