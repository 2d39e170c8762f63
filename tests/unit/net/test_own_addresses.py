"""net.own_addresses: what is bound, seen and proved; what is told; and the one event of it."""

from __future__ import annotations

import asyncio

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.own_addresses import Change, OwnAddresses
from p2pfwd.policy.proofs import PROOF_S
from p2pfwd.system.interfaces import Interface, Interfaces, Listing
from tests.support.virtual_time import in_virtual_time

ONE, TWO = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in (1, 2))


def at(host: str, port: int = 4011) -> Multiaddr:
    return Multiaddr.parse(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")


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
    us.own.note_observed(ONE, at("8.8.4.4", 999))
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
async def test_observed_addresses_end_with_their_observers_and_the_most_seen_goes_first() -> None:
    us = Us()
    us.own.note_observed(ONE, at("8.8.4.4", 1))
    us.own.note_observed(TWO, at("8.8.8.8", 2))
    await asyncio.sleep(0.001)
    us.own.note_observed(ONE, at("8.8.8.8", 2))
    await asyncio.sleep(0.001)
    assert us.own.observed() == [at("8.8.8.8", 2)]
    assert us.changes == [Change.SEEN], "the second change is of a host that was seen before"
    seen = us.own.statuses()[-1]
    assert seen.kind == "observed" and set(seen.by) == {ONE, TWO}
    us.own.forget_observer(ONE)
    us.own.forget_observer(TWO)
    us.own.forget_observer(TWO)
    assert us.own.observed() == []


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
