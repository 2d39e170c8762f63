"""When holes are punched, whom at, how often: the tables."""

from __future__ import annotations

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.policy import punching
from p2pfwd.policy.nat_kind import NatKind
from p2pfwd.policy.paths import PathCode, Way
from p2pfwd.policy.punching import Plan, Spread

RELAY = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def addrs(*texts: str) -> tuple[Multiaddr, ...]:
    """`11.0.0.1:5` is an IPv4 TCP address."""
    full = (text if text[0] == "/" else "/ip4/{}/tcp/{}".format(*text.split(":")) for text in texts)
    return tuple(map(Multiaddr.parse, full))


HERE = addrs("11.0.0.9:4011")


@pytest.mark.parametrize(
    ("told", "is_own", "dialed"),
    [
        (["11.0.0.1:1"], False, ["11.0.0.1:1"]),
        (["11.0.0.1:1", "11.0.0.2:1"], False, ["11.0.0.1:1"]),  # a third party, perhaps
        (["11.0.0.1:1", "11.0.0.2:1"], True, ["11.0.0.1:1", "11.0.0.2:1"]),
        (["11.0.0.1:1", "/ip6/2a11::1/tcp/1"], False, ["11.0.0.1:1", "/ip6/2a11::1/tcp/1"]),
        ([f"11.0.0.1:{n}" for n in range(1, 17)], False, [f"11.0.0.1:{n}" for n in range(1, 5)]),
        ([f"11.0.0.1:{n}" for n in range(1, 17)], True, [f"11.0.0.1:{n}" for n in range(1, 9)]),
        (["192.168.1.2:1", "10.0.0.1:1", "127.0.0.1:1", "169.254.1.1:1", "0.0.0.0:1"], True, []),
        (["11.0.0.9:7", "192.168.1.2:1"], True, ["11.0.0.9:7", "192.168.1.2:1"]),  # behind our own router
        (["11.0.0.9:7", "192.168.1.2:1", "10.0.0.5:22"], False, ["11.0.0.9:7"]),  # by a stranger's word
        (["11.0.0.1:0"], True, []),
        (["/ip4/11.0.0.1/udp/1/quic-v1", "/dns4/x.example/tcp/1", "/ip4/11.0.0.1/tcp/1/ws"], True, []),
        ([f"/ip4/11.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit"], True, []),
        ([f"/ip4/11.0.0.1/tcp/1/p2p/{RELAY}"], False, ["11.0.0.1:1"]),
    ],
)
def test_which_of_a_peers_addresses_are_dialed(told: list[str], is_own: bool, dialed: list[str]) -> None:
    assert punching.targets(addrs(*told), HERE, is_own=is_own) == addrs(*dialed)


@pytest.mark.parametrize(
    ("told", "spread"),
    [
        ([], Spread.ONE),
        (["11.0.0.1:5"], Spread.ONE),
        (["11.0.0.1:5", "11.0.0.2:9000"], Spread.ONE),
        (["11.0.0.1:20001", "11.0.0.1:20002"], Spread.NEAR),
        (["11.0.0.1:21572", "11.0.0.1:15330"], Spread.WIDE),
    ],
)
def test_what_a_peers_ports_say_of_its_router(told: list[str], spread: Spread) -> None:
    assert punching.spread(addrs(*told)) is spread


ONE, NEAR, WIDE = ["11.0.0.1:5"], ["11.0.0.1:5", "11.0.0.1:6"], ["11.0.0.1:5", "11.0.0.1:9000"]
UNKNOWN, NONE, EI = NatKind.UNKNOWN, NatKind.NONE, NatKind.ENDPOINT_INDEPENDENT
SYMMETRIC, SEQUENTIAL = NatKind.SYMMETRIC, NatKind.SEQUENTIAL


@pytest.mark.parametrize(
    ("here", "told", "plan"),
    [
        (EI, ONE, Plan(3, PathCode.FAILED)),
        (NONE, ONE, Plan(3, PathCode.FAILED)),
        (UNKNOWN, ONE, Plan(3, PathCode.FAILED)),
        (EI, NEAR, Plan(3, PathCode.FAILED)),
        (EI, WIDE, Plan(1, PathCode.SYMMETRIC_THERE)),
        (SYMMETRIC, ONE, Plan(1, PathCode.SYMMETRIC_HERE)),
        (SYMMETRIC, WIDE, Plan(0, PathCode.SYMMETRIC_BOTH)),
        (SEQUENTIAL, WIDE, Plan(0, PathCode.SYMMETRIC_BOTH)),
        (SEQUENTIAL, ONE, Plan(3, PathCode.SYMMETRIC_HERE)),
        (EI, [], Plan(0, PathCode.NO_ADDRESS_THERE)),
        (EI, ["192.168.1.1:5"], Plan(0, PathCode.NO_ADDRESS_THERE)),
    ],
)
def test_how_often_is_tried(here: NatKind, told: list[str], plan: Plan) -> None:
    assert punching.plan(here, addrs(*told), HERE, is_own=False) == plan


