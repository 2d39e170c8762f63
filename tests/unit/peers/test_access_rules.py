"""The file of access rules: in it before it holds, never half, closed where it is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.errors import InvalidConfig, ResourceLimitExceeded, StorageFailed
from p2pfwd.peers import access_rules as module
from p2pfwd.peers.access_rules import AccessRules, AccessTable, Change
from p2pfwd.policy.access import NO_RULE, Rule
from p2pfwd.policy.blocks import Blocks, parse_network
from p2pfwd.state import json_file
from tests.support.peers import peer

ONE, TWO = peer(1), peer(2)
NETWORK = parse_network("192.0.2.0/24")


def table(home: Path) -> AccessRules:
    """As a daemon that starts has it."""
    made = AccessRules(home / "access.json")
    made.load()
    return made


def ruled(protocol: str, rule: Rule) -> Change:
    return lambda old: replace(old, rules={**old.rules, protocol: rule})


def test_what_was_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    assert NETWORK is not None
    full = AccessTable(
        {
            "/x/a": Rule("listed").allow([ONE]),
            "/x/b": Rule("any").deny([TWO]),
            "/x/c": NO_RULE.allow([TWO]).deny([TWO]),
            "/x/d": Rule("listed", told=frozenset({ONE}), tells_any=True),
        },
        Blocks([ONE], [NETWORK]),
    )
    made: list[AccessTable] = []

    async def main() -> None:
        rules = table(tmp_path)
        await rules.change(lambda _: full, lambda: made.append(table(tmp_path).table))
        assert rules.table is full

    asyncio.run(main())
    (on_disk,) = made  # when it came into force
    assert on_disk.rules == full.rules
    assert (on_disk.blocks.peers, on_disk.blocks.networks) == (full.blocks.peers, full.blocks.networks)
    assert stat.S_IMODE((tmp_path / "access.json").stat().st_mode) == 0o600


def test_what_cannot_be_written_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise StorageFailed("access rules: no space left on device")

    async def main() -> None:
        rules = table(tmp_path)
        await rules.change(ruled("/x/a", NO_RULE.deny([ONE])), lambda: None)
        before = rules.table
        monkeypatch.setattr(json_file, "write_atomically", full_disk)
        applied: list[None] = []
        with pytest.raises(StorageFailed):
            await rules.change(ruled("/x/b", NO_RULE), lambda: applied.append(None))
        assert rules.table is before and not applied

    asyncio.run(main())
    assert list(table(tmp_path).table.rules) == ["/x/a"]


def test_a_change_whose_caller_is_gone_holds_once_it_is_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        rules, applied = table(tmp_path), asyncio.Event()
        task = asyncio.create_task(rules.change(ruled("/x/a", NO_RULE.deny([ONE])), applied.set))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and applied.is_set()
        assert rules.table.rules == table(tmp_path).table.rules != {}

    asyncio.run(main())


def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    async def main() -> None:
        rules = table(tmp_path)
        changes = [rules.change(ruled(f"/x/{n}", NO_RULE.allow([ONE])), lambda: None) for n in range(8)]
        await asyncio.gather(*changes)

    asyncio.run(main())
    assert sorted(table(tmp_path).table.rules) == [f"/x/{n}" for n in range(8)]


GOOD = {"version": 1, "rules": [], "blocked": {"peers": [], "networks": []}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        json.dumps({**GOOD, "version": "2"}),
        json.dumps({**GOOD, "rules": [{}]}),
        json.dumps({**GOOD, "rules": [{"protocol": 7, "at_large": None, "allowed": [], "denied": []}]}),
        json.dumps({**GOOD, "rules": [{"protocol": "/x/a", "at_large": "all", "allowed": [], "denied": []}]}),
        json.dumps(
            {**GOOD, "rules": [{"protocol": "/x/a", "at_large": None, "allowed": "no", "denied": []}]}
        ),
        json.dumps({**GOOD, "blocked": {"peers": ["bogus"], "networks": []}}),
        json.dumps({**GOOD, "blocked": {"peers": [], "networks": ["bogus"]}}),
        json.dumps({**GOOD, "blocked": {"peers": [], "networks": ["192.0.2.1/24"]}}),
        " " * (module.MAX_FILE_BYTES + 1),
    ],
    ids=range(14),
)
def test_a_damaged_file_is_set_aside_and_nothing_opens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "access.json").write_text(text)
    aside = tmp_path / "access.json.damaged"
    with caplog.at_level(logging.ERROR, "p2pfwd.access"):
        rules = table(tmp_path)
    assert (rules.lost, rules.table.rules, aside.read_text()) == (aside, {}, text)
    assert not (tmp_path / "access.json").exists() and str(aside) in caplog.text
    assert table(tmp_path).lost == aside, "until its owner has looked at it"
    (tmp_path / "access.json").write_text(json.dumps(GOOD))
    assert table(tmp_path).lost == aside, "new rules do not make the old ones known"
    aside.unlink()
    assert table(tmp_path).lost is None


def test_what_a_killed_daemon_left_half_written_is_removed(tmp_path: Path) -> None:
    others = (".peers.json.0123.tmp", "access.json.0123.tmp", ".access.json.0123")
    for name in (".access.json.0123456789abcdef.tmp", *others):
        (tmp_path / name).write_text("{")
    assert table(tmp_path).lost is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    text = json.dumps({"version": 2, "something": "else"})
    (tmp_path / "access.json").write_text(text)
    with pytest.raises(InvalidConfig, match="newer version of p2pfwd") as caught:
        table(tmp_path)
    assert caught.value.hint is not None and "move the file away" in caught.value.hint
    assert (tmp_path / "access.json").read_text() == text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "access.json").mkdir()
    with pytest.raises(StorageFailed):
        table(tmp_path)


def test_the_table_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_RULES", "MAX_RULED_PEERS", "MAX_BLOCKS"):
        monkeypatch.setattr(module, name, 2)

    async def refused(change: Change) -> None:
        rules = table(tmp_path)
        with pytest.raises(ResourceLimitExceeded):
            await rules.change(change, lambda: None)
        assert not rules.table.rules and not (tmp_path / "access.json").exists()

    three = [peer(n) for n in range(3)]
    asyncio.run(refused(lambda old: replace(old, rules={str(n): NO_RULE for n in range(3)})))
    asyncio.run(refused(ruled("/x/a", NO_RULE.allow(three))))
    asyncio.run(refused(lambda old: replace(old, blocks=Blocks(three))))


def test_a_right_can_be_taken_away_where_no_more_can_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was allowed is told from then on, which is no second place in the bound."""
    monkeypatch.setattr(module, "MAX_RULED_PEERS", 2)

    async def main() -> None:
        rules = table(tmp_path)
        await rules.change(ruled("/x/a", Rule("listed").allow([ONE, TWO])), lambda: None)
        await rules.change(ruled("/x/a", rules.table.rules["/x/a"].deny([ONE])), lambda: None)
        await rules.change(ruled("/x/a", rules.table.rules["/x/a"].allow([ONE])), lambda: None)
        with pytest.raises(ResourceLimitExceeded):
            await rules.change(ruled("/x/b", NO_RULE.allow([peer(3)])), lambda: None)

    asyncio.run(main())
    assert table(tmp_path).lost is None


