"""Places at relays, so that others reach this node where they cannot dial it (libp2p spec: circuit relay v2).

While this node is not known to be public it holds `WANTED` reservations at connected peers that relay: those
the owner has named first, then peers of his own, then (in the public network) strangers, the fastest first.
Those named are asked though others were sooner, and have given places: `WANTED` of them are held besides.

    one relay     IDLE ──wanted──▶ ASKING ──OK──▶ HELD ──RENEW_AT of its time──▶ ASKING (and still held)
                                   ASKING ──refused, no answer──▶ RESTING ──time──▶ IDLE
                  any ──its connection is over──▶ IDLE: the place is gone, another is asked for at once
                   HELD ──the relay has another connection of ours──▶ ASKING, over that one (and still held)
                   HELD ──it tells of itself anew──▶ ASKING, soon: it may have cut the place (and still held)
                   HELD ──it tells that it relays no more──▶ IDLE: the place is gone
                   HELD ──it denies the place when asked again──▶ RESTING: the place is gone

A circuit that a relay brings is taken only from a relay that has been asked, and never over a circuit.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, address_class, tcp_endpoint
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ProtocolError, RelayRefused, RemoteProtocolError
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.relay_transport import refusal, through
from p2pfwd.net.upgrader import describe
from p2pfwd.net.visits import Visit
from p2pfwd.policy.pace import Pace, Rate
from p2pfwd.policy.service_bounds import STOP
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import Limit, Reservation, Status, Voucher

log = logging.getLogger("p2pfwd.relay")

WANTED: Final = 2
"""Places held: one relay may go."""

ENOUGH_TO_CHOOSE: Final = 4
"""Strangers that relay, of whom the fastest are asked; with fewer known, after `CHOOSE_S`."""

CHOOSE_S: Final = 2.0

ANSWER_S: Final = 10.0
"""For a relay's answer, as go."""

RENEW_AT: Final = 0.75
"""... of a reservation's time, less up to a tenth of it by chance."""

SHORTEST_S: Final = 60.0
"""A relay whose clock is behind gives a time that is over already: the place is there all the same."""

LONGEST_S: Final = 24 * 3600.0

REST_S: Final = 5.0
"""After a refusal; doubled with each, up to ..."""

REASK_S: Final = 30.0
"""Between a place and the next question that the relay's telling of itself brings, at least."""

REASK_WITHIN_S: Final = 2.0
"""... and by chance so much more: a relay tells all who have a place at once."""

LONGEST_REST_S: Final = 600.0
STRANGERS_REST_S: Final = 3600.0
"""After a refusal of a stranger's, as go."""

STRANGERS_ASKED: Final = Rate(per_s=0.2, burst=16)
"""For a place: all peers are told of each that is given, and of each that is lost again."""

MAX_ANNOUNCED: Final = 4
"""Addresses of one relay that are told to others."""

TAG: Final = "relay"
"""The protection of a relay that gives us a place."""


@dataclass(frozen=True, slots=True)
class Place:
    """A reservation that is held."""

    relay: PeerId
    link: Link
    """Over which it was given."""
    addrs: tuple[Multiaddr, ...]
    """Where others reach this node by it: with `/p2p/<relay>/p2p-circuit`, without this node's ID."""
    limit: Limit | None
    since: float
    """Monotonic seconds, as the others."""
    given_at: float
    """When it was asked for last."""
    until: float
    renew_at: float


@dataclass(slots=True)
class _Rest:
    """A relay that failed: not asked again before `until`."""

    until: float
    delay_s: float


