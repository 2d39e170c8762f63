"""net.own_addresses: what is bound, seen and proved; what is told; and the one event of it."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, TcpEndpoint, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.own_addresses import MAX_CONTACTED, MOST_SEEN, SIGHTS, Change, OwnAddresses
from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.policy.proofs import PROOF_S
from p2pfwd.system.interfaces import Interface, Interfaces, Listing
from p2pfwd.wire import autonat
from tests.support.virtual_time import in_virtual_time

ONE, TWO = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in (1, 2))


def at(host: str, port: int = 4011) -> Multiaddr:
    return Multiaddr.parse(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")


class Seen(NamedTuple):
    """One end of a connection, for who has seen us over it."""

    remote_peer: PeerId
    remote_addr: Multiaddr
    local_addr: Multiaddr
    direction: str = "outbound"
    is_relayed: bool = False


def by(peer: PeerId, host: str, port: int = 4011, **changes: Any) -> Any:
    """A connection from our listening port to a peer's at `host`."""
    return Seen(peer, at(host, port), at("192.168.1.7"))._replace(**changes)


class Us:
    """Own addresses on a machine whose interfaces the test sets."""

    def __init__(self, *hosts: str) -> None:
        loop = asyncio.get_running_loop()
        self.walks = 0
        self.hosts: tuple[str, ...] = ("127.0.0.1", "::1", *hosts)
        self.own = OwnAddresses(Interfaces(self._walk, loop.time), loop.time)
        self.changes: list[Change] = []
        self.own.on_changed(self.changes.append)

    def _walk(self) -> Listing:
        self.walks += 1
        return (Interface("eth0", 2, frozenset(self.hosts)),)

    async def move(self, *hosts: str) -> None:
        self.hosts = ("127.0.0.1", "::1", *hosts)
        self.own.network_changed()
        await asyncio.sleep(0.001)


@in_virtual_time
async def test_an_unspecified_address_stands_for_those_of_the_interfaces_best_first() -> None:
    us = Us("192.168.1.7", "8.8.4.4", "fe80::1", "2600::7")
    us.own.bind(at("0.0.0.0"))
    assert us.own.all() == [at("8.8.4.4"), at("192.168.1.7"), at("127.0.0.1")]
    us.own.bind(at("::", 4012))
    assert {at("2600::7", 4012), at("::1", 4012)} < set(us.own.all())
    us.own.unbind_all()
    us.own.bind(at("192.168.1.7", 1))
    assert us.own.all() == [at("192.168.1.7", 1)], "a bound host stands for itself"


@in_virtual_time
async def test_a_bound_address_that_the_machine_has_lost_is_told_no_more_until_it_is_back() -> None:
    us = Us("192.168.1.7", "10.8.0.2")
    us.own.bind(at("10.8.0.2"))
    us.own.bind(at("127.0.0.1", 5))
    us.own.bind(at("0.0.0.0", 6))
    assert at("10.8.0.2") in us.own.all() and us.own.absent() == []
    await us.move("192.168.1.7")
    assert at("10.8.0.2") not in us.own.all() and us.own.absent() == [at("10.8.0.2")]
    assert us.changes.pop() == Change.STIRRED | Change.TOLD | Change.MOVED
    await us.move("192.168.1.7", "10.8.0.2")
    assert at("10.8.0.2") in us.own.all() and us.own.absent() == []
    assert us.changes.pop() == Change.STIRRED | Change.TOLD


@in_virtual_time
async def test_where_interfaces_cannot_be_listed_a_bound_address_is_there() -> None:
    def unlisted() -> Listing:
        raise OSError("no netlink here")

    own = OwnAddresses(Interfaces(unlisted))
    own.bind(at("10.8.0.2"))
    assert own.all() == [at("10.8.0.2")] and own.absent() == []


@in_virtual_time
async def test_an_address_that_is_bound_no_more_is_told_no_more() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.bind(at("0.0.0.0", 5))
    us.own.unbind(at("0.0.0.0"))
    assert us.own.all() == [at("192.168.1.7", 5), at("127.0.0.1", 5)]
    await us.move("192.168.1.7")
    assert us.changes == [Change.STIRRED], "what was taken back is no loss"


@in_virtual_time
async def test_asking_who_we_are_lists_no_interfaces() -> None:
    """An identify answer and a dial ask; each listing costs up to a millisecond."""
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    for _ in range(1000):
        us.own.all()
    assert us.walks == 1


