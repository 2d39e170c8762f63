"""Pins which addresses of a peer are dialed, in which order, and when."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.policy.dial_plan import FAR_STEP_S, MAX_ADDRESSES, NEAR_STEP_S, PlannedDial, is_dialable, plan

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(31) + b"\x01")
LOOPBACK = "/ip4/127.0.0.1/tcp/1"
LOOPBACK_6 = "/ip6/::1/tcp/1"
PRIVATE = "/ip4/192.168.1.7/tcp/1"
PRIVATE_6 = "/ip6/fd00::7/tcp/1"
PUBLIC = "/ip4/198.51.100.7/tcp/1"
GLOBAL = "/ip4/1.2.3.4/tcp/1"
GLOBAL_6 = "/ip6/2a00::7/tcp/1"
NEAR, FAR = NEAR_STEP_S, FAR_STEP_S


def addrs(*texts: str) -> list[Multiaddr]:
    return [Multiaddr.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], []),
        ([GLOBAL], [(GLOBAL, 0.0)]),
        ([GLOBAL, PRIVATE, LOOPBACK], [(LOOPBACK, 0.0), (PRIVATE, NEAR), (GLOBAL, 2 * NEAR)]),
        ([GLOBAL, GLOBAL_6], [(GLOBAL_6, 0.0), (GLOBAL, FAR)]),
        ([PRIVATE, PRIVATE_6], [(PRIVATE_6, 0.0), (PRIVATE, NEAR)]),
        ([LOOPBACK, LOOPBACK_6], [(LOOPBACK_6, 0.0), (LOOPBACK, NEAR)]),
        ([GLOBAL, GLOBAL, f"{GLOBAL}/p2p/{PEER}"], [(GLOBAL, 0.0)]),
        (["/ip4/1.2.3.4/tcp/2", "/ip4/1.2.3.4/tcp/1"], [("/ip4/1.2.3.4/tcp/2", 0.0), (GLOBAL, FAR)]),
    ],
)
def test_near_before_far_and_six_before_four_each_a_little_later(
    known: list[str], expected: list[tuple[str, float]]
) -> None:
    planned = plan(addrs(*known))
    assert [str(dial.addr) for dial in planned] == [text for text, _ in expected]
    assert [dial.delay_s for dial in planned] == pytest.approx([delay for _, delay in expected])


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/1.2.3.4/udp/1/quic-v1",
        "/ip4/1.2.3.4/tcp/1/ws",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1",
        "/dns4/example.org/tcp/1",
        "/unix/tmp/x",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}/p2p-circuit",
    ],
)
def test_what_cannot_be_dialed_as_it_is_is_left_out(text: str) -> None:
    assert not is_dialable(Multiaddr.parse(text))
    assert plan(addrs(text)) == []


def test_own_addresses_are_left_out() -> None:
    assert plan(addrs(LOOPBACK, PRIVATE), own=addrs(f"{LOOPBACK}/p2p/{PEER}")) == [
        PlannedDial(Multiaddr.parse(PRIVATE), 0.0)
    ]


def test_a_hostile_list_is_cut() -> None:
    many = addrs(*(f"/ip4/1.2.3.{n}/tcp/1" for n in range(1, 200)), LOOPBACK)
    planned = plan(many)
    assert len(planned) == MAX_ADDRESSES and planned[0].addr == Multiaddr.parse(LOOPBACK)
    assert [dial.delay_s for dial in planned] == sorted(dial.delay_s for dial in planned)
