"""net.port_mapping.datagrams: PCP and NAT-PMP with a router that is a thread on an address of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from p2pfwd.net.port_mapping import datagrams
from p2pfwd.net.port_mapping.contract import No, Sign
from p2pfwd.net.port_mapping.datagrams import NatPmp, Pcp
from p2pfwd.policy.port_mapping import Grant, Protocol
from p2pfwd.system.gateway import Gateway
from p2pfwd.wire import port_mapping as wire

ME = "127.0.0.1"
ROUTER = "127.{}.{}.{}".format(*(os.getpid() >> 16 & 127 | 128, os.getpid() >> 8 & 255, os.getpid() & 255))
GATEWAY = Gateway(ROUTER, ME)
WAN = "11.1.0.1"
GRANT = Grant(Protocol.PCP, WAN, 4012, 7200)
LEASE_S = 7200


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for a thread; a test that waits for silence does not wait long."""
    monkeypatch.setattr(datagrams, "PAUSES_S", (0.2, 0.2))


Answer = Callable[[bytes], list[bytes]]


@contextmanager
def router(answer: Answer) -> Iterator[list[bytes]]:
    """What it was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ROUTER, wire.PORT))

        def serve() -> None:
            while (data := sock.recvfrom(2000))[0]:
                asked.append(data[0])
                for each in answer(data[0]):
                    sock.sendto(each, data[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"", (ROUTER, wire.PORT))
            thread.join()


def pcp(question: bytes, *, port: int = 4012, lease_s: int = 3600, result: int = 0) -> bytes:
    if question[1] == 0:
        return struct.pack(">BBxBII12x", 2, 0x80, result, 0, 77)
    head = struct.pack(">BBxBII12x", 2, 0x81, result, lease_s, 77)
    address = bytes(10) + b"\xff\xff" + socket.inet_aton(WAN)
    return head + question[24:42] + struct.pack(">H", port) + address


def pmp(question: bytes, lease_s: int = 3600) -> bytes:
    if question[0] == 2:
        return struct.pack(">BBHI", 0, 0x81, 1, 77)
    if question[1] == 0:
        return struct.pack(">BBHI4s", 0, 0x80, 0, 77, socket.inet_aton(WAN))
    return struct.pack(">BBHI2sHI", 0, 0x82, 0, 77, question[4:6], 4012, lease_s)


def test_pcp_maps_checks_and_unmaps_with_one_nonce() -> None:
    async def life() -> None:
        way = Pcp()
        granted = await way.map(GATEWAY, 4011, 4011, LEASE_S)
        assert granted == Grant(Protocol.PCP, WAN, 4012, 3600, 77)
        assert await way.check(GATEWAY, 4011, GRANT) == Sign(77)
        await way.unmap(GATEWAY, 4011, GRANT)

    with router(lambda question: [pcp(question)]) as asked:
        asyncio.run(life())
    nonces = {question[24:36] for question in (asked[0], asked[2])}
    assert len(nonces) == 1 and nonces != {bytes(12)}
    assert asked[0] == wire.encode_pcp_map(ME, *nonces, 4011, 4011, LEASE_S)
    assert asked[2] == wire.encode_pcp_map(ME, *nonces, 4011, 4012, 0)


def test_nat_pmp_asks_for_the_address_then_the_port() -> None:
    async def life() -> None:
        way = NatPmp()
        granted = await way.map(GATEWAY, 4011, 4011, LEASE_S)
        assert granted == Grant(Protocol.NAT_PMP, WAN, 4012, 3600, 77)
        assert await way.check(GATEWAY, 4011, GRANT) == Sign(77, WAN)
        await way.unmap(GATEWAY, 4011, GRANT)

    with router(lambda question: [pmp(question)]) as asked:
        asyncio.run(life())
    assert asked[1] == wire.encode_pmp_map(4011, 4011, LEASE_S)
    assert asked[3] == wire.encode_pmp_map(4011, 0, 0)


@pytest.mark.parametrize(
    ("answer", "pcp_says", "pmp_says"),
    [
        pytest.param(lambda q: [pmp(q)], None, "Grant", id="NAT-PMP alone: PCP is as silent"),
        pytest.param(lambda q: [pcp(q, result=2)], "No", None, id="refused"),
        pytest.param(lambda q: [pcp(q, lease_s=0) if q[0] else pmp(q, 0)], "No", "No", id="for no time"),
        pytest.param(lambda q: [], None, None, id="silence"),
        pytest.param(lambda q: [b"\0", pcp(q) if q[0] else pmp(q)], "Grant", "Grant", id="noise first"),
        pytest.param(lambda q: [b"\0"] * 40, None, None, id="noise alone"),
        pytest.param(lambda q: [b"\x02" * 65000], None, None, id="a giant"),
    ],
)
def test_what_a_router_may_answer(answer: Answer, pcp_says: str | None, pmp_says: str | None) -> None:
    async def ask() -> tuple[Grant | No | None, Grant | No | None]:
        return await Pcp().map(GATEWAY, 4011, 4011, LEASE_S), await NatPmp().map(GATEWAY, 4011, 4011, LEASE_S)

    with router(answer):
        said = asyncio.run(ask())
    assert tuple(each and type(each).__name__ for each in said) == (pcp_says, pmp_says)


def test_a_question_is_repeated_and_a_router_without_the_port_is_known_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with router(lambda question: []) as asked:
        assert asyncio.run(Pcp().check(GATEWAY, 4011, GRANT)) is None
    assert len(asked) == len(datagrams.PAUSES_S)
    monkeypatch.setattr(datagrams, "PAUSES_S", (50.0,))
    assert asyncio.run(Pcp().check(GATEWAY, 4011, GRANT)) is None
    assert asyncio.run(Pcp().check(Gateway(ROUTER, "192.0.2.77"), 4011, GRANT)) is None, "not our address"


def test_a_router_that_knows_no_announce_has_the_mapping_all_the_same() -> None:
    with router(lambda question: [pcp(question, result=4)]):
        assert asyncio.run(Pcp().check(GATEWAY, 4011, GRANT)) == Sign()


def test_a_refused_check_means_that_the_mapping_is_not_there() -> None:
    with router(lambda question: [pcp(question, result=2)]):
        assert asyncio.run(Pcp().check(GATEWAY, 4011, GRANT)) == Sign(has_mapping=False)
    with router(lambda question: [struct.pack(">BBHI", 0, 0x80, 3, 9)]):
        assert asyncio.run(NatPmp().check(GATEWAY, 4011, GRANT)) == Sign(has_mapping=False)
