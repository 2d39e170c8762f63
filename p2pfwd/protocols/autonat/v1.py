"""AutoNAT v1: one verdict for the node, asked of one server after the other; and the server.

Connected servers are asked until `SURE` of them agree, then about one address after the other, each every
quarter of an hour. Used only where no connected peer speaks v2: an unreachable server counts against us here.

A router may let in whomever this node has dialed. So where an address is the router's, who got in says
nothing unless this node never dialed him, or servers of two networks got in.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Link
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.networks import household
from p2pfwd.policy.shares import Party
from p2pfwd.protocols.autonat.budget import Budget
from p2pfwd.wire import autonat as wire
from p2pfwd.wire.reachability import Reachability, Verdict

log = logging.getLogger("p2pfwd.autonat")

DIAL_BACK_S: Final = 15.0
"""For all addresses of one request; as go."""

ANSWER_S: Final = DIAL_BACK_S + 15.0
"""For a server's answer: nobody needs longer."""

NETWORKS: Final = 2
"""Of servers that were dialed before, until it counts that they got in by a router."""


@dataclass(frozen=True, slots=True)
class AutoNatSettings:
    """Durations in seconds; the defaults are go's."""

    ask_again_s: float = 90.0
    """Before the same server is asked again while the verdict is not sure."""
    refresh_s: float = 900.0
    """Between two questions once it is."""


class FirstClient:
    """Asks; `told` is called with each change of the verdict."""

    def __init__(
        self, swarm: Swarm, settings: AutoNatSettings, rng: random.Random, told: Callable[[], None]
    ) -> None:
        self.verdict = Verdict()
        self._swarm = swarm
        self._settings = settings
        self._rng = rng
        self._told = told
        self._asked: dict[PeerId, float] = {}
        self._let_in: set[str] = set()
        """Networks of servers that got in by a router, and had been dialed before."""

    def forget(self) -> bool:
        """Nothing that was found out holds; whether anything was."""
        self._let_in.clear()
        return self.verdict.forget()

    def stirred(self) -> None:
        """Any server may be asked again."""
        self._asked.clear()

    async def step(self, candidates: tuple[Multiaddr, ...]) -> float:
        """Ask one server, if there is one; for how long to wait for the next step, unless there is news."""
        settings, own = self._settings, self._swarm.own_addresses
        if self.verdict.reachability is Reachability.PUBLIC and not own.proofs.addresses():
            self.verdict.doubt()
        sure = self.verdict.is_sure
        conn = self._server() if candidates else None
        if conn is not None:
            await self._ask(conn, candidates)
            if not sure:
                return 0.0
        # Once the verdict is sure each address has its turn in `refresh_s`.
        turn_s = settings.refresh_s / max(1, len(candidates))
        return max(settings.ask_again_s, turn_s) if sure else settings.ask_again_s

    def _server(self) -> Link | None:
        """A connected server that was not asked a moment ago, at random."""
        now = time.monotonic()
        pause_s = self._settings.ask_again_s
        self._asked = {peer: at for peer, at in self._asked.items() if now - at < pause_s}
        found = [
            conn
            for conn in self._swarm.conns()
            if conn.can_open
            and conn.remote_peer not in self._asked
            and wire.PROTOCOL in self._swarm.peerstore.protocols(conn.remote_peer)
        ]
        return self._rng.choice(found) if found else None

    async def _ask(self, conn: Link, candidates: tuple[Multiaddr, ...]) -> None:
        peer, own, now = conn.remote_peer, self._swarm.own_addresses, time.monotonic()
        self._asked[peer] = now
        one_by_one = self.verdict.is_sure and self.verdict.reachability is Reachability.PUBLIC
        asked = (own.proofs.next_to_ask(candidates),) if one_by_one else candidates
        for addr in asked:
            own.proofs.asked(addr, now)
        try:
            answer = await self._question(conn, wire.DialRequest(self._swarm.peer_id, asked))
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s did not tell whether this node is reachable: %s", peer, exc)
            return
        if answer.status not in (wire.Status.OK, wire.Status.DIAL_ERROR):
            log.debug("%s does not dial back: %s %r", peer, answer.status.name, answer.text)
            return
        reachable = answer.status is wire.Status.OK
        if reachable and not self._proves(conn, answer.addr):
            log.debug("%s got in, as the router may let in whom this node has dialed", peer)
            return
        if reachable and answer.addr is not None and answer.addr in asked:
            own.prove(answer.addr, peer)
        elif not reachable and len(asked) == 1:
            own.refute(asked[0], peer)
        if reachable or len(asked) == len(candidates):
            self._add(reachable, peer)

    def _proves(self, conn: Link, addr: Multiaddr | None) -> bool:
        """Whether it means something that this server got in, at `addr`."""
        own = self._swarm.own_addresses
        if addr in own.bound() or not own.is_contacted(conn.remote_addr):
            return True
        if len(self._let_in) < NETWORKS:
            self._let_in.add(household(conn.remote_addr))
        return len(self._let_in) >= NETWORKS

    def _add(self, reachable: bool, peer: PeerId) -> None:
        """One more answer about the node as a whole."""
        changed = self.verdict.add(reachable)
        if self.verdict.reachability is not Reachability.PUBLIC:
            self._swarm.own_addresses.unprove()
        if changed:
            log.info("strangers can%s reach this node, says %s", "" if reachable else "not", peer)
            self._told()

    async def _question(self, conn: Link, request: wire.DialRequest) -> wire.DialAnswer:
        async with exchange(conn, wire.PROTOCOL, ANSWER_S) as stream:
            await stream.write_delimited(wire.encode_request(request))
            return wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))


class FirstServer:
    """Dials back a peer that asks, at the IP it asks from and nowhere else."""

    def __init__(self, swarm: Swarm, budget: Budget) -> None:
        self._swarm = swarm
        self._budget = budget

    async def serve(self, visit: Visit) -> None:
        """One stream."""
        while (message := await visit.message()) is not None:
            request = wire.decode_request(message)
            answer = await self._answer(visit.stream.conn.remote_addr, visit.party, request)
            await visit.answer(wire.encode_answer(answer))
        await visit.stream.close()

    async def _answer(
        self, seen_at: Multiaddr, party: Party, request: wire.DialRequest
    ) -> wire.DialAnswer:
        peer = party.peer
        if request.peer_id != peer:
            return wire.DialAnswer(wire.Status.BAD_REQUEST, "the peer is somebody else")
        addrs = wire.addresses_to_dial(request, seen_at)
        if not addrs:
            return wire.DialAnswer(wire.Status.DIAL_REFUSED, "no public address where you are seen")
        if not self._budget.take(party):
            return wire.DialAnswer(wire.Status.DIAL_REFUSED, "too many requests")
        try:
            async with asyncio.timeout(DIAL_BACK_S):
                for addr in addrs:
                    if await self._swarm.dial_back(peer, addr):
                        return wire.DialAnswer(wire.Status.OK, addr=addr)
        except TimeoutError:
            pass  # said below
        return wire.DialAnswer(wire.Status.DIAL_ERROR, "no address could be dialed")
