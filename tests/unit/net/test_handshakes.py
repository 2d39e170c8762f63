"""Pins who may be in its handshake: shares of networks, who gives way, haste, the reserve. No sockets."""

from __future__ import annotations

import contextlib

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.net import handshakes as module
from p2pfwd.net.handshakes import Handshakes
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.policy.pace import Rate
from tests.support.peers import peer


class Rig:
    """Handshakes with a clock of their own; `at` begins one, `ended` has those that gave way."""

    def __init__(self, **settings: int) -> None:
        self.now = 0.0
        self.ended: list[str] = []
        self.refusals = Refusals(lambda: self.now)
        self.it = Handshakes(SwarmSettings(**settings), self.refusals, lambda: self.now)  # type: ignore[arg-type]

    def at(self, host: str, *, heard: bool = False) -> None:
        self.now += 0.001
        addr = Multiaddr.parse(f"/ip{6 if ':' in host else 4}/{host}/tcp/{len(self.ended) + 1}")
        self.it.begin(addr, lambda: self.ended.append(host), lambda: heard)


def test_places_are_given_back_however_often_that_is_said() -> None:
    rig = Rig(max_pending_inbound=1)
    place = rig.it.begin(Multiaddr.parse("/ip4/8.8.8.8/tcp/1"), lambda: None, lambda: False)
    assert len(rig.it) == 1
    rig.it.end(place)
    rig.it.end(place)
    assert len(rig.it) == 0 and not rig.it._held


def test_a_full_table_ends_the_oldest_silent_one_and_never_the_newcomer() -> None:
    rig = Rig(max_pending_inbound=4)
    rig.at("1.0.0.1", heard=True)
    for n in (2, 3, 4, 5, 6):
        rig.at(f"{n}.0.0.1")
    assert rig.ended == ["2.0.0.1", "3.0.0.1"] and len(rig.it) == 4


def test_where_nobody_is_silent_the_oldest_goes() -> None:
    rig = Rig(max_pending_inbound=2)
    for n in (1, 2, 3):
        rig.at(f"{n}.0.0.1", heard=True)
    assert rig.ended == ["1.0.0.1"]


def test_the_network_that_holds_most_loses() -> None:
    rig = Rig(max_pending_inbound=4)
    for host in ("9.9.9.9", "1.0.0.1", "1.0.0.2", "1.0.0.3", "7.7.7.7"):
        rig.at(host)
    assert rig.ended == ["1.0.0.1"], "not the oldest of all"


@pytest.mark.parametrize(
    ("hosts", "ended"),
    [
        (["1.0.0.1"] * 3, ["1.0.0.1"]),
        ([f"1.0.0.{n}" for n in range(7)], ["1.0.0.0"]),
        ([f"1.0.{n}.1" for n in range(9)], []),
        (["2001:4860::1", "2001:4860::2", "2001:4860::3"], ["2001:4860::1"]),
        ([f"2001:4860:0:{n}::1" for n in range(7)], ["2001:4860:0:0::1"]),
        ([f"2001:4860:0:{n}00::1" for n in range(9)], ["2001:4860:0:000::1"]),
        (["127.0.0.1"] * 10, []),
        ([f"192.168.1.{n}" for n in range(10)], []),
    ],
)
def test_every_network_has_its_share(hosts: list[str], ended: list[str]) -> None:
    rig = Rig(max_pending_inbound=64, max_pending_inbound_per_ip=2)
    for host in hosts:
        rig.at(host)
    assert rig.ended == ended


def test_loopback_is_counted_too() -> None:
    # FAULTS F3: one address of loopback shut the door.
    rig = Rig(max_pending_inbound=16)
    for _ in range(20):
        rig.at("127.0.0.1")
    rig.at("8.8.8.8")
    assert len(rig.it) == 9 and rig.ended == ["127.0.0.1"] * 12


def test_addresses_of_own_peers_have_a_reserve() -> None:
    rig = Rig(max_pending_inbound=16)
    rig.it.own_hosts = lambda: frozenset({"5.5.5.5"})
    for n in range(16):
        rig.at(f"1.{n}.0.1")
    assert len(rig.it) == 14 and len(rig.ended) == 2
    rig.at("5.5.5.5")
    rig.at("5.5.5.5")
    assert len(rig.it) == 16 and len(rig.ended) == 2
    for n in range(20):
        rig.at(f"2.{n}.0.1")
    assert "5.5.5.5" not in rig.ended