def test_a_full_file_is_within_what_is_read() -> None:
    peers = [peer(n) for n in range(module.MAX_RULED_PEERS)]
    names = [f"/x/{'n' * 900}{n}" for n in range(module.MAX_RULES)]
    share = module.MAX_RULED_PEERS // module.MAX_RULES
    shares = {name: peers[n * share : (n + 1) * share] for n, name in enumerate(names)}
    rules = {name: NO_RULE.allow(its, 1.7e9 + 0.123456).tell(its) for name, its in shares.items()}
    data = json.dumps(module._to_json(AccessTable(rules, Blocks(peers[: module.MAX_BLOCKS]))), indent=1)
    assert len(data) < module.MAX_FILE_BYTES


def test_a_right_with_an_end_comes_back_with_it_and_goes_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "p2pfwd.access")
    rule = Rule("listed").allow([ONE], 1000.0).allow([TWO]).let_in("any", 2000.0)

    async def main() -> None:
        rules, applied = table(tmp_path), list[Rule]()
        await rules.change(ruled("/x/a", rule), lambda: None)
        again = table(tmp_path)
        assert again.table.rules == {"/x/a": rule}
        assert again.table.next_end() == 1000.0
        await again.end_due(1500.0, lambda: applied.append(again.table.rules["/x/a"]))
        told = frozenset([ONE])  # who was allowed once
        assert applied == [Rule("any", frozenset([TWO]), ends={None: 2000.0}, told=told)]
        assert table(tmp_path).table.rules == {"/x/a": applied[0]}, "on the disk, too"
        await again.end_due(2000.0, lambda: None)
        assert again.table.rules == {"/x/a": Rule("listed", frozenset([TWO]), told=told)}
        assert again.table.next_end() is None

    asyncio.run(main())
    assert f"what let in {ONE} has ended" in caplog.text


def test_a_right_ends_also_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(*_: object) -> None:
        raise StorageFailed("access rules: no space left on device")

    async def main() -> None:
        rules = table(tmp_path)
        await rules.change(ruled("/x/a", Rule("listed").allow([ONE], 1000.0)), lambda: None)
        monkeypatch.setattr(json_file, "write_atomically", full_disk)
        await rules.end_due(1000.0, lambda: None)
        assert not rules.table.rules["/x/a"].allowed

    asyncio.run(main())
    assert "still written down" in caplog.text
    assert not table(tmp_path).table.ended(1000.0).rules["/x/a"].allowed, "nor is it let in at the next start"


@pytest.mark.parametrize(
    "ends",
    [
        [],
        {"any": 1.0},
        {str(TWO): 1.0},
        {str(ONE): 0},
        {str(ONE): "soon"},
        {str(ONE): True},
        {str(ONE): float("inf")},
        {str(ONE): 1e300},
        {str(ONE): 10**400},
        {"nobody": 1.0},
    ],
)
def test_ends_that_make_no_sense_are_damage(tmp_path: Path, ends: object) -> None:
    entry = {"protocol": "/x/a", "at_large": None, "allowed": [str(ONE)], "denied": [], "ends": ends}
    document = {"version": 1, "rules": [entry], "blocked": {"peers": [], "networks": []}}
    (tmp_path / "access.json").write_text(json.dumps(document))
    assert table(tmp_path).lost is not None