@in_virtual_time
async def test_what_is_told_of_a_change() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    await us.move("192.168.1.7")
    assert us.changes.pop() == Change.STIRRED
    await us.move("192.168.1.7", "172.17.0.1")
    assert us.changes.pop() == Change.STIRRED | Change.TOLD, "a bridge of containers moves nobody"
    await us.move("192.168.1.7", "172.17.0.1", "8.8.4.4")
    assert us.changes.pop() == Change.STIRRED | Change.TOLD | Change.MOVED
    await us.move("10.0.0.7")
    assert us.changes.pop() == Change.STIRRED | Change.TOLD | Change.MOVED
    assert not us.changes


@in_virtual_time
async def test_what_comes_in_one_turn_is_told_once() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.prove(at("8.8.4.4"), ONE)
    us.own.note_observed(by(ONE, "9.9.9.9"), at("8.8.4.4", 999))
    us.own.network_changed()
    await asyncio.sleep(0.001)
    assert us.changes == [Change.TOLD | Change.SEEN | Change.STIRRED]


@in_virtual_time
async def test_another_network_takes_proofs_back_and_a_bridge_does_not() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.prove(at("8.8.4.4"), ONE)
    await us.move("192.168.1.7", "172.17.0.1")
    assert us.own.all()[0] == at("8.8.4.4")
    await us.move("10.0.0.7")
    assert at("8.8.4.4") not in us.own.all()


@in_virtual_time
async def test_a_proof_grows_old_is_refuted_or_taken_back_and_each_is_told() -> None:
    us = Us()
    for end in (us.own.expire, us.own.unprove):
        us.own.prove(at("8.8.4.4"), ONE)
        await asyncio.sleep(PROOF_S + 1)
        end()
        await asyncio.sleep(0.001)
        assert us.changes == [Change.TOLD, Change.TOLD] and us.own.all() == []
        us.changes.clear()
    us.own.prove(at("8.8.4.4"), ONE)
    us.own.refute(at("8.8.4.4"), ONE)
    assert us.own.all()
    us.own.refute(at("8.8.4.4"), TWO)
    assert not us.own.all()


@in_virtual_time
async def test_observed_addresses_end_with_their_connections_and_what_most_networks_see_goes_first() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    one, two, three = by(ONE, "9.9.9.1"), by(TWO, "9.9.8.2"), by(TWO, "9.9.7.2", 5)
    us.own.note_observed(one, at("8.8.4.4", 1))
    us.own.note_observed(two, at("8.8.8.8", 2))
    us.own.note_observed(three, at("8.8.8.8", 2))
    assert us.own.observed() == [at("8.8.8.8", 2), at("8.8.4.4", 1)]
    seen = us.own.statuses()[-2]
    assert seen.kind == "observed" and seen.by == (TWO,)
    us.own.forget_connection(two)
    assert us.own.observed()[0] == at("8.8.4.4", 1) and len(us.own.observed()) == 2
    for conn in (one, two, three, three):
        us.own.forget_connection(conn)
    assert us.own.observed() == [] and us.own.counting() == ()


@in_virtual_time
async def test_each_newcomers_word_is_looked_at_once_however_many_are_connected(monkeypatch: Any) -> None:
    """A walk over all for each took a third of a crowded daemon's time."""
    asked: list[Multiaddr] = []

    def classified(addr: Multiaddr) -> AddressClass:
        asked.append(addr)
        return address_class(addr)

    monkeypatch.setattr("p2pfwd.net.own_addresses.address_class", classified)
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    for n in range(100):
        us.own.note_observed(by(ONE, f"9.9.{n}.1"), at("8.8.4.4"))
    assert len(asked) <= 2 * 100 + 20  # and of bound addresses
    assert us.own.counting() == (at("8.8.4.4"),)


@in_virtual_time
async def test_what_is_seen_within_the_local_network_weighs_nothing(monkeypatch: Any) -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    weighed: list[None] = []
    monkeypatch.setattr(us.own, "_weigh", lambda: weighed.append(None) or False)
    near, far = by(ONE, "192.168.1.9"), by(TWO, "9.9.9.2")
    us.own.note_observed(near, at("192.168.1.7"))
    us.own.forget_connection(near)
    assert not weighed
    us.own.note_observed(far, at("8.8.4.4"))
    us.own.note_observed(far, at("192.168.1.7"))
    assert len(weighed) == 2, "and one that was seen outside before"


