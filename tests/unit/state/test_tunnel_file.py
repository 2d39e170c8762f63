"""state.tunnel_file: what is saved comes back, in order and within bounds; what is broken is told."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import PLAIN_LISTEN, ForwardTerms, ListenTerms
from p2pfwd.errors import InvalidConfig, ResourceLimitExceeded, StorageFailed
from p2pfwd.state import tunnel_file
from p2pfwd.state.database import DamagedFile
from p2pfwd.state.tunnel_file import SavedTunnel, TunnelFile
from tests.support.peers import peer

WEB = SavedTunnel(
    "listen",
    "/x/web",
    Multiaddr.parse("/ip4/127.0.0.1/tcp/8080"),
    ListenTerms(any_loopback=True, report_peer_id=True),
    created=1000.5,
)
OWN = replace(WEB, protocol="/own/name", terms=ListenTerms(custom_protocol=True))
SSH = SavedTunnel(
    "forward",
    "/x/ssh",
    Multiaddr.parse("/unix/run/user/1000/ssh.sock"),
    ForwardTerms(path="relay", limited_relay=True),
    peer=peer(1),
    peer_addrs=(Multiaddr.parse("/ip4/192.0.2.1/tcp/4011"), Multiaddr.parse("/dnsaddr/example.org")),
    created=1001.0,
)


@pytest.fixture
def file(home: Path) -> Iterator[TunnelFile]:
    made = TunnelFile(home / "state.db")
    yield made
    made.close()


def anew(file: TunnelFile) -> list[SavedTunnel]:
    """What another daemon finds."""
    file.close()
    other = TunnelFile(file.path)
    try:
        return other.load()
    finally:
        other.close()


def test_every_part_of_a_tunnel_comes_back_in_the_order_of_the_commands(file: TunnelFile) -> None:
    for tunnel in (WEB, SSH, OWN):
        file.change(put=[tunnel])
    assert anew(file) == [WEB, SSH, OWN]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_the_key_is_the_name_of_a_listen_and_the_address_of_a_forward(file: TunnelFile) -> None:
    assert WEB.key == ("listen", "/x/web") and SSH.key == ("forward", "/unix/run/user/1000/ssh.sock")
    moved = replace(WEB, address=Multiaddr.parse("/ip4/127.0.0.1/tcp/9"))
    file.change(put=[WEB, SSH])
    file.change(put=[moved])
    assert anew(file) == [moved, SSH]


def test_what_is_dropped_is_gone_and_what_was_not_there_is_no_failure(file: TunnelFile) -> None:
    file.change(put=[WEB, SSH])
    file.change(drop=[WEB.key, OWN.key])
    assert anew(file) == [SSH]


def test_nothing_is_made_by_looking(file: TunnelFile) -> None:
    assert file.load() == [] and not file.path.exists()


def test_what_is_committed_outlives_a_power_cut(file: TunnelFile) -> None:
    file.change(put=[WEB])
    with file._db.working() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_at_the_limit_nothing_changes(file: TunnelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_file, "MAX_SAVED", 2)
    file.change(put=[WEB, SSH])
    with pytest.raises(ResourceLimitExceeded, match="2 saved tunnels") as caught:
        file.change(put=[OWN])
    assert caught.value.hint is not None and "--ephemeral" in caught.value.hint
    file.change(put=[replace(WEB, terms=PLAIN_LISTEN)])
    file.change(drop=[SSH.key])
    file.change(put=[OWN])
    assert [tunnel.protocol for tunnel in anew(file)] == ["/x/web", "/own/name"]


def test_a_full_disk_is_told_with_its_cure_and_changes_nothing(file: TunnelFile) -> None:
    file.change(put=[WEB])
    many = [replace(OWN, protocol=f"/x/{n}/{'long' * 50}") for n in range(500)]
    with file._db.working() as db:
        db.execute("PRAGMA max_page_count = 8")
    with pytest.raises(StorageFailed, match="full") as caught:
        file.change(put=many, drop=[WEB.key])
    assert caught.value.hint == "free some space on that file system"
    assert not isinstance(caught.value, DamagedFile)
    file.change(put=[SSH])
    assert anew(file) == [WEB, SSH]


def test_a_newer_form_is_refused_with_the_cure_and_left_alone(file: TunnelFile) -> None:
    file.change(put=[WEB])
    file.close()
    with sqlite3.connect(file.path) as db:
        db.execute(f"PRAGMA user_version = {tunnel_file.VERSION + 1}")
    db.close()
    before = file.path.read_bytes()
    for work, error in ((file.load, InvalidConfig), (lambda: file.change(put=[SSH]), StorageFailed)):
        with pytest.raises(error, match=r"state file .*state\.db: it has the form 3") as caught:
            work()
        assert caught.value.hint == "use that version; or move the file away: then no tunnel is saved"
    file.close()
    assert file.path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tunnels SET address = 'nowhere' WHERE id = 1",
        "UPDATE tunnels SET peer = NULL WHERE direction = 'forward'",
        "UPDATE tunnels SET peer = 'Q' WHERE direction = 'forward'",
        "UPDATE tunnels SET terms = '{'",
        "UPDATE tunnels SET terms = '7'",
        """UPDATE tunnels SET terms = '{"path": "scenic"}'""",
        """UPDATE tunnels SET terms = '{"report_peer_id": 1}'""",
        """UPDATE tunnels SET terms = '{"colour": "red"}'""",
        "UPDATE tunnels SET name = '/x/other' WHERE id = 1",
        "UPDATE tunnels SET addresses = '{'",
        "UPDATE tunnels SET addresses = '7'",
        "UPDATE tunnels SET created = 'soon'",
        "UPDATE tunnels SET created = 9e999",
        "UPDATE tunnels SET created = 1e300",
        """UPDATE tunnels SET terms = '{"ends_at": NaN}'""",
        "DROP TABLE tunnels",
        "rubbish",
    ],
)
def test_a_damaged_file_is_set_aside_and_named(
    file: TunnelFile, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.change(put=[WEB, SSH])
    file.close()
    if damage == "rubbish":
        file.path.write_bytes(b"rubbish" * 1000)
    else:
        with sqlite3.connect(file.path) as db:
            db.execute(damage)
        db.close()
    with caplog.at_level(logging.ERROR, "p2pfwd.state"):
        assert anew(file) == []
    aside = file.path.with_name("state.db.damaged")
    assert aside.exists() and str(aside) in caplog.text
    again = TunnelFile(file.path)
    again.change(put=[OWN])
    assert anew(again) == [OWN]


def test_a_file_that_is_damaged_meanwhile_is_replaced_with_all_that_is_known(file: TunnelFile) -> None:
    file.change(put=[WEB, SSH])
    file.close()
    file.path.write_bytes(b"rubbish" * 1000)
    file.change(put=[OWN], drop=[SSH.key])
    assert anew(file) == [WEB, OWN]
    assert not file.aside.exists(), "nothing is lost"
    assert file.path.with_name("state.db.replaced").exists()


def test_a_file_that_is_removed_meanwhile_is_made_anew_with_all_that_is_known(
    file: TunnelFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.change(put=[WEB, SSH])
    file.path.unlink()
    file.change(put=[OWN], drop=[SSH.key])
    assert str(file.path) in caplog.text
    assert anew(file) == [WEB, OWN]


def test_a_file_of_the_first_form_is_brought_forward(file: TunnelFile) -> None:
    columns = "direction, name, protocol, address, any_loopback, report_peer_id, custom_protocol, peer"
    with sqlite3.connect(file.path) as db:
        db.execute(
            "CREATE TABLE tunnels (id INTEGER PRIMARY KEY, direction TEXT NOT NULL, name TEXT NOT NULL,"
            " protocol TEXT NOT NULL, address TEXT NOT NULL, any_loopback INTEGER NOT NULL,"
            " report_peer_id INTEGER NOT NULL, custom_protocol INTEGER NOT NULL, peer TEXT,"
            " addresses TEXT NOT NULL, path TEXT NOT NULL, limited_relay INTEGER NOT NULL,"
            " created REAL NOT NULL, UNIQUE (direction, name))"
        )
        for tunnel, flags, path, limited in ((WEB, (1, 1, 0), "any", 0), (SSH, (0, 0, 0), "relay", 1)):
            known = (*tunnel.key, tunnel.protocol, str(tunnel.address), *flags)
            peer_id = None if tunnel.peer is None else str(tunnel.peer)
            addrs = json.dumps([str(addr) for addr in tunnel.peer_addrs])
            db.execute(
                f"INSERT INTO tunnels ({columns}, addresses, path, limited_relay, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*known, peer_id, addrs, path, limited, tunnel.created),
            )
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert file.load() == [WEB, SSH]
    file.change(put=[OWN])
    assert anew(file) == [WEB, SSH, OWN]
