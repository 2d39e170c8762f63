"""Denied requests: the last first, and bounded per peer, per network and in all."""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.forwarding.requests import Requests
from p2pfwd.policy.service_bounds import ACCESS_REQUESTS, NEW_ACCESS_REQUESTS
from p2pfwd.policy.shares import Party
from tests.support.peers import peer

SLOW_S = 1000.0
"""Between two requests, where their rate is not what is tested."""


class Asked:
    """Requests under a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.requests = Requests(lambda: self.now)

    def ask(self, number: int, host: str, protocol: str = "/x/a", after_s: float = SLOW_S) -> None:
        self.now += after_s
        address = f"/ip4/{host}/tcp/1"
        self.requests.note(Party.at(peer(number), Multiaddr.parse(address)), protocol, address)

    def shown(self) -> list[tuple[int, str]]:
        numbers = {peer(n): n for n in range(400)}
        return [(numbers[it.party.peer], it.protocol) for it in self.requests.all()]


def test_the_one_asked_for_last_comes_first() -> None:
    asked = Asked()
    asked.ask(1, "192.0.2.1")
    asked.ask(2, "198.51.100.1")
    asked.ask(1, "192.0.2.9")
    assert asked.shown() == [(1, "/x/a"), (2, "/x/a")]
    request = asked.requests.all()[0]
    assert (request.count, request.first_at, request.last_at) == (2, SLOW_S, 3 * SLOW_S)
    assert request.address == "/ip4/192.0.2.9/tcp/1"
    asked.requests.forget(lambda one, _protocol: one == peer(1))
    assert asked.shown() == [(2, "/x/a")]


def test_a_peer_that_asks_for_everything_pushes_out_its_own() -> None:
    asked = Asked()
    asked.ask(2, "198.51.100.1")
    for n in range(20):
        asked.ask(1, "192.0.2.1", f"/x/{n}")
    assert asked.shown() == [*((1, f"/x/{n}") for n in range(19, 19 - ACCESS_REQUESTS.peer, -1)), (2, "/x/a")]


def test_many_identities_of_one_address_push_out_each_other() -> None:
    asked = Asked()
    asked.ask(300, "198.51.100.1")
    asked.ask(301, "192.0.2.77")  # a neighbour
    for n in range(1, 60):
        asked.ask(n, "192.0.2.1")
    shown = [number for number, _ in asked.shown()]
    assert shown[: ACCESS_REQUESTS.network] == list(range(59, 59 - ACCESS_REQUESTS.network, -1))
    assert {300, 301} <= set(shown) and len(shown) == ACCESS_REQUESTS.network + 2


def test_of_all_the_largest_crowd_gives_way() -> None:
    asked = Asked()
    for n in range(16):
        asked.ask(n, f"192.0.2.{n}")  # a /24 with its whole share
    for n in range(16, ACCESS_REQUESTS.all):
        asked.ask(n, f"10.{n}.0.1")
    asked.ask(399, "203.0.113.1")
    shown = [number for number, _ in asked.shown()]
    assert len(shown) == ACCESS_REQUESTS.all and shown[0] == 399 and 0 not in shown and 16 in shown


def test_new_ones_have_a_rate_and_known_ones_are_counted_all_the_same() -> None:
    asked = Asked()
    burst = int(NEW_ACCESS_REQUESTS.network.burst)
    for n in range(30):
        asked.ask(n, "192.0.2.1", after_s=0.0)
    assert len(asked.shown()) == burst
    for _ in range(5):
        asked.ask(0, "192.0.2.1", after_s=0.0)
    assert asked.requests.all()[0].count == 6
    asked.ask(99, "198.51.100.1", after_s=0.0)
    assert asked.shown()[0] == (99, "/x/a"), "others are not kept out by it"
    asked.ask(31, "192.0.2.1", after_s=1 / NEW_ACCESS_REQUESTS.network.per_s)
    assert asked.shown()[0] == (31, "/x/a")


def test_programs_of_this_machine_count_by_peer() -> None:
    asked = Asked()
    for n in range(20):
        asked.ask(n, "127.0.0.1")
    assert len(asked.shown()) == 20


def test_who_may_ask_as_often_as_at_first_again_leaves_nothing_but_the_request() -> None:
    asked = Asked()
    asked.ask(1, "192.0.2.1")
    asked.requests.forget_full()
    assert [len(paces) for _, paces in asked.requests._paced._buckets] == [1, 1, 1, 0]
    asked.now += SLOW_S
    asked.requests.forget_full()
    assert not any(paces for _, paces in asked.requests._paced._buckets) and len(asked.shown()) == 1