class RelayClient:
    """Of one node; `start` begins to ask, `close` ends it."""

    def __init__(
        self,
        swarm: Swarm,
        *,
        strangers: bool,
        is_public: Callable[[], bool],
        rng: random.Random | None = None,
    ) -> None:
        """`strangers`: whether relays of others are asked, too. `is_public`: whether none is needed."""
        self._swarm = swarm
        self._strangers = strangers
        self._is_public = is_public
        self._rng = rng or random.Random()
        self._named: set[PeerId] = set()
        self._places: dict[PeerId, Place] = {}
        self._rests: dict[PeerId, _Rest] = {}
        self._refusals: dict[PeerId, str] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._begun = time.monotonic()
        self._pace = Pace(STRANGERS_ASKED, self._begun)
        self._held_up = False
        """A stranger would be asked, and was not yet."""
        swarm.services.serve(Service(name=wire.STOP, talk=self._stop, accepts=self._is_relay, bounds=STOP))

    def start(self) -> None:
        """Begin to hold places."""
        self._begun = time.monotonic()
        self._swarm.on_identified(self._identified)
        self._swarm.on_connected(self._connected)
        self._swarm.on_disconnected(self._disconnected)
        self._task = self._swarm.spawn(self._run(), "relay places")

    async def close(self) -> None:
        """Ask no more; the places end with their connections. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def name(self, relay: PeerId) -> None:
        """The owner wants this one asked before others; now, though it has refused before."""
        self._named.add(relay)
        self._rests.pop(relay, None)
        self._news.set()

    def unname(self, relay: PeerId) -> None:
        """The owner wants it no more; what was reserved there runs out."""
        self._named.discard(relay)
        if relay in self._places:
            self._lost(relay)
        self._news.set()

    def look_again(self) -> None:
        """Whether this node is public may have changed, or the network has."""
        self._rests.clear()
        self._news.set()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Be told when a place is got or lost, or a relay of one's own begins to refuse one."""
        self._callbacks.append(callback)

    def places(self) -> list[Place]:
        """Those held."""
        return list(self._places.values())

    def refusals(self) -> dict[PeerId, str]:
        """Why relays that were asked gave no place, in words; forgotten when they do."""
        return dict(self._refusals)

    # --- holding places ---------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._news.clear()
            if self._is_public():
                self._leave_all()
            else:
                await self._ask_around()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._news.wait()

    def _pause_s(self) -> float | None:
        """Until there is something to do that no event tells of."""
        now = time.monotonic()
        due = [place.renew_at for place in self._places.values()]
        if len(self._places) < WANTED:
            due += [rest.until for rest in self._rests.values() if rest.until > now]
            if self._held_up:
                due.append(now + 1 / STRANGERS_ASKED.per_s)
            if now - self._begun < CHOOSE_S:
                due.append(self._begun + CHOOSE_S)
        return max(0.05, min(due) - now) if due else None

    async def _ask_around(self) -> None:
        """Renew what is due; then ask for what is missing, all at once."""
        now = time.monotonic()
        links = self._due(now)
        candidates = self._candidates(now)  # the named ones first
        named = sum(link.remote_peer in self._named for link in candidates)
        named_missing = WANTED - sum(relay in self._named for relay in self._places)
        missing = max(0, WANTED - len(self._places), min(named, named_missing))
        asked = [link for link in candidates[:missing] if self._may_ask(link.remote_peer, now)]
        self._held_up = len(asked) < min(missing, len(candidates))
        links += asked
        await asyncio.gather(*(self._ask(link) for link in links))

    def _may_ask(self, relay: PeerId, now: float) -> bool:
        return self._is_known(relay) or self._pace.take(now)

    def _is_known(self, relay: PeerId) -> bool:
        """Named by the owner, or a peer of his own."""
        return relay in self._named or self._swarm.peerstore.is_chosen(relay)

    def _due(self, now: float) -> list[Link]:
        """Over which renewals are asked for; a relay that is silent is asked when it is heard, or later."""
        links = []
        for place in [one for one in self._places.values() if now >= one.renew_at]:
            if (link := self._link(place.relay)) is not None:
                links.append(link)
            else:
                self._renew_later(place, now + REST_S)
        return links

    def _renew_later(self, place: Place, at: float) -> None:
        """Ask again then, or when the place is over; it is lost where it is over by now."""
        if time.monotonic() >= place.until or place.link.closed.done():
            self._lost(place.relay)
        else:
            self._places[place.relay] = replace(place, renew_at=min(at, place.until))

    def _link(self, relay: PeerId) -> Link | None:
        return next((c for c in self._swarm.conns(relay) if c.is_usable and not c.is_relayed), None)

    def _candidates(self, now: float) -> list[Link]:
        """Connected relays without a place of ours, in the order in which they are asked."""
        found: list[Link] = []
        strangers: list[Link] = []
        for peer in {conn.remote_peer for conn in self._swarm.conns()}:
            rest = self._rests.get(peer)
            if peer in self._places or (rest is not None and rest.until > now):
                continue
            link = self._link(peer)
            if link is None or not self._relays(peer):
                continue
            (found if self._is_known(peer) else strangers).append(link)
        found.sort(key=lambda link: (link.remote_peer not in self._named, link.rtt_s or 1.0))
        if self._strangers and (len(strangers) >= ENOUGH_TO_CHOOSE or now - self._begun >= CHOOSE_S):
            found += sorted(strangers, key=lambda link: link.rtt_s or 1.0)
        return found

    async def _ask(self, link: Link) -> None:
        relay = link.remote_peer
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._swarm.introduce(link)
                reservation, limit = await self._question(link)
        except (P2PForwardError, TimeoutError) as exc:
            if isinstance(exc, RelayRefused) and exc.details.get("status") == Status.PERMISSION_DENIED.name:
                self._gone(relay)
            late = f"it did not answer within {ANSWER_S:g} s"
            self._refused(link, late if isinstance(exc, TimeoutError) else describe(exc))
            return
        now = time.monotonic()
        left_s = min(max(reservation.expires_at - time.time(), SHORTEST_S), LONGEST_S)
        renew_s = left_s * (RENEW_AT - self._rng.random() / 10)
        before = self._places.get(relay)
        since = before.since if before is not None else now
        addrs = _announced(link, reservation)
        self._rests.pop(relay, None)
        self._refusals.pop(relay, None)
        if link.closed.done() or not self._relays(relay):  # by now
            return
        self._places[relay] = Place(relay, link, addrs, limit, since, now, now + left_s, now + renew_s)
        if before is None:
            log.info("the relay %s has a place for this node", relay)
            self._swarm.connmgr.protect(relay, TAG)
        if before is None or before.addrs != addrs:
            self._tell()

    async def _question(self, link: Link) -> tuple[Reservation, Limit | None]:
        async with exchange(link, wire.HOP, ANSWER_S) as stream:
            await stream.write_delimited(wire.encode_hop_request(wire.HopRequest()))
            answer = wire.decode_hop_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
        if answer.status is not Status.OK:
            raise refusal(link.remote_peer, answer.status)
        if answer.reservation is None:
            raise RemoteProtocolError("relay: it says OK, and gives no reservation")
        if answer.reservation.voucher:
            voucher = Voucher.from_signed(answer.reservation.voucher)
            if (voucher.relay, voucher.peer) != (link.remote_peer, self._swarm.peer_id):
                raise RemoteProtocolError("relay: its voucher is for another relay, or another peer")
        return answer.reservation, answer.limit

    def _refused(self, link: Link, why: str) -> None:
        """It rests, and others are asked in its place. Of one that has left nothing is kept."""
        relay = link.remote_peer
        is_known = self._is_known(relay)
        before = self._rests.get(relay)
        if not self._swarm.conns(relay):
            log.debug("the relay %s has left: %s", relay, why)
            return
        delay_s = REST_S if before is None else min(2 * before.delay_s, LONGEST_REST_S)
        if not is_known:
            delay_s = STRANGERS_REST_S
        until = time.monotonic() + delay_s * (1 + self._rng.random() / 4)
        self._rests[relay] = _Rest(until, delay_s)
        self._refusals[relay] = why
        if (place := self._places.get(relay)) is not None:
            self._renew_later(place, until)
        if relay not in self._places:
            self._news.set()
        if before is None and is_known:
            log.warning("the relay %s has no place for this node: %s", relay, why)
            self._tell_of_change()

    def _relays(self, peer: PeerId) -> bool:
        return wire.HOP in self._swarm.peerstore.protocols(peer)

    def _identified(self, relay: PeerId) -> None:
        """It tells of itself, and says no more where it has cut us, or relayed for nobody for a moment."""
        place = self._places.get(relay)
        if not self._relays(relay):
            self._gone(relay)
            return
        if place is not None:
            at = max(time.monotonic(), place.given_at + REASK_S) + self._rng.random() * REASK_WITHIN_S
            self._places[relay] = replace(place, renew_at=min(place.renew_at, at))
        self._news.set()

    def _gone(self, relay: PeerId) -> None:
        """The relay has said that there is no place of ours any more, if there was one."""
        if relay in self._places:
            log.info("the relay %s gives this node no place any more", relay)
            self._lost(relay)
            self._news.set()

    def _connected(self, conn: Link) -> None:
        """A relay reached anew, as the old connection has fallen silent, brings circuits over the new one."""
        place = self._places.get(conn.remote_peer)
        if place is not None and not conn.is_relayed and not place.link.is_usable:
            self._ask_again(place)

    def _ask_again(self, place: Place) -> None:
        self._places[place.relay] = replace(place, renew_at=time.monotonic())
        self._news.set()

    def _disconnected(self, conn: Link) -> None:
        place = self._places.get(conn.remote_peer)
        if self._link(conn.remote_peer) is not None:
            if place is not None and place.link is conn:
                self._ask_again(place)
        else:
            self._refusals.pop(conn.remote_peer, None)
            self._rests.pop(conn.remote_peer, None)
            if place is not None:
                log.info("the relay %s is gone, and the place with it", conn.remote_peer)
                self._lost(conn.remote_peer)
                self._news.set()

    def _lost(self, relay: PeerId) -> None:
        del self._places[relay]
        self._swarm.connmgr.unprotect(relay, TAG)
        self._tell()

    def _leave_all(self) -> None:
        """Strangers reach this node: it needs no relay. What was reserved there runs out."""
        for relay in list(self._places):
            self._lost(relay)

    def _tell(self) -> None:
        places = sorted(self._places.values(), key=lambda place: place.since)
        self._swarm.own_addresses.set_relayed([addr for place in places for addr in place.addrs])
        self._tell_of_change()

    def _tell_of_change(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    # --- taking circuits --------------------------------------------------------------------------

    def _is_relay(self, peer: PeerId, _protocol: str) -> bool:
        return peer in self._places

    async def _stop(self, visit: Visit) -> None:
        stream = visit.stream
        message = await visit.message()
        if message is None:
            stream.reset()
            return
        status, link = Status.OK, self._link(stream.remote_peer)
        if stream.conn.is_relayed or link is None:
            status = Status.PERMISSION_DENIED
        try:
            request = wire.decode_stop_request(message)
        except ProtocolError:
            status = Status.MALFORMED_MESSAGE
        await visit.answer(wire.encode_stop_answer(status))
        if status is not Status.OK or link is None:
            await stream.close()
            return
        pool = self._swarm.io.pool
        conduit = CircuitConduit(stream, pool, link.local_addr, through(link), request.limit)
        try:
            await self._swarm.adopt(conduit, "inbound", request.peer)
        except (P2PForwardError, TimeoutError, OSError) as exc:
            log.debug("a circuit from %s failed: %s", request.peer, describe(exc))


def _announced(link: Link, reservation: Reservation) -> tuple[Multiaddr, ...]:
    """Where others reach the relay: what it says of itself, and where this node has reached it.

    A relay in a lab or an office says nothing, or what only its neighbours can use.
    """
    told = [addr for addr in reservation.addrs if address_class(addr) is AddressClass.PUBLIC]
    found = [link.remote_addr] if link.direction == "outbound" else []
    found += [addr.without_peer_id() for addr in (told or reservation.addrs)]
    direct = [addr for addr in dict.fromkeys(found) if tcp_endpoint(addr) is not None]
    return tuple(wire.relayed(direct[:MAX_ANNOUNCED], link.remote_peer))
