"""AutoNAT v1 on the swarm: can strangers reach this node, and can others be reached? (libp2p spec: autonat)

Client: connected servers are asked, one after the other until `SURE` of them agree, then about one address
after the other, each every quarter of an hour; a change of our addresses starts it anew. An address that a
dial-back has proved is announced, until `policy.proofs` takes it back.
Server: dials back whoever asks, at the IP he asks from and nowhere else, a bounded number of times a minute.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError
from p2pfwd.net.link.contract import Link
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.service_bounds import AUTONAT, AUTONAT_DIALS
from p2pfwd.policy.shares import Paced, Party
from p2pfwd.wire import autonat as wire
from p2pfwd.wire.reachability import Reachability, Verdict

log = logging.getLogger("p2pfwd.autonat")

DIAL_BACK_S: Final = 15.0
"""For all addresses of one request; as go."""

ANSWER_S: Final = DIAL_BACK_S + 15.0
"""For a server's answer: nobody needs longer."""


@dataclass(frozen=True, slots=True)
class AutoNatSettings:
    """Durations in seconds; the defaults are go's."""

    ask_again_s: float = 90.0
    """Before the same server is asked again while the verdict is not sure."""
    refresh_s: float = 900.0
    """Between two questions once it is."""


class AutoNat:
    """One node's client and server; `start` begins to ask, `serve` to answer, `close` ends both."""

    def __init__(
        self, swarm: Swarm, settings: AutoNatSettings | None = None, rng: random.Random | None = None
    ) -> None:
        self._swarm = swarm
        self._settings = settings or AutoNatSettings()
        self._again_s = self._settings.ask_again_s
        self._rng = rng or random.Random()
        self._verdict = Verdict()
        self._asked: dict[PeerId, float] = {}
        self._news = asyncio.Event()
        self._dials = Paced(AUTONAT_DIALS)
        self._observers: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._serving = False

    @property
    def reachability(self) -> Reachability:
        """What is known now."""
        return self._verdict.reachability

    def on_change(self, callback: Callable[[], None]) -> None:
        """Be told when the verdict changes."""
        self._observers.append(callback)

    def start(self) -> None:
        """Begin to ask."""
        self._swarm.on_identified(self._identified)
        self._swarm.own_addresses.on_changed(self._addresses_changed)
        self._task = self._swarm.spawn(self._ask_for_ever(), "autonat")

    def _addresses_changed(self, change: Change) -> None:
        if change & Change.MOVED and self._verdict.forget():  # nothing that was found out before holds
            self._tell()
        if change & (Change.MOVED | Change.STIRRED | Change.MAPPED):
            self._asked.clear()
        if change & Change.MAPPED and self.reachability is not Reachability.PUBLIC:
            self._verdict.doubt()  # it did not know of the new address
        if change & ~Change.TOLD:
            self._news.set()

    def serve(self, on: bool) -> None:
        """Answer others' requests, or no longer."""
        if on == self._serving:
            return
        self._serving = on
        if on:
            self._swarm.services.serve(Service(name=wire.PROTOCOL, talk=self._serve, bounds=AUTONAT))
        else:
            self._swarm.services.withdraw(wire.PROTOCOL)

    async def close(self) -> None:
        """End. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self) -> None:
        for callback in tuple(self._observers):
            callback()

    # --- asking -----------------------------------------------------------------------------------

    def _identified(self, peer: PeerId) -> None:
        if not self._verdict.is_sure and self._serves(peer):  # once sure, no reason to ask more often
            self._news.set()

    def _serves(self, peer: PeerId) -> bool:
        return wire.PROTOCOL in self._swarm.peerstore.protocols(peer)

    async def _ask_for_ever(self) -> None:
        own = self._swarm.own_addresses
        while True:
            self._news.clear()
            self._expire()
            proved = own.proofs.addresses()
            candidates = wire.candidates(own.bound(), own.observed(), proved, own.mapped())
            sure = self._verdict.is_sure
            conn = self._server() if candidates else None
            if conn is not None:
                await self._ask(conn, candidates)
            if conn is None or sure:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s(len(candidates)) if sure else self._again_s):
                        await self._news.wait()

    def _pause_s(self, candidates: int) -> float:
        """Between two questions once the verdict is sure: each address has its turn in `refresh_s`."""
        return max(self._again_s, self._settings.refresh_s / max(1, candidates))

    def _expire(self) -> None:
        own = self._swarm.own_addresses
        own.expire()
        if self.reachability is Reachability.PUBLIC and not own.proofs.addresses():
            self._verdict.doubt()

    def _server(self) -> Link | None:
        """A connected server that was not asked a moment ago, at random."""
        now = time.monotonic()
        pause_s = self._again_s
        self._asked = {peer: at for peer, at in self._asked.items() if now - at < pause_s}
        found = [
            conn
            for conn in self._swarm.conns()
            if conn.can_open and conn.remote_peer not in self._asked and self._serves(conn.remote_peer)
        ]
        return self._rng.choice(found) if found else None

    async def _ask(self, conn: Link, candidates: tuple[Multiaddr, ...]) -> None:
        peer, own, now = conn.remote_peer, self._swarm.own_addresses, time.monotonic()
        self._asked[peer] = now
        one_by_one = self._verdict.is_sure and self.reachability is Reachability.PUBLIC
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
        if reachable and answer.addr is not None and answer.addr in asked:
            own.prove(answer.addr, peer)
        elif not reachable and len(asked) == 1:
            own.refute(asked[0], peer)
        if reachable or len(asked) == len(candidates):
            self._add(reachable, peer)

    def _add(self, reachable: bool, peer: PeerId) -> None:
        """One more answer about the node as a whole."""
        changed = self._verdict.add(reachable)
        if self.reachability is not Reachability.PUBLIC:
            self._swarm.own_addresses.unprove()
        if changed:
            log.info("strangers can%s reach this node, says %s", "" if reachable else "not", peer)
            self._tell()

    async def _question(self, conn: Link, request: wire.DialRequest) -> wire.DialAnswer:
        async with asyncio.timeout(ANSWER_S):
            stream = await conn.open_stream([wire.PROTOCOL], ANSWER_S)
            try:
                await stream.write_delimited(wire.encode_request(request))
                answer = wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
                await stream.close()
            except BaseException:
                stream.reset()
                raise
            return answer

    # --- answering --------------------------------------------------------------------------------

    async def _serve(self, visit: Visit) -> None:
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
        if self._dials.empty(party, time.monotonic()) is not None:
            self._swarm.refusals.note("autonat-dials", peer, "autonat: it asks for too many dials back")
            return wire.DialAnswer(wire.Status.DIAL_REFUSED, "too many requests")
        try:
            async with asyncio.timeout(DIAL_BACK_S):
                for addr in addrs:
                    if await self._swarm.dial_back(peer, addr):
                        return wire.DialAnswer(wire.Status.OK, addr=addr)
        except TimeoutError:
            pass  # said below
        return wire.DialAnswer(wire.Status.DIAL_ERROR, "no address could be dialed")
