"""Places at relays, so that others reach this node where they cannot dial it (libp2p spec: circuit relay v2).

While this node is not known to be public it holds reservations at connected peers that relay; which of them
are asked, and when that is looked at again, is decided in `policy.relay_places`. Each question is a task of
its own: a relay that does not answer holds up no other.

    one relay     IDLE ──wanted──▶ ASKING ──OK──▶ HELD ──RENEW_AT of its time──▶ ASKING (and still held)
                                   ASKING ──refused, no answer──▶ RESTING ──time──▶ IDLE
                                   ASKING ──its connection is over or silent, and another is there──▶ IDLE
                  any ──its last connection is over──▶ IDLE: the place is gone, another is asked for at once
                RESTING ──it tells of itself anew──▶ IDLE, soon: it may know this node now, or have room
                   HELD ──the relay has another connection of ours──▶ ASKING, over that one (and still held)
                   HELD ──it tells of itself anew──▶ ASKING, soon: it may have cut the place (and still held)
              any other ──it tells that it relays no more──▶ IDLE: the place is gone
                   HELD ──it denies the place when asked again──▶ RESTING: the place is gone
                  any ──this node is public, or it is named no more──▶ IDLE: nothing is kept of a refusal
                 HELD ──it is the owner's no more, and strangers' relays are not asked──▶ IDLE: nor of a place
    RESTING as a stranger's ──it is the owner's now──▶ IDLE

Circuits that a relay brings are taken in `net.brought`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, RelayRefused, RemoteProtocolError
from p2pfwd.net.brought import Brought
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Link
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.relay_transport import refusal
from p2pfwd.net.upgrader import describe
from p2pfwd.policy.pace import Pace, Rate
from p2pfwd.policy.relay_places import Known, Whose, plan, to_announce
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import Limit, Reservation, Status, Voucher

log = logging.getLogger("p2pfwd.relay")

CHOOSE_S: Final = 2.0
"""After the start, until strangers are asked though few are known."""

ANSWER_S: Final = 10.0
"""For a relay's answer, as go."""

RENEW_AT: Final = 0.75
"""... of a reservation's time, less up to a tenth of it by chance."""

SHORTEST_S: Final = 60.0
"""A relay whose clock is behind gives a time that is over already: the place is there all the same."""

LONGEST_S: Final = 3600.0
"""What relays give at least. Where this node's clock is behind, the time given seems longer than it is, and
the place would be over long before it is renewed."""

REST_S: Final = 1.0
"""After a refusal: who starts both ends names this node there a moment later. Doubled with each, up to ..."""

LONGEST_REST_S: Final = 600.0

REASK_S: Final = 30.0
"""Between a place, or a stranger's refusal, and the next question that the relay's telling of itself brings,
at least."""

REASK_WITHIN_S: Final = 2.0
"""... and by chance so much more: a relay tells all who have a place at once."""

LOOK_S: Final = 0.05
"""Between two looks that no news brings, at least: a timer may end a little early."""

STRANGERS_REST_S: Final = 3600.0
"""After a refusal of a stranger's, as go."""

