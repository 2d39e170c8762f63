"""Discovery: a find by ID asks every DHT at once and leaves no look-up behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.daemon.discovery import Discovery
from p2pfwd.errors import PeerNotFound, TimedOut
from tests.support.virtual_time import in_virtual_time

ADDR = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")


class FakeDht:
    def __init__(self, after_s: float, *found: Multiaddr, answered: int = 1) -> None:
        self.table = [1]
        self._after_s, self._found, self._answered = after_s, found, answered

    async def find_peer(self, peer_id: object) -> object:
        await asyncio.sleep(self._after_s)
        return SimpleNamespace(answered=self._answered, found=self._found)


def discovery(*dhts: FakeDht) -> Discovery:
    made = Discovery.__new__(Discovery)
    made.dhts = list(dhts)  # type: ignore[arg-type]
    made.bootstrap = SimpleNamespace(report=lambda: SimpleNamespace(state="joined"))  # type: ignore[assignment]
    return made


@in_virtual_time
async def test_the_lookups_that_lost_are_over_when_one_has_found_it() -> None:
    # HOUSE L2: they ran on for up to a minute, against the rule that every task has an owner.
    quick, slow = FakeDht(1, ADDR), FakeDht(50, ADDR)
    loop = asyncio.get_running_loop()
    began = loop.time()
    dht, result = await discovery(slow, quick).find_peer("peer", 60)  # type: ignore[arg-type]
    assert dht is quick and result.found == (ADDR,) and loop.time() - began < 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_the_lookups_are_over_when_the_time_is() -> None:
    with pytest.raises(TimedOut):
        await discovery(FakeDht(50), FakeDht(60)).find_peer("peer", 5)  # type: ignore[arg-type]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("answered", "said", "hint"),
    [
        (0, "nobody else in the DHT answers", "`p2pfwd ping` and `p2pfwd forward` try the addresses"),
        (1, "1 peer was asked", "is its daemon running"),
    ],
)
@in_virtual_time
async def test_the_cure_says_whether_anybody_could_be_asked(answered: int, said: str, hint: str) -> None:
    """Where the peer is the only one in the DHT, its daemon runs, and the cure is another one."""
    with pytest.raises(PeerNotFound, match=said) as caught:
        await discovery(FakeDht(1, answered=answered)).find_peer("peer", 5)  # type: ignore[arg-type]
    assert str(caught.value.hint).startswith(hint)