def test_behind_one_router_its_kind_does_not_matter() -> None:
    told = addrs("11.0.0.9:5", "11.0.0.9:9000", "10.0.0.2:4011")
    assert punching.plan(SYMMETRIC, told, HERE, is_own=True) == Plan(1, PathCode.SYMMETRIC_BOTH)
    assert punching.plan(SYMMETRIC, told, HERE, is_own=False) == Plan(0, PathCode.SYMMETRIC_BOTH)


def test_who_knows_no_address_of_its_own_tries_nothing() -> None:
    assert punching.plan(EI, addrs(*ONE), (), is_own=True) == Plan(0, PathCode.NO_ADDRESS_HERE)


@pytest.mark.parametrize(
    ("nat", "seen", "announced", "upcoming", "offered"),
    [
        (EI, ["11.0.0.9:1"], [], [], ["11.0.0.9:1"]),
        (EI, ["11.0.0.9:1"], ["11.0.0.9:1", "10.0.0.1:1", "127.0.0.1:1"], [], ["11.0.0.9:1"]),
        (NONE, [], ["11.0.0.9:1"], [], ["11.0.0.9:1"]),
        (SYMMETRIC, ["11.0.0.9:1", "11.0.0.9:900", "11.0.0.9:99"], [], [], ["11.0.0.9:1", "11.0.0.9:900"]),
        (SEQUENTIAL, ["11.0.0.9:5"], [], [6, 7], ["11.0.0.9:6", "11.0.0.9:7", "11.0.0.9:5"]),
        (EI, [f"11.0.0.9:{n}" for n in range(1, 20)], [], [], [f"11.0.0.9:{n}" for n in range(1, 9)]),
    ],
)
def test_what_is_offered(
    nat: NatKind, seen: list[str], announced: list[str], upcoming: list[int], offered: list[str]
) -> None:
    assert punching.offer(nat, addrs(*seen), addrs(*announced), upcoming) == addrs(*offered)


def test_private_addresses_are_told_to_an_own_peer_behind_the_same_router_only() -> None:
    bound = addrs("10.1.0.2:4011", "127.0.0.1:4011", "11.0.0.3:4011")
    assert punching.near(HERE, addrs("11.0.0.9:77"), bound, is_own=True) == list(addrs("10.1.0.2:4011"))
    assert punching.near(HERE, addrs("11.0.0.9:77"), bound, is_own=False) == []
    assert punching.near(HERE, addrs("11.0.0.1:4011"), bound, is_own=True) == []


def test_pauses_double_to_an_hour() -> None:
    assert [punching.again_s(n) for n in (1, 2, 3, 4, 7, 8, 5000)] == [60, 120, 240, 480, 3600, 3600, 3600]


def test_a_plain_dial_has_time_by_the_round_trip_and_never_more_than_a_try() -> None:
    assert [punching.direct_limit_s(rtt) for rtt in (None, 0.01, 0.25, 3.0)] == [0.5, 0.5, 1.5, 5.0]


@pytest.mark.parametrize(
    ("knows_a", "is_known", "lead_s"),
    [(False, False, 0.1), (True, False, -0.02), (False, True, 0.2), (True, True, 0.2)],
)
def test_when_b_dials(knows_a: bool, is_known: bool, lead_s: float) -> None:
    assert punching.lead_s(0.2, knows_a=knows_a, is_known=is_known) == lead_s


@pytest.mark.parametrize(
    ("way", "direct", "relayed", "limited"),
    [
        (Way(), True, True, False),
        (Way(limited=True), True, True, True),
        (Way("direct", limited=True), True, False, False),
        (Way("relay"), False, True, False),
        (Way("relay", limited=True), False, True, True),
    ],
)
def test_what_a_tunnel_may_go_over(way: Way, direct: bool, relayed: bool, limited: bool) -> None:
    assert way.fits(is_relayed=False, is_limited=False) is direct
    assert way.fits(is_relayed=True, is_limited=False) is relayed
    assert way.fits(is_relayed=True, is_limited=True) is limited


def test_every_code_has_words_that_begin_with_the_path() -> None:
    for code in PathCode:
        assert code.words.startswith("direct" if code.is_direct else "relayed"), code
