"""Search: what a lookup has found is dialed beside going on, so that liars cost a second each and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.protocols.kad.search import MAX_ATTEMPTS, MAX_DIALED, Answer, Search
from p2pfwd.wire.kad.messages import KadPeer
from p2pfwd.wire.kad.query import Lookup
from p2pfwd.wire.kad.query_values import FIRST, Ending, Goal, LookupResult
from tests.support.virtual_time import in_virtual_time


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + number.to_bytes(32, "big"))


TARGET, SELF = peer(1000), peer(1001)
TRUE = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
DIAL_S = 9.0
"""Until a dial of an address at which nobody is fails."""


def lie(liar: int, which: int) -> Multiaddr:
    return Multiaddr.parse(f"/ip4/203.0.113.{which + 1}/tcp/{liar + 1}")


class Network:
    """Servers that tell addresses of the target at once, the liars wrong ones; and the dials of those."""

    def __init__(
        self,
        liars: int,
        honest: int = 1,
        *,
        delay_s: float = 0.0,
        each: int = 1,
        fails_after_s: float = DIAL_S,
    ) -> None:
        self.told = {peer(n): tuple(lie(n, which) for which in range(each)) for n in range(liars)}
        self.told |= {peer(liars + n): (TRUE,) for n in range(honest)}
        self.delay_s = delay_s
        self.fails_after_s = fails_after_s
        self.asked: set[PeerId] = set()
        self.dials: list[tuple[float, tuple[Multiaddr, ...]]] = []
        self.dialing = self.most_dialing = 0

    async def ask(self, asked: PeerId) -> Answer:
        self.asked.add(asked)
        # The honest are the last to answer, one after the other after the liars.
        await asyncio.sleep(0.1 * list(self.told).index(asked))
        return SimpleNamespace(remote_peer=asked), None  # type: ignore[return-value]

    async def attempt(self, addrs: Sequence[Multiaddr]) -> bool:
        self.dialing += 1
        self.most_dialing = max(self.most_dialing, self.dialing)
        self.dials.append((asyncio.get_running_loop().time(), tuple(addrs)))
        try:
            if TRUE in addrs:
                await asyncio.sleep(self.delay_s)
                return True
            await asyncio.sleep(self.fails_after_s)
            return False
        finally:
            self.dialing -= 1

    async def find(self, attempt: Any = True) -> tuple[LookupResult, float]:
        loop = asyncio.get_running_loop()
        query = Lookup(Goal.PEER, TARGET.to_bytes(), list(self.told), local=SELF, now=loop.time())

        def report(asked: PeerId, task: asyncio.Task[Answer]) -> None:
            query.on_response(asked, [KadPeer(TARGET, self.told[asked])], loop.time())

        began = loop.time()
        search = Search(query, self.ask, report, self.attempt if attempt else None, loop.time)
        result = await search.run()
        return result, loop.time() - began


@in_virtual_time
async def test_an_honest_answer_is_dialed_and_nobody_else_is_asked_meanwhile() -> None:
    network = Network(liars=0, honest=1, delay_s=0.5)
    result, elapsed_s = await network.find()
    assert (result.ending, result.found) == (Ending.FOUND, (TRUE,))
    assert elapsed_s < 1.0 and len(network.dials) == 1


@in_virtual_time
async def test_six_liars_do_not_use_up_the_lookup() -> None:
    # HOUSE L19: dialed one after the other, six of them took 54 of the 60 seconds.
    network = Network(liars=6)
    result, elapsed_s = await network.find()
    assert result.ending is Ending.FOUND and TRUE in result.found
    assert elapsed_s < 8.0, "a second each, and the true one's moment"
    assert asyncio.all_tasks() == {asyncio.current_task()}, "the dials that lost are over"


@in_virtual_time
async def test_twenty_liars_have_a_few_dials_at_once_and_are_dialed_together() -> None:
    network = Network(liars=19)
    result, elapsed_s = await network.find()
    assert TRUE in result.found
    assert max(len(addrs) for _, addrs in network.dials) <= MAX_DIALED
    assert network.most_dialing <= MAX_ATTEMPTS
    assert elapsed_s < 2 * DIAL_S
    tried = [addr for _, addrs in network.dials for addr in addrs]
    assert len(tried) == len(set(tried)), "no address is dialed twice"


@in_virtual_time
async def test_with_liars_alone_it_ends_when_their_dials_have() -> None:
    network = Network(liars=3, honest=0)
    result, elapsed_s = await network.find()
    assert result.ending is not Ending.FOUND and result.found == ()
    assert elapsed_s < DIAL_S + 4.0


@in_virtual_time
async def test_without_dials_it_ends_with_the_first_that_is_told() -> None:
    network = Network(liars=1)
    result, elapsed_s = await network.find(attempt=False)
    assert result.ending is Ending.FOUND and not network.dials and elapsed_s < 1


@in_virtual_time
async def test_a_dial_that_fails_early_gives_up_its_head_start() -> None:
    network = Network(liars=1)

    async def attempt(addrs: Sequence[Multiaddr]) -> bool:
        return TRUE in addrs

    network.attempt = attempt  # type: ignore[method-assign]
    _, elapsed_s = await network.find()
    assert elapsed_s < 0.5


@pytest.mark.parametrize("fails_after_s", [DIAL_S, 0.0])
@in_virtual_time
async def test_sixteen_liars_of_sixteen_addresses_each_do_not_hide_who_answers_last(
    fails_after_s: float,
) -> None:
    """Nobody answers there, or all refuse: half a minute went by, or all that one look-up may dial."""
    network = Network(liars=16, each=16, fails_after_s=fails_after_s)
    result, elapsed_s = await network.find()
    assert result.ending is Ending.FOUND and TRUE in result.found
    assert elapsed_s < 5.0
    tried = [addr for _, addrs in network.dials for addr in addrs]
    assert len(tried) <= 16 + 15 * FIRST + 1, "all of one liar, and the first of each other"


@in_virtual_time
async def test_all_that_was_told_is_dialed_in_the_end_and_each_once() -> None:
    network = Network(liars=5, honest=0, each=16, fails_after_s=1.0)
    result, _ = await network.find()
    assert result.ending is Ending.CONVERGED and result.found == ()
    tried = sorted(str(addr) for _, addrs in network.dials for addr in addrs)
    assert tried == sorted(str(addr) for told in network.told.values() for addr in told)
    assert max(len(addrs) for _, addrs in network.dials) <= MAX_DIALED
    assert network.most_dialing <= MAX_ATTEMPTS


@in_virtual_time
async def test_others_are_asked_while_lies_are_dialed() -> None:
    """Nobody else was before all that the first ones had told was dialed in vain."""
    network = Network(liars=20, honest=0, each=16, fails_after_s=1000.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5.0):
            await network.find()
    assert network.asked == set(network.told)