STRANGERS_ASKED: Final = Rate(per_s=0.2, burst=16)
"""For a place: all peers are told of each that is given, and of each that is lost again."""

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
    """A relay that failed: not asked again before `until`. Monotonic seconds."""

    since: float
    until: float
    delay_s: float
    is_strangers: bool


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
        self._asking: dict[PeerId, tuple[Link, asyncio.Task[None]]] = {}
        """The questions that are on their way, and over which connection."""
        self._callbacks: list[Callable[[], None]] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._begun = time.monotonic()
        self._pace = Pace(STRANGERS_ASKED, self._begun)
        Brought(swarm, self._is_relay)

    def start(self) -> None:
        """Begin to hold places."""
        self._begun = time.monotonic()
        self._swarm.on_identified(self._identified)
        self._swarm.on_connected(self._connected)
        self._swarm.on_disconnected(self._disconnected)
        self._swarm.on_silent(self._silent)
        self._swarm.peerstore.on_change(self._standing_changed)
        self._task = self._swarm.spawn(self._run(), "relay places")

    async def close(self) -> None:
        """Ask no more; the places end with their connections. Idempotent."""
        tasks = [task for _, task in self._asking.values()]
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        self._forgive(relay)
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

    def asked(self) -> set[PeerId]:
        """Relays that have yet to answer."""
        return set(self._asking)

    def refusals(self) -> dict[PeerId, str]:
        """Why relays that were asked gave no place, in words, as long as they rest for it or are asked again.

        Of one that is not asked again, as there are places enough, it is not known what it would say now.
        """
        now = time.monotonic()
        current = self.asked() | {relay for relay, rest in self._rests.items() if rest.until > now}
        return {relay: why for relay, why in self._refusals.items() if relay in current}

    # --- holding places ---------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._news.clear()
            look_at = self._look(time.monotonic())
            wait_s = None if look_at == inf else max(LOOK_S, look_at - time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    def _look(self, now: float) -> float:
        """Ask whom there is to ask; until when there is nothing to do that no event tells of."""
        if self._is_public():
            self._leave_all()
            return inf
        links: dict[PeerId, Link] = {}
        relays = []
        for relay in {*self._places, *(conn.remote_peer for conn in self._swarm.conns())}:
            link = self._swarm.paths.direct(relay)
            if link is not None:
                links[relay] = link
            if (known := self._known(relay, link, now)) is not None:
                relays.append(known)
        found = plan(relays, now, self._begun + CHOOSE_S)
        look_at = found.look_at
        for relay in found.ask:
            if relay in self._places or self._is_known(relay) or self._pace.take(now):
                self._begin(links[relay])
            else:
                look_at = min(look_at, now + 1 / STRANGERS_ASKED.per_s)
        return look_at

    def _known(self, relay: PeerId, link: Link | None, now: float) -> Known | None:
        """What the plan is made of; None of who is not to be asked."""
        place, rest = self._places.get(relay), self._rests.get(relay)
        if place is not None and not self._may_be_asked(relay):
            self._lost(relay)
            return None
        if place is not None and link is None and now >= place.renew_at:
            place = self._renew_later(place, now + REST_S)  # it is silent: when it is heard, or then
        if place is None and (link is None or not self._relays(relay) or not self._may_be_asked(relay)):
            return None
        return Known(
            peer=relay,
            whose=self._whose(relay),
            rtt_s=None if link is None else link.rtt_s,
            is_asked=relay in self._asking,
            renew_at=None if place is None else place.renew_at,
            rests_until=-inf if rest is None else rest.until,
        )

    def _whose(self, relay: PeerId) -> Whose:
        if relay in self._named:
            return Whose.NAMED
        return Whose.OWN if self._swarm.peerstore.is_chosen(relay) else Whose.STRANGER

    def _is_known(self, relay: PeerId) -> bool:
        """Named by the owner, or a peer of his own."""
        return self._whose(relay) is not Whose.STRANGER

    def _may_be_asked(self, relay: PeerId) -> bool:
        """Whether a place there is of use."""
        return not self._is_public() and (self._strangers or self._is_known(relay))

    def _renew_later(self, place: Place, at: float) -> Place | None:
        """Ask again then, or when the place is over; it is lost where it is over by now."""
        if time.monotonic() >= place.until or place.link.closed.done():
            self._lost(place.relay)
            return None
        later = self._places[place.relay] = replace(place, renew_at=min(at, place.until))
        return later

    def _begin(self, link: Link) -> None:
        relay = link.remote_peer
        task = self._swarm.spawn(self._ask(link), f"ask {relay} for a place")
        self._asking[relay] = link, task
        task.add_done_callback(partial(self._asked, relay))

    def _asked(self, relay: PeerId, _task: asyncio.Task[None]) -> None:
        del self._asking[relay]
        self._news.set()

    async def _ask(self, link: Link) -> None:
        relay = link.remote_peer
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._swarm.introduce(link)
                reservation, limit = await self._question(link)
        except (P2PForwardError, TimeoutError) as exc:
            self._refused(link, exc)
            return
        if link.closed.done() or not self._relays(relay) or not self._may_be_asked(relay):  # by now
            return
        now = time.monotonic()
        left_s = min(max(reservation.expires_at - time.time(), SHORTEST_S), LONGEST_S)
        renew_s = left_s * (RENEW_AT - self._rng.random() / 10)
        before = self._places.get(relay)
        since = before.since if before is not None else now
        found = link.remote_addr if link.direction == "outbound" else None
        addrs = tuple(wire.relayed(to_announce(found, reservation.addrs), relay))
        self._places[relay] = Place(relay, link, addrs, limit, since, now, now + left_s, now + renew_s)
        if before is None:
            log.info("the relay %s has a place for this node", relay)
            self._swarm.connmgr.protect(relay, TAG)
        self._rests.pop(relay, None)
        was_refused = self._refusals.pop(relay, None) is not None
        if before is None or before.addrs != addrs or was_refused:
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

    def _refused(self, link: Link, exc: Exception) -> None:
        """It rests, and others are asked in its place. Of one that has left nothing is kept."""
        relay, now = link.remote_peer, time.monotonic()
        if isinstance(exc, RelayRefused) and exc.details.get("status") == Status.PERMISSION_DENIED.name:
            self._gone(relay)
        if not self._swarm.conns(relay) or not self._relays(relay) or not self._may_be_asked(relay):
            log.debug("the relay %s has left, or is asked no more: %s", relay, describe(exc))
            return
        if not link.is_usable and self._swarm.paths.direct(relay) is not None:
            return  # it was the connection: it is asked over the other one at once
        before, is_known = self._rests.get(relay), self._is_known(relay)
        delay_s = REST_S if before is None else min(2 * before.delay_s, LONGEST_REST_S)
        if not is_known:
            delay_s = STRANGERS_REST_S
        until = now + delay_s * (1 + self._rng.random() / 4)
        self._rests[relay] = _Rest(now, until, delay_s, not is_known)
        late = f"it did not answer within {ANSWER_S:g} s"
        why = self._refusals[relay] = late if isinstance(exc, TimeoutError) else describe(exc)
        if (place := self._places.get(relay)) is not None:
            self._renew_later(place, until)
        if before is None and is_known:
            log.warning("the relay %s has no place for this node: %s", relay, why)
            self._tell_of_change()

    def _relays(self, peer: PeerId) -> bool:
        """Whether it says so. A named one that has told nothing of itself is asked all the same."""
        told = self._swarm.peerstore.protocols(peer)
        if told or peer not in self._named:
            return wire.HOP in told
        return all(conn.identified.done() for conn in self._swarm.conns(peer))

    def _identified(self, relay: PeerId) -> None:
        """It tells of itself, and says no more where it has cut us, or relayed for nobody for a moment.

        Nor where it has none for us and would have one now: its owner has named this node, or there is room.
        """
        place, rest, now = self._places.get(relay), self._rests.get(relay), time.monotonic()
        if not self._relays(relay):
            self._gone(relay)
            self._forgive(relay)
            return
        by_chance_s = self._rng.random() * REASK_WITHIN_S
        if place is not None:
            at = max(now, place.given_at + REASK_S) + by_chance_s
            self._places[relay] = replace(place, renew_at=min(place.renew_at, at))
        elif rest is not None:
            pause_s = REASK_S if rest.is_strangers else REST_S
            rest.until = min(rest.until, max(now, rest.since + pause_s) + by_chance_s)
        self._news.set()

    def _standing_changed(self, relay: PeerId) -> None:
        """It may be one of the owner's now, or be it no longer."""
        if self._is_known(relay):
            rest = self._rests.get(relay)
            if rest is not None and rest.is_strangers:
                self._forgive(relay)
            if self._relays(relay):
                self._news.set()
        elif relay in self._places:
            self._news.set()

    def _forgive(self, relay: PeerId) -> None:
        """Forget that it has refused a place."""
        self._rests.pop(relay, None)
        if self._refusals.pop(relay, None) is not None:
            self._tell_of_change()

    def _gone(self, relay: PeerId) -> None:
        """The relay has said that there is no place of ours any more, if there was one."""
        if relay in self._places:
            log.info("the relay %s gives this node no place any more", relay)
            self._lost(relay)
            self._news.set()

    def _connected(self, conn: Link) -> None:
        """A relay reached anew, as the old connection has fallen silent, brings circuits over the new one."""
        relay = conn.remote_peer
        conn.identified.add_done_callback(lambda _: self._is_met(relay))
        if conn.is_relayed:
            return
        place, asking = self._places.get(relay), self._asking.get(relay)
        if asking is not None and not asking[0].is_usable:
            asking[1].cancel()  # and asked over the new one
        if place is not None and not place.link.is_usable:
            self._ask_again(place)

    def _is_met(self, relay: PeerId) -> None:
        """It has told of itself, or will not: what was known of it before may do."""
        if self._is_known(relay):
            self._news.set()

    def _silent(self, _peer: PeerId, why: P2PForwardError | None) -> None:
        if why is None:  # one that was in doubt answers again, and can be asked
            self._news.set()

    def _ask_again(self, place: Place) -> None:
        self._places[place.relay] = replace(place, renew_at=time.monotonic())
        self._news.set()

    def _disconnected(self, conn: Link) -> None:
        place = self._places.get(conn.remote_peer)
        if self._swarm.paths.direct(conn.remote_peer) is not None:
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
        for relay in {*self._rests, *self._refusals}:
            self._forgive(relay)

    def _tell(self) -> None:
        places = sorted(self._places.values(), key=lambda place: place.since)
        self._swarm.own_addresses.set_relayed([addr for place in places for addr in place.addrs])
        self._tell_of_change()

    def _tell_of_change(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    def _is_relay(self, peer: PeerId) -> bool:
        return peer in self._places or peer in self._asking  # a circuit may come right behind the place
