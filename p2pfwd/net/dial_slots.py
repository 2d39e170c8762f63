"""How many strangers are dialed at once, and who is next.

Rules: a dial counts for each network that it may hang in: those of all its addresses, the relays that these
lead through, and the names, which count as one network, for where they lead is not known before they are
asked. Any of them may be the one that does not answer, and the dial lasts until the last has failed; would
one alone count, whoever makes up addresses would put another before it. Who finds no room waits, but not for
ever. A slot goes to whose networks have used up least of their shares, of equals to who came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, is_relayed, split_circuit
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialTimeout
from p2pfwd.net.resolver import has_name
from p2pfwd.policy.networks import Network, networks
from p2pfwd.policy.shares import Held, Most, Party

DIALS: Final = Most(all=64, peer=1, network=8)
"""Dials of strangers, each with a few addresses, made on others' word. Whose addresses are alive is dialed in
a fraction of a second; in a dead network each takes as long as a dial may."""

WAIT_S: Final = 30.0
"""How long one waits at most: as long as a dial may last. Most who asked have given up before, and where more
is asked for than dead networks let end, the queue would grow without end."""

NAMES: Final = Network("names", 0)
"""All of them."""


def dialed(peer_id: PeerId, addrs: Iterable[Multiaddr]) -> Party:
    """Whom a dial of these addresses counts for. Programs of this machine count by peer only."""
    found: dict[Network, None] = {}
    for addr in addrs:
        relay, hop = split_circuit(addr) if is_relayed(addr) else (None, addr)
        if relay is not None:
            found[Network(str(relay), 0)] = None
        if hop is None:
            continue
        if has_name(hop):
            found[NAMES] = None
        elif address_class(hop) is not AddressClass.LOOPBACK:
            found |= dict.fromkeys(networks(hop))
    return Party(peer_id, tuple(found))


class DialSlots:
    """Of one swarm."""

    def __init__(self) -> None:
        self._held = Held(DIALS)
        self._waiting: dict[asyncio.Future[None], Party] = {}
        """Who came first, first."""

    @asynccontextmanager
    async def one(self, party: Party) -> AsyncIterator[None]:
        """Wait for a slot, and have it. Raises DialTimeout after `WAIT_S`."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = party
        if self._held.full(party) is None:  # then it is nobody's who waits already
            self._begin(turn)
        try:
            try:
                async with asyncio.timeout(WAIT_S):
                    await turn
            except TimeoutError:
                text = f"cannot reach {party.peer}: for {WAIT_S:g} s too many others were being dialed"
                raise DialTimeout(text) from None
            yield
        finally:
            if self._waiting.pop(turn, None) is None:  # it was begun
                self._held.give(party)
                self._fill()

    def let_pass(self, peer_id: PeerId) -> None:
        """Whoever waits to dial this peer waits no more: the owner wants it, or it has come by itself."""
        for turn in self._those(lambda party: party.peer == peer_id):
            self._begin(turn)

    def _fill(self) -> None:
        held, waiting = self._held, self._waiting
        while ready := self._those(lambda party: held.full(party) is None):
            self._begin(min(ready, key=lambda turn: held.used(waiting[turn])))

    def _those(self, which: Callable[[Party], bool]) -> list[asyncio.Future[None]]:
        """Who wait, and have not given up in this turn of the loop."""
        return [turn for turn, party in self._waiting.items() if not turn.done() and which(party)]

    def _begin(self, turn: asyncio.Future[None]) -> None:
        self._held.take(self._waiting.pop(turn))
        turn.set_result(None)