@in_virtual_time
async def test_which_observed_addresses_count() -> None:
    """Two networks, or one of the owner's peers; at the listening port, and public on both ends."""
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    out = at("8.8.4.4")

    def counts(*conns: Any) -> bool:
        for conn in conns:
            us.own.note_observed(conn, out)
        counted = us.own.counting()
        for conn in conns:
            us.own.forget_connection(conn)
        assert us.own.counting() == ()
        return counted == (out,)

    one, near, other = by(ONE, "9.9.9.1"), by(TWO, "9.9.9.1"), by(TWO, "9.9.9.2")
    assert counts(one, other)
    assert not counts(one)
    assert not counts(one, near), "two peers in one place"
    assert not counts(one, other._replace(local_addr=at("192.168.1.7", 50000))), "from another port"
    assert not counts(one, other._replace(is_relayed=True))
    assert not counts(one, by(TWO, "192.168.1.9")), "from within"
    us.own.is_own = ONE.__eq__
    assert counts(one) and not counts(other)


def lies(us: Us, count: int, *hosts: str) -> list[Multiaddr]:
    """So many addresses of ours, each told from all these hosts."""
    made = [at(f"8.9.{n}.1") for n in range(count)]
    for n, lie in enumerate(made):
        for host in hosts:
            us.own.note_observed(by(ONE, host, 1000 + n), lie)
    return made


@in_virtual_time
async def test_a_network_has_one_voice_however_much_it_tells_over_however_many_connections() -> None:
    """Sixteen lies told twice, from one address, pushed what one honest server sees out of what is tested."""
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    told = [*lies(us, 16, "9.9.9.1"), *lies(us, 16, "9.9.9.2")]
    us.own.note_observed(by(TWO, "9.9.8.1"), at("8.8.4.4"))
    assert us.own.observed()[0] == us.own.seen()[0] == at("8.8.4.4")
    assert set(us.own.observed()) == {*told, at("8.8.4.4")}
    assert at("8.8.4.4") in autonat.candidates(us.own.bound(), us.own.observed())
    us.own.is_own = TWO.__eq__
    us.own.note_observed(by(ONE, "9.9.7.1"), at("8.8.8.8"))
    us.own.note_observed(by(ONE, "9.9.6.1"), at("8.8.8.8"))
    assert us.own.observed()[:2] == [at("8.8.4.4"), at("8.8.8.8")], "the owner's peers first"


@in_virtual_time
async def test_the_lies_of_one_network_take_no_place_among_those_that_count() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    lies(us, MOST_SEEN, "9.9.9.1", "9.9.9.2", "9.9.9.3")
    assert len(us.own.counting()) == MOST_SEEN
    for host in ("9.9.8.1", "9.9.7.1"):
        us.own.note_observed(by(TWO, host), at("8.8.4.4"))
    assert us.own.counting()[0] == at("8.8.4.4")
    us.own.is_own = TWO.__eq__
    us.own.note_observed(by(TWO, "9.9.9.4"), at("8.8.8.8"))
    assert set(us.own.counting()[:2]) == {at("8.8.4.4"), at("8.8.8.8")}


@in_virtual_time
async def test_the_kind_of_the_nat_is_told_as_soon_as_two_have_seen_us() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.note_observed(by(ONE, "9.9.9.1"), at("8.8.4.4", 700))
    await asyncio.sleep(0.001)
    us.changes.clear()
    us.own.note_observed(by(TWO, "9.9.9.2"), at("8.8.4.4", 9000))
    await asyncio.sleep(0.001)
    assert us.own.nat is NatKind.SYMMETRIC and us.changes == [Change.SEEN]
    us.own.note_observed(by(TWO, "9.9.9.2", direction="inbound"), at("8.8.4.4", 4011))
    assert us.own.nat is NatKind.SYMMETRIC, "where somebody has dialed us says nothing of what we dial"
    us.own.forget_connection(by(TWO, "9.9.9.2"))
    assert us.own.nat is NatKind.SYMMETRIC, "it is still so when they have gone"
    await us.move("10.0.0.7")
    assert us.own.nat is NatKind.UNKNOWN, "but not in another network"


@in_virtual_time
async def test_hosts_that_we_dialed_from_the_listening_port_are_remembered_until_we_move() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.note_connected(by(ONE, "9.9.9.1"))
    us.own.note_connected(by(ONE, "9.9.9.2", direction="inbound"))
    us.own.note_connected(by(ONE, "9.9.9.3", local_addr=at("192.168.1.7", 50000)))
    contacted = [us.own.is_contacted(at(f"9.9.9.{number}", 1)) for number in (1, 2, 3)]
    assert contacted == [True, False, False]
    await us.move("10.0.0.7")
    assert not us.own.is_contacted(at("9.9.9.1"))
    for number in range(MAX_CONTACTED):
        us.own.note_connected(by(ONE, f"9.8.{number // 256}.{number % 256}", local_addr=at("10.0.0.7")))
    assert us.own.is_contacted(at("1.2.3.4")), "too many to tell"


