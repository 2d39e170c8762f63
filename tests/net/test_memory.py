"""Pins what a host keeps of strangers that are gone, once it gives memory back: nothing of each."""

from __future__ import annotations

import gc
from collections import Counter

from p2pfwd.peers.store import PeerEntry
from p2pfwd.policy.pace import Pace
from tests.net.swarm_rig import swarm
from tests.support.loops import on_both_loops, until
from tests.support.raw_peer import RawPeer


def alive() -> Counter[type]:
    """How many there are of what is kept for each peer or network."""
    gc.collect()
    return Counter(type(it) for it in gc.get_objects() if type(it) in (Pace, PeerEntry))


@on_both_loops
async def test_of_strangers_that_told_nothing_nothing_outlives_a_release() -> None:
    """Small things that outlive a flood, here and there in what it took, keep all of that from the system."""
    async with swarm() as victim:
        address = victim.listen_addrs()[0]
        before = alive()
        for _ in range(3):
            async with await RawPeer.dial(address) as peer:
                await until(lambda who=peer.peer_id: bool(victim.conns(who)))  # type: ignore[misc]
        await until(lambda: not victim.conns())
        assert alive()[Pace] > before[Pace], "their networks are counted"

        def is_gone() -> bool:
            for spare in victim.memory._spares:
                spare()
            return not alive() - before

        await until(is_gone)
