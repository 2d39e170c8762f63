"""Pins protection, the shares of networks, the reserve, and what the policy is told of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.forwarding.streams import PROTECT_TAG
from p2pfwd.net.connmgr import CIRCUIT_TAG, RANKING_S, RELAY_TAG, TUNNEL_TAG, ConnMgr
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.policy import trimming
from p2pfwd.policy.networks import crowd, networks
from p2pfwd.policy.shares import Rank
from tests.support.peers import peer

NOW = 1000.0


def addr(host: str, port: int = 1) -> Multiaddr:
    return Multiaddr.parse(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}")


@dataclass(frozen=True)
class FakeStream:
    direction: str


class FakeEnd:
    over = False

    def done(self) -> bool:
        return self.over


@dataclass
class FakeConn:
    remote_peer: PeerId
    remote_addr: Multiaddr = field(default_factory=lambda: addr("8.8.8.8"))
    direction: str = "inbound"
    useful_at: float = 0.0
    streams: dict[int, FakeStream] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.closed = FakeEnd()
        self.networks, self.crowd = networks(self.remote_addr), crowd(self.remote_addr)


def conns(*fakes: FakeConn) -> list[Conn]:
    return cast("list[Conn]", list(fakes))


def conn(number: int, host: str = "8.8.8.8", **more: object) -> Conn:
    return cast("Conn", FakeConn(peer(number), addr(host), **more))  # type: ignore[arg-type]


def manager(**settings: float) -> ConnMgr:
    return ConnMgr(SwarmSettings(**settings))  # type: ignore[arg-type]


def test_protection_lasts_until_the_last_tag_is_gone_and_each_end_is_told() -> None:
    it, told = manager(), []
    it.released = told.append
    it.protect(peer(1), "a")
    it.protect(peer(1), "a")
    it.protect(peer(1), "b")
    it.unprotect(peer(1), "a")
    it.unprotect(peer(1), "never there")
    assert it.is_protected(peer(1))
    it.unprotect(peer(1), "b")
    it.unprotect(peer(2), "b")
    assert not it.is_protected(peer(1)) and not it._protected
    assert told == [peer(1), peer(1)]


def test_tunnels_are_the_protection_that_a_stranger_gives_itself() -> None:
    assert TUNNEL_TAG == PROTECT_TAG
    it = manager()
    it.protect(peer(1), TUNNEL_TAG)
    assert it.is_protected(peer(1))


def test_what_else_a_connection_is_of_use_for_beside_a_place_at_the_relay() -> None:
    it, idle = manager(), conn(1, streams={1: FakeStream("inbound")})
    asked = conn(2, streams={2: FakeStream("outbound")})
    assert not it.has_use_beside(idle, RELAY_TAG) and it.has_use_beside(asked, RELAY_TAG)
    for tag in (RELAY_TAG, CIRCUIT_TAG):
        it.protect(peer(1), tag)
        assert it.has_use_beside(idle, RELAY_TAG) is (tag == CIRCUIT_TAG)


def test_the_longest_idle_go_first_and_the_useful_stay() -> None:
    it = manager(high_water=4, low_water=2, grace_s=10)
    old, older = conn(1, "8.8.1.1", useful_at=5.0), conn(2, "8.8.2.2")
    stranger_keeps_it_busy = conn(3, "8.8.3.3", useful_at=1.0, streams={1: FakeStream("inbound")})
    asked = conn(4, "8.8.4.4", streams={2: FakeStream("outbound")})
    protected, young = conn(5, "8.8.5.5"), conn(6, "8.8.6.6", useful_at=NOW - 9)
    it.protect(peer(5), TUNNEL_TAG)
    everybody = [asked, protected, young, old, stranger_keeps_it_busy, older]
    assert it.to_trim(everybody, NOW) == [older, stranger_keeps_it_busy, old]
    it.rank_of = lambda one: Rank.OWN if one == peer(2) else Rank.STRANGER
    assert it.to_trim(everybody, NOW) == [stranger_keeps_it_busy, old, older]
    assert it.to_trim(everybody[:4], NOW) == [], "no more than the high-water mark"


@pytest.mark.parametrize(
    ("hosts", "newcomer", "room"),
    [
        (["8.8.8.8"] * 2, "8.8.8.8", False),
        (["8.8.8.8"] * 2, "8.8.8.9", True),
        (["8.8.8.1", "8.8.8.2", "8.8.8.3", "8.8.8.4"], "8.8.8.9", False),
        (["2001:4860::1", "2001:4860::2"], "2001:4860::3", False),
        ([f"2001:4860:0:{n}::" for n in range(1, 5)], "2001:4860:0:5::", False),
        ([f"2001:4860:0:{n}00::" for n in range(8)], "2001:4860:0:900::", False),
        ([f"2001:4860:0:{n}00::" for n in range(7)], "2001:4860:0:900::", True),
        (["127.0.0.1"] * 9, "127.0.0.1", True),
        (["127.0.0.1"] * 10, "127.0.0.1", False),
        ([f"192.168.1.{n}" for n in range(1, 10)], "192.168.1.99", True),
        (["192.168.1.1"] * 2, "192.168.1.1", False),
    ],
)
def test_every_network_has_its_share(hosts: list[str], newcomer: str, room: bool) -> None:
    it = manager(max_connections=20, max_connections_per_ip=2)
    there = [conn(n, host) for n, host in enumerate(hosts)]
    full = it.to_replace(there, conn(99, newcomer), NOW)
    assert (full is None) == room
    if full is not None:
        assert full[1] is there[0], "the newcomer takes the place of one of its neighbours"
    dialed = conn(99, newcomer, direction="outbound")
    assert it.to_replace(there, dialed, NOW) is None, "what this node dials is free"
    it.rank_of = lambda one: Rank.OWN if one == peer(99) else Rank.STRANGER
    assert it.to_replace(there, conn(99, newcomer), NOW) is None, "so are own peers"
    it.rank_of = lambda one: Rank.SERVED if one == peer(99) else Rank.STRANGER
    assert it.to_replace(there, conn(99, newcomer), NOW) == full, "served before or not"


def test_a_part_of_the_table_is_kept_for_own_peers() -> None:
    it = manager(max_connections=16)
    there = [conn(n, f"8.8.{n}.1", useful_at=n) for n in range(14)]
    assert it.to_replace(there[:13], conn(99, "9.9.9.9"), NOW) is None
    assert it.to_replace(there, conn(99, "9.9.9.9"), NOW) == ("there are 14 connections", there[0])
    it.rank_of = lambda one: Rank.OWN if one == peer(99) else Rank.STRANGER
    assert it.to_replace(there, conn(99, "9.9.9.9"), NOW) is None
    full = [*there, conn(14, "8.8.14.1"), conn(15, "8.8.15.1")]
    assert it.to_replace(full, conn(99, "9.9.9.9"), NOW) == ("there are 16 connections", there[0])
    it.rank_of = lambda one: Rank.SERVED if one == peer(99) else Rank.STRANGER
    victim = it.to_replace(there, conn(99, "9.9.9.9"), NOW)
    assert victim == ("there are 14 connections", there[0]), "who was served before takes a stranger's place"


def test_who_has_become_an_own_peer_since_the_table_was_judged_stays() -> None:
    it = manager(max_connections=2)
    ranks: dict[PeerId, Rank] = {}
    it.rank_of = lambda one: ranks.get(one, Rank.STRANGER)
    asked, idle = conn(1, "8.8.1.1", streams={1: FakeStream("outbound")}), conn(2, "8.8.2.1")
    assert it.to_replace([asked, idle], conn(98, "9.9.9.9"), NOW) == ("there are 2 connections", idle)
    asked.streams.clear()
    ranks[peer(1)] = Rank.OWN
    full = it.to_replace([asked, conn(98, "9.9.9.9")], conn(99, "9.9.8.9"), NOW + 0.1)
    assert full is not None and full[1] is not asked


def test_a_flood_of_newcomers_does_not_judge_the_table_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    it = manager(max_connections=16)
    there = [conn(n, f"8.8.{n}.1", useful_at=n) for n in range(14)]
    judged: list[int] = []
    rank = trimming.to_replace
    monkeypatch.setattr(trimming, "to_replace", lambda all_, own: judged.append(len(all_)) or rank(all_, own))

    def gives_way(now: float) -> Conn | None:
        full = it.to_replace(there, conn(99, "9.9.9.9"), now)
        assert full is not None
        return cast("Conn | None", full[1])

    cast("FakeConn", there[2]).closed.over = True  # it is gone already
    it.protect(peer(3), TUNNEL_TAG)
    assert [gives_way(NOW) for _ in range(2)] == [there[0], there[1]]
    it.protect(peer(4), TUNNEL_TAG)  # useful since it was judged
    assert gives_way(NOW + RANKING_S / 2) is there[5]
    assert judged == [14]
    assert gives_way(NOW + RANKING_S) is there[0], "it is still there: judged anew"
    assert judged == [14, 14]
    for n in range(14):
        it.protect(peer(n), "kept")
    assert gives_way(NOW + 1.5 * RANKING_S) is None and judged == [14, 14, 14]
    it.to_let_go(there, NOW)
    assert not it._rankings, "nothing holds connections for long"


def test_whom_this_node_wants_does_more_than_use_it() -> None:
    it = manager()
    uses, wanted = [(TUNNEL_TAG,), (RELAY_TAG, CIRCUIT_TAG)], [("relay",), (TUNNEL_TAG, "static")]
    for number, tags in enumerate((*uses, *wanted)):
        for tag in tags:
            it.protect(peer(number), tag)
    assert [it.is_kept(peer(number)) for number in range(5)] == [False, False, True, True, False]
