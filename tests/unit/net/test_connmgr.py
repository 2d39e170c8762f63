"""Pins admission and trimming: who may come, who must go, who is spared."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import cast

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.net.connmgr import ConnMgr
from p2pfwd.net.link.conn import Conn
from p2pfwd.net.settings import SwarmSettings

NOW = 1000.0


def peer(number: int) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))


def addr(host: str, port: int = 1) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/{host}/tcp/{port}")


SOMEWHERE = addr("192.0.2.1")


@dataclass
class FakeConn:
    remote_peer: PeerId
    remote_addr: Multiaddr = SOMEWHERE
    direction: str = "inbound"
    opened_at: float = 0.0
    streams: dict[int, object] = field(default_factory=dict)


def conns(*fakes: FakeConn) -> list[Conn]:
    return cast("list[Conn]", list(fakes))


def manager(**settings: float) -> ConnMgr:
    return ConnMgr(SwarmSettings(**settings))  # type: ignore[arg-type]


def test_admission_counts_while_the_handshake_lasts_and_not_after() -> None:
    it = manager(max_pending_inbound_per_ip=2)
    with ExitStack() as stack:
        for port in (1, 2):
            stack.enter_context(it.pending_inbound(addr("192.0.2.1", port), []))
        with pytest.raises(ResourceLimitExceeded), it.pending_inbound(addr("192.0.2.1", 3), []):
            pass
        with it.pending_inbound(addr("192.0.2.2"), []):
            pass
    assert not it._pending
    with it.pending_inbound(addr("192.0.2.1"), []):
        pass


def test_a_failed_handshake_gives_its_place_back() -> None:
    it = manager(max_pending_inbound=1)
    with pytest.raises(ZeroDivisionError), it.pending_inbound(addr("192.0.2.1"), []):
        raise ZeroDivisionError
    with it.pending_inbound(addr("192.0.2.1"), []):
        pass


def test_handshakes_count_as_connections_to_be() -> None:
    it = manager(max_connections=2)
    there = conns(FakeConn(peer(1)))
    with (
        it.pending_inbound(addr("192.0.2.1"), there),
        pytest.raises(ResourceLimitExceeded),
        it.pending_inbound(addr("192.0.2.2"), there),
    ):
        pass


def test_one_address_has_its_limit_of_inbound_connections_and_loopback_has_none() -> None:
    it = manager(max_connections_per_ip=1, max_pending_inbound_per_ip=1)
    there = conns(FakeConn(peer(1)), FakeConn(peer(2), direction="outbound", remote_addr=addr("192.0.2.9")))
    with pytest.raises(ResourceLimitExceeded), it.pending_inbound(addr("192.0.2.1", 9), there):
        pass
    with it.pending_inbound(addr("192.0.2.9"), there):
        pass
    local = conns(*(FakeConn(peer(n), remote_addr=addr("127.0.0.1", n)) for n in range(1, 9)))
    with it.pending_inbound(addr("127.0.0.1"), local), it.pending_inbound(addr("127.0.0.1"), local):
        pass


def test_protection_lasts_until_the_last_tag_is_gone() -> None:
    it = manager()
    it.protect(peer(1), "a")
    it.protect(peer(1), "a")
    it.protect(peer(1), "b")
    it.unprotect(peer(1), "a")
    it.unprotect(peer(1), "never there")
    assert it.is_protected(peer(1))
    it.unprotect(peer(1), "b")
    it.unprotect(peer(2), "b")
    assert not it.is_protected(peer(1)) and not it._protected


def test_nothing_is_trimmed_up_to_the_high_water_mark() -> None:
    it = manager(high_water=3, low_water=1, grace_s=10)
    assert it.to_trim(conns(*(FakeConn(peer(n)) for n in range(3))), NOW) == []


def test_the_longest_idle_strangers_go_first_and_the_useful_stay() -> None:
    it = manager(high_water=4, low_water=2, grace_s=10)
    old, older, outbound = FakeConn(peer(1), opened_at=5), FakeConn(peer(2)), FakeConn(peer(3))
    outbound.direction = "outbound"
    busy = FakeConn(peer(4), streams={1: object()})
    protected, young = FakeConn(peer(5)), FakeConn(peer(6), opened_at=NOW - 9)
    it.protect(peer(5), "stream")
    trimmed = it.to_trim(conns(busy, protected, young, old, older, outbound), NOW)
    assert trimmed == conns(older, old, outbound)
    it.protect(peer(1), "stream")
    assert it.to_trim(conns(busy, protected, young, old, older, outbound), NOW) == conns(older, outbound)


def test_no_more_than_needed_are_trimmed() -> None:
    it = manager(high_water=4, low_water=3, grace_s=10)
    assert len(it.to_trim(conns(*(FakeConn(peer(n)) for n in range(5))), NOW)) == 2
