"""Admission: a peer, its network and a listen have shares; who opens tunnels and does not use them pauses."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ResourceLimitExceeded
from p2pfwd.forwarding.admission import Admission, ListenAdmission
from p2pfwd.forwarding.values import ForwardingLimits
from p2pfwd.policy.service_bounds import UNUSED_TUNNELS
from p2pfwd.policy.shares import Party, Rank
from tests.support.peers import peer
from tests.unit.policy.test_shares import party as new_party

party = cache(new_party)
"""One connection of each peer."""


class Node:
    def __init__(self, **limits: int) -> None:
        self.now = 0.0
        self.refused: list[tuple[str, bool]] = []
        self.ranks: dict[PeerId, Rank] = {}
        services: Any = SimpleNamespace(
            party=lambda conn: conn,
            refused=lambda stream, cause, *, hasty: self.refused.append((cause, hasty)),
            rank_of=lambda peer: self.ranks.get(peer, Rank.STRANGER),
        )
        self.whole = Admission(services, ForwardingLimits(**limits), lambda: self.now)  # type: ignore[arg-type]

    def listen(self) -> ListenAdmission:
        return self.whole.of_listen()


def stream(who: Party) -> Any:
    return SimpleNamespace(conn=who)


def let_in(listen: ListenAdmission, who: Party, times: int) -> int:
    return sum(listen.enter(stream(who)) is not None for _ in range(times))


def test_one_peer_has_half_of_a_listen_and_others_still_get_in() -> None:
    # FAULTS F9b: one peer held all 4,096 streams, 51 of 52 others were reset.
    node = Node()
    listen = node.listen()
    assert let_in(listen, party(1), 5000) == 2048
    assert let_in(listen, party(2), 100) == 100
    assert set(node.refused) == {("tunnel-streams", False)}


def test_a_listen_that_is_full_says_so_itself() -> None:
    listen = Node(max_streams_per_listener=8).listen()
    for number in range(8):
        assert listen.enter(stream(party(number))) is not None
    with pytest.raises(ResourceLimitExceeded, match="the limit of 8 streams"):
        listen.enter(stream(party(9)))
    listen.leave(party(1), used=True)
    assert listen.enter(stream(party(9))) is not None


def test_a_service_that_does_not_answer_leaves_dials_to_the_others() -> None:
    # FAULTS F9a: 256 dials in all and nobody's own: 56 of 66 connections to another service were reset.
    node = Node(max_pending_targets=64)
    dead, live = node.listen(), node.listen()

    def dial(listen: ListenAdmission, who: Party, times: int) -> int:
        begun = 0
        for _ in range(times):
            if listen.may_dial(stream(who), who):
                listen.dialing(who)
                begun += 1
        return begun

    assert dial(dead, party(1), 100) == 16, "a peer has half of what a listen has"
    assert sum(dial(dead, party(number), 100) for number in range(2, 40)) == 16
    assert dial(live, party(50), 16) == 16
    assert {cause for cause, _ in node.refused} == {"tunnel-dials"}
    dead.dialed(party(1))
    assert dial(dead, party(60), 1) == 1


def test_who_does_not_use_tunnels_pauses_and_nobody_else_does() -> None:
    node = Node()
    listen, other = node.listen(), node.listen()
    burst, rate = int(UNUSED_TUNNELS.peer.burst), int(UNUSED_TUNNELS.peer.per_s)
    for _ in range(burst):
        assert let_in(listen, party(1), 1)
        listen.leave(party(1), used=False)
    assert let_in(listen, party(1), 100) == 0 and let_in(other, party(1), 1) == 0
    assert set(node.refused) == {("tunnel-unused", True)}
    assert let_in(listen, party(2), 10) == 10
    node.now += 1.0
    let_in_again = 0
    while let_in(listen, party(1), 1):
        listen.leave(party(1), used=False)
        let_in_again += 1
    assert let_in_again == rate


def test_tunnels_that_are_used_have_no_rate() -> None:
    # ab -c 200 opens hundreds a second from one peer.
    listen = Node().listen()
    for _ in range(20_000):
        assert let_in(listen, party(1), 1)
        listen.leave(party(1), used=True)


def test_who_was_served_before_comes_in_past_other_networks_and_not_past_its_own() -> None:
    """To be served takes a tunnel and an hour: that must not make a network's share larger."""
    node = Node(max_streams_per_listener=64)
    listen = node.listen()
    served = [new_party(n, f"/ip4/192.0.2.1/tcp/{n}") for n in range(1, 9)]
    node.ranks = {one.peer: Rank.SERVED for one in served}
    assert sum(let_in(listen, one, 64) for one in served) == 40, "five eighths are a network's"
    assert sum(let_in(listen, party(n), 12) for n in (20, 21)) == 24, "the rest is strangers'"
    with pytest.raises(ResourceLimitExceeded):
        listen.enter(stream(party(22)))
    elsewhere = new_party(100, "/ip4/198.51.100.1/tcp/1")
    node.ranks[elsewhere.peer] = Rank.SERVED
    assert let_in(listen, elsewhere, 1) and not let_in(listen, served[0], 1)


def test_over_a_relay_who_was_served_before_is_bound_as_strangers_are() -> None:
    """It has no network there that could bind it."""
    node = Node(max_streams_per_listener=64)
    listen = node.listen()
    over = Multiaddr.parse(f"/ip4/9.9.9.9/tcp/1/p2p/{peer(900)}/p2p-circuit")
    served = [Party.at(peer(n), over) for n in range(8)]
    node.ranks = {one.peer: Rank.SERVED for one in served}
    assert [let_in(listen, one, 12) for one in served[:5]] == [12] * 5
    with pytest.raises(ResourceLimitExceeded):
        let_in(listen, served[5], 12)


def test_the_owners_peers_are_bound_by_their_own_share_whatever_strangers_hold() -> None:
    # Strangers from three hundred networks, fifteen tunnels each, held all of a listen.
    node = Node(max_streams_per_listener=64, max_pending_targets=32)
    listen, own = node.listen(), new_party(200, "/ip4/192.0.2.1/tcp/1")
    node.ranks[own.peer] = Rank.OWN
    assert sum(let_in(listen, party(number), 4) for number in range(16)) == 64
    assert let_in(listen, own, 40) == 32, "half of a listen is a peer's"
    for number in range(16):
        while listen.may_dial(stream(party(number)), party(number)):
            listen.dialing(party(number))
    dials = 0
    while listen.may_dial(stream(own), own):
        listen.dialing(own)
        dials += 1
    assert dials == 8
    other = node.listen()
    neighbours = [new_party(number, "/ip4/192.0.2.1/tcp/9") for number in range(300, 303)]
    for _ in range(int(UNUSED_TUNNELS.network.burst)):
        for neighbour in neighbours:
            if other.enter(stream(neighbour)) is not None:
                other.leave(neighbour, used=False)
    assert not let_in(other, new_party(310, "/ip4/192.0.2.1/tcp/9"), 1), "their network has to pause"
    assert let_in(other, own, 1), "whose port scans these were"