def test_who_comes_too_fast_is_refused_for_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_ADDRESS", Rate(1.0, 2.0))
    rig = Rig()
    rig.at("1.0.0.1")
    rig.at("1.0.0.1")
    with pytest.raises(ResourceLimitExceeded, match=r"1\.0\.0\.1/32 comes too fast"):
        rig.at("1.0.0.1")
    rig.at("1.0.0.2")
    rig.now += 1.0
    rig.at("1.0.0.1")
    assert rig.refusals.counts == {"handshake-haste": 1}
    rig.it.own_hosts = lambda: frozenset({"1.0.0.1"})
    rig.now += module.OWN_HOSTS_S + 1
    for _ in range(5):
        rig.at("1.0.0.1")


def test_a_network_that_came_too_fast_is_turned_away_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_NETWORK", Rate(1.0, 2.0))
    rig = Rig()
    for n in (1, 2):
        rig.at(f"1.0.0.{n}")
    assert not rig.it.turns_away("1.0.0.3"), "it has not come too fast yet"
    with pytest.raises(ResourceLimitExceeded):
        rig.at("1.0.0.3")
    assert rig.it.turns_away("1.0.0.4") and rig.it.turns_away("::ffff:1.0.0.5")
    assert not rig.it.turns_away("1.0.1.1") and not rig.it.turns_away("2001:4860::1")
    assert rig.refusals.counts == {"handshake-haste": 3}
    rig.now += module.PAUSE_S
    assert not rig.it.turns_away("1.0.0.4"), "its next place may be there"
    rig.it.own_hosts = lambda: frozenset({"1.0.0.9"})
    rig.now += module.OWN_HOSTS_S - 1
    for n in (5, 6):
        rig.at(f"1.0.0.{n}")
    rig.now += 1
    rig.at("1.0.0.7")
    with pytest.raises(ResourceLimitExceeded):
        rig.at("1.0.0.8")
    assert rig.it.turns_away("1.0.0.4") and not rig.it.turns_away("1.0.0.9"), "the owner's peer is heard"
    assert not rig.it.shut_out(), "he must not be kept out with his neighbours"


def test_the_networks_that_are_shut_out_are_told_for_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_NETWORK", Rate(1.0, 2.0))
    rig = Rig()
    for n in range(3):
        assert not rig.it.shut_out()
        with contextlib.suppress(ResourceLimitExceeded):
            rig.at(f"1.0.0.{n}")
    for n in range(3):
        with contextlib.suppress(ResourceLimitExceeded):
            rig.at(f"2001:4860:0:{n}::1")
    assert rig.it.shut_out() == {"1.0.0.0/24", "2001:4860::/56"}
    rig.now += module.PAUSE_S
    assert not rig.it.shut_out()


def test_a_rush_of_all_strangers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_ALL", Rate(1.0, 3.0))
    rig = Rig()
    for n in range(3):
        rig.at(f"1.{n}.0.1")
    with pytest.raises(ResourceLimitExceeded, match="rush"):
        rig.at("2.0.0.1")
    rig.at("127.0.0.1")


def test_of_networks_that_came_and_went_nothing_is_kept() -> None:
    rig = Rig()
    addrs = [Multiaddr.parse(f"/ip4/9.{n}.1.1/tcp/1") for n in range(100)]
    for addr in addrs:
        rig.it.end(rig.it.begin(addr, lambda: None, lambda: False))
    assert sum(map(len, rig.it._paces.values())) == 2 * len(addrs)
    rig.now += 1.0
    rig.it.forget_full()
    assert not sum(map(len, rig.it._paces.values()))


def test_an_own_peer_over_a_relay_is_spared_whatever_strangers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_ALL", Rate(1.0, 16.0))
    own = peer(1)
    rig = Rig(max_pending_inbound=16)
    rig.it.is_own = own.__eq__
    over = Multiaddr.parse(f"/ip4/9.9.9.9/tcp/1/p2p/{peer(2)}/p2p-circuit")
    for n in range(16):
        rig.at(f"1.{n}.0.1")
    with pytest.raises(ResourceLimitExceeded, match="rush"):
        rig.it.begin(over, lambda: None, lambda: False, peer(3))
    for _ in range(2):
        rig.it.begin(over, lambda: rig.ended.append("own"), lambda: False, own)
    assert len(rig.it) == 16 and len(rig.ended) == 2, "they have the reserve"
    rig.now += 20.0
    for n in range(20):
        rig.now += 1.0
        rig.at(f"2.{n}.0.1")
    assert "own" not in rig.ended