@in_virtual_time
async def test_statuses_say_kind_proof_and_end() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("192.168.1.7"))
    us.own.prove(at("8.8.4.4"), ONE)
    await asyncio.sleep(100)
    bound, proved = us.own.statuses()
    assert (bound.addr, bound.kind, bound.age_s) == (at("192.168.1.7"), "bound", None)
    assert (proved.kind, proved.by, proved.left_s) == ("proved", (ONE,), PROOF_S - proved.age_s)


@in_virtual_time
async def test_what_the_router_maps_is_no_address_of_ours_until_it_is_proved() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.set_mapped([at("8.8.4.4", 5), at("8.8.4.4", 5)])
    await asyncio.sleep(0.001)
    assert us.own.mapped() == (at("8.8.4.4", 5),) and at("8.8.4.4", 5) not in us.own.all()
    assert us.changes == [Change.MAPPED]
    us.own.set_mapped([at("8.8.4.4", 5)])
    await asyncio.sleep(0.001)
    assert us.changes == [Change.MAPPED], "no news"
    us.own.prove(at("8.8.4.4", 5), ONE)
    us.own.prove(at("8.8.4.4", 6), ONE)
    us.own.set_mapped([])
    await asyncio.sleep(0.001)
    assert us.changes[-1] == Change.TOLD
    assert us.own.all()[0] == at("8.8.4.4", 6), "what was proved of another port stands"
    assert at("8.8.4.4", 5) not in us.own.all()


@in_virtual_time
async def test_a_node_is_reached_by_a_mapping_where_no_other_address_is_proved() -> None:
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    us.own.set_mapped([at("8.8.4.4", 5)])
    assert not us.own.is_reached_by_mapping()
    us.own.prove(at("8.8.4.4", 5), ONE)
    assert us.own.is_reached_by_mapping()
    us.own.prove(at("192.168.1.7"), ONE)
    assert not us.own.is_reached_by_mapping()


@in_virtual_time
async def test_what_is_announced_has_its_ground_whatever_it_is() -> None:
    us = Us("192.0.2.1")
    relayed = Multiaddr.parse(f"/ip4/192.0.2.9/tcp/4011/p2p/{ONE}/p2p-circuit")
    us.own.bind(at("192.0.2.1"))
    us.own.set_relayed([relayed])
    told = [(one.addr, one.kind) for one in us.own.announced()]
    assert told == [(at("192.0.2.1"), "bound"), (relayed, "relayed")]


@in_virtual_time
async def test_what_is_seen_is_taken_apart_once_however_many_see_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is weighed with each change, and strangers change it: 12 ms each time with 500 of them."""
    us = Us("192.168.1.7")
    us.own.bind(at("192.168.1.7"))
    conns = [by(ONE, f"9.9.{n}.1") for n in range(100)]
    for n, conn in enumerate(conns):
        us.own.note_observed(conn, at("8.8.4.4", 5000 + n))
    taken: list[Multiaddr] = []

    def counted(addr: Multiaddr) -> TcpEndpoint | None:
        taken.append(addr)
        return tcp_endpoint(addr)

    monkeypatch.setattr("p2pfwd.net.own_addresses.tcp_endpoint", counted)
    us.own.note_observed(conns[0], at("8.8.4.4", 9000))
    assert len(taken) == 2, "where the connection ends, and where it is seen"
    us.own.forget_connection(conns[1])
    us.own.sights()
    assert len(taken) == 2


@in_virtual_time
async def test_strangers_have_it_told_seldom_that_we_are_seen_elsewhere_and_nothing_is_lost() -> None:
    """Each time is a new round of every effort for a direct connection, the owner's peers' included."""
    us = Us("192.168.1.7")
    us.own.bind(at("0.0.0.0"))
    for n in range(250):
        us.own.note_observed(by(ONE, "9.9.9.1"), at(f"8.8.{n}.4"))
        await asyncio.sleep(0.1)
    burst = int(SIGHTS.burst)
    assert burst <= len(us.changes) <= burst + 25 * SIGHTS.per_s + 1
    us.changes.clear()
    us.own.is_own = TWO.__eq__
    us.own.note_observed(by(TWO, "9.9.9.2"), at("8.8.4.4"))
    await asyncio.sleep(0.001)
    assert us.changes == [Change.SEEN], "the owner's peers' word is told at once"
    us.changes.clear()
    await asyncio.sleep(2 / SIGHTS.per_s)
    assert us.changes == [Change.SEEN], "what was said last is told in the end, once"
    us.own.note_observed(by(ONE, "9.9.9.1"), at("8.1.1.1"))
    us.own.unbind_all()
