"""daemon.named_peers: what can be a name, one name for one peer, and a file that is never half."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import (
    InvalidConfig,
    NotFound,
    PeerExists,
    ResourceLimitExceeded,
    StorageFailed,
    UsageError,
)
from p2pfwd.peers import named as module
from p2pfwd.peers.named import MAX_NAME_CHARS, NamedPeer, NamedPeers, is_name, read_name

ONE = PeerId.parse("12D3KooWR4KPFhaHT7S5cNqip4Tc5SX8sBge946crSC2bqCucLPg")
TWO = PeerId.parse("12D3KooWS8JciKc2RoVbTPHeDG2puS8DXRrK2gLAja91JmN3s51E")
ADDRS = (Multiaddr.parse("/ip4/192.0.2.1/tcp/4011"), Multiaddr.parse("/dnsaddr/example.org"))
NAS = NamedPeer("nas", ONE, ADDRS, True)
PHONE = NamedPeer("phone", TWO, (), False)


def table(home: Path) -> NamedPeers:
    """A table in a state of its own, as a daemon that starts has it."""
    made = NamedPeers(home / "peers.json")
    made.load()
    return made


def add(home: Path, *entries: NamedPeer) -> list[NamedPeer]:
    """Enter some; all there are afterwards, read anew."""

    async def main() -> None:
        names = table(home)
        for entry in entries:
            await names.add(entry)

    asyncio.run(main())
    return reread(home)


def reread(home: Path) -> list[NamedPeer]:
    async def main() -> list[NamedPeer]:
        return table(home).all()

    return asyncio.run(main())


@pytest.mark.parametrize("text", ["a", "nas", "NAS", "nas-2.home_x", "a" * MAX_NAME_CHARS])
def test_names(text: str) -> None:
    assert is_name(text) and read_name(text) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1nas",
        "-nas",
        "nas-",
        ".",
        "a b",
        "naß",
        "a/b",
        "a:1",
        "nas\n",
        "4011",
        "a" * (MAX_NAME_CHARS + 1),
        str(ONE),
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(UsageError, match="cannot be the name of a peer"):
        read_name(text)


@pytest.mark.parametrize("text", ["any", "ANY", "ls"])
def test_a_word_with_another_meaning_is_no_name_and_stays_where_a_file_has_it(
    home: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a peer: "):
        read_name(text)
    old = NamedPeer(text.lower(), TWO, (), True)
    assert add(home, NAS, old) == sorted([NAS, old], key=lambda it: it.name), "an earlier version took it"
    assert "cannot be meant by its name" in caplog.text

    async def main() -> None:
        names = table(home)
        assert await names.remove(text) == old

    asyncio.run(main())
    assert reread(home) == [NAS]


def test_no_peer_id_is_as_short_as_a_name() -> None:
    shortest = str(PeerId.from_bytes(b"\x12\x20" + bytes(32)))  # 34 bytes; what inlines a key has more
    assert len(shortest) > 32
    with pytest.raises(UsageError, match="cannot be the name of a peer"):
        read_name(shortest)


def test_entries_are_there_again_after_a_restart(home: Path) -> None:
    assert add(home, PHONE, NAS) == [NAS, PHONE]
    assert stat.S_IMODE((home / "peers.json").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["peers.json"]


def test_names_are_found_in_any_case_and_removed(home: Path) -> None:
    async def main() -> None:
        names = table(home)
        assert await names.add(NAS) is None
        assert names.find("NaS") == NAS and names.find("nasty") is None
        again = NamedPeer("nas", ONE, (), False)
        assert await names.add(again) == NAS
        assert await names.remove("NAS") == again
        with pytest.raises(NotFound, match='no peer is named "nas"'):
            await names.remove("nas")

    asyncio.run(main())
    assert reread(home) == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (NamedPeer("nas", TWO, (), False), f"nas is the name of another peer, {ONE}"),
        (NamedPeer("store", ONE, (), False), f"{ONE} has a name already: nas"),
    ],
)
def test_a_name_has_one_peer_and_a_peer_one_name(home: Path, entry: NamedPeer, said: str) -> None:
    with pytest.raises(PeerExists, match=said):
        add(home, NAS, entry)
    assert reread(home) == [NAS]


def test_there_is_a_limit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NAMED", 1)
    with pytest.raises(ResourceLimitExceeded):
        add(home, NAS, PHONE)
    assert add(home, NamedPeer("nas", ONE, (), False))[0].addrs == ()


def test_a_failed_write_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(home, NAS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        names = table(home)
        monkeypatch.setattr(os, "fsync", full)
        for change in (names.add(PHONE), names.remove("nas")):
            with pytest.raises(StorageFailed, match=r"named peers .*peers\.json: No space left"):
                await change
        assert names.all() == [NAS]

    asyncio.run(main())
    monkeypatch.undo()
    assert reread(home) == [NAS]


def test_who_asked_may_go_table_and_file_agree(home: Path) -> None:
    async def main() -> list[NamedPeer]:
        names = table(home)
        changes = [asyncio.create_task(names.add(entry)) for entry in (NAS, PHONE)]
        await asyncio.sleep(0)
        for change in changes:
            change.cancel()
        await asyncio.wait(changes)
        return names.all()

    assert asyncio.run(main()) == reread(home)


DAMAGED: list[Any] = [
    b"",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b"x" * 100,
    [],
    {"version": 0, "peers": []},
    {"version": 1},
    {"version": 1, "peers": ["x"]},
    {"version": 1, "peers": [{"name": "nas", "peer": 7, "addresses": [], "keep": False}]},
    {"version": 1, "peers": [{"name": "1", "peer": str(ONE), "addresses": [], "keep": False}]},
    {"version": 1, "peers": [{"name": "nas", "peer": str(ONE), "addresses": ["x"], "keep": False}]},
    {"version": 1, "peers": [{"name": "nas", "peer": str(ONE), "addresses": [7], "keep": False}]},
    {"version": 1, "peers": [{"name": n, "peer": str(ONE), "addresses": []} for n in ("a", "b")]},
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_file_that_makes_no_sense_is_moved_aside_and_named(
    home: Path, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (home / "peers.json").write_bytes(data)
    assert add(home, NAS) == [NAS]
    (record,) = [it for it in caplog.records if it.levelname == "ERROR"]
    assert record.getMessage().endswith(f"the file was moved to {home}/peers.json.damaged")
    assert (home / "peers.json.damaged").read_bytes() == data


def test_an_id_that_earlier_versions_took_costs_that_entry_and_not_the_file(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [
        {"name": name, "peer": peer, "addresses": [], "keep": False}
        for name, peer in (("typo", "12D3KooWnope"), ("good", str(ONE)))
    ]
    (home / "peers.json").write_text(json.dumps({"version": 1, "peers": entries}))
    assert [named.name for named in reread(home)] == ["good"]
    assert "typo is left out" in caplog.text and "mistyped" in caplog.text
    assert [path.name for path in home.iterdir()] == ["peers.json"]


def test_a_file_that_cannot_be_read_is_an_error(home: Path) -> None:
    (home / "peers.json").mkdir()
    with pytest.raises(StorageFailed, match="Is a directory"):
        reread(home)


def test_a_declared_name_goes_before_one_of_the_file_and_is_not_written(home: Path) -> None:
    async def main() -> None:
        names = table(home)
        await names.add(NAS)
        await names.add(PHONE)
        declared = NamedPeer("mobile", TWO, ADDRS, True)
        assert names.declare({"mobile": declared}) == [PHONE]
        assert (names.all(), names.find("Mobile"), names.find("phone")) == ([declared, NAS], declared, None)
        with pytest.raises(PeerExists, match="declares mobile as the name"):
            await names.add(NamedPeer("other", TWO, (), False))
        with pytest.raises(PeerExists, match="declares mobile as the name"):
            await names.remove("mobile")
        assert names.declare({}) == []
        assert names.all() == [NAS, PHONE]

    asyncio.run(main())
    assert reread(home) == [NAS, PHONE]


def test_all_names_are_put_at_once_or_none(home: Path) -> None:
    async def main() -> None:
        names = table(home)
        await names.add(NAS)
        twice = {"a": NamedPeer("a", TWO, (), False), "b": NamedPeer("b", TWO, (), False)}
        with pytest.raises(PeerExists):
            await names.put(twice)
        assert names.all() == [NAS]
        await names.put({"phone": PHONE})

    asyncio.run(main())
    assert reread(home) == [PHONE]


def test_a_file_of_a_newer_version_stops_the_start_and_stays(home: Path) -> None:
    path = home / "peers.json"
    path.write_text('{"version": 2, "peers": []}')
    with pytest.raises(InvalidConfig, match="of a newer version of p2pfwd") as caught:
        NamedPeers(path).load()
    assert caught.value.hint == "use that version; or move the file away: then no peer has a name"
    assert path.exists()


def test_what_a_killed_writer_left_is_removed(home: Path) -> None:
    (home / ".peers.json.abc.tmp").write_text("{")
    NamedPeers(home / "peers.json").load()
    assert not list(home.iterdir())
