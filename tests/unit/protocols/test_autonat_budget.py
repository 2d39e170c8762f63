"""The budget of dials on others' behalf: strangers use up theirs, and not the owner's peers'."""

from __future__ import annotations

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.refusals import Refusals
from p2pfwd.policy.service_bounds import AUTONAT_DIALS
from p2pfwd.policy.shares import Party, Rank
from p2pfwd.protocols.autonat.budget import Budget


def party(number: int) -> Party:
    peer = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
    return Party.at(peer, Multiaddr.parse(f"/ip4/{number + 1}.2.3.4/tcp/1"))


def test_strangers_from_everywhere_leave_the_owners_peers_their_own_share() -> None:
    own, refusals = party(200), Refusals()
    budget = Budget(refusals, lambda peer: Rank.OWN if peer == own.peer else Rank.STRANGER)
    asked = [budget.take(party(number)) for number in range(100)]
    assert sum(asked) == AUTONAT_DIALS.all.burst  # type: ignore[union-attr]
    assert [budget.take(own) for _ in range(6)] == [True] * 5 + [False]
    assert refusals.counts["autonat-dials"] == 100 - 40 + 1
