"""This node as a relay: places, and circuits to those who have one (libp2p spec: relay/circuit-v2).

    hop RESERVE   over a relay, or not let in ─▶ PERMISSION_DENIED   no room ─▶ RESERVATION_REFUSED
    hop CONNECT   over a relay, to itself     ─▶ PERMISSION_DENIED   no place there ─▶ NO_RESERVATION
                  too many circuits ─▶ RESOURCE_LIMIT_EXCEEDED       not taken there ─▶ CONNECTION_FAILED

Rules: a place is held by one connection and dies with it, or with its time, by one timer for all. Who has one
is reached by everybody who can speak to this node; who may have one is its owner's choice
(`policy.relay_bounds.Serve`). Strangers' places and circuits are bounded (`policy.relay_bounds`), the owner's
peers' are not. Where strangers have all of theirs, a place that is of no use gives way to a newcomer's: its
peer's connections end, and so all clients notice. What flows is sealed between the two ends: the relay moves
it (`net.link.bridge`), and can neither read nor change it unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, RemoteProtocolError, TimedOut
from p2pfwd.net.connmgr import CIRCUIT_TAG, RELAY_TAG
from p2pfwd.net.link.bridge import Bridge
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.relayed import Circuit, GivingWay, Place, Totals
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.leg_door import Door
from p2pfwd.net.visits import Visit
from p2pfwd.policy.relay_bounds import (
    BYTES,
    CIRCUITS,
    DEBT_S,
    LEGS,
    RESERVATION_S,
    RESERVATIONS,
    STOP_S,
    Serve,
    is_let_in,
    limit_between,
)
from p2pfwd.policy.service_bounds import HOP
from p2pfwd.policy.shares import Held, Paced, Party, Whose
from p2pfwd.policy.visible import visible
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import HopAnswer, Status
from p2pfwd.wire.yamux.reset_codes import NO_REASON, RESOURCE_LIMIT_EXCEEDED

log = logging.getLogger("p2pfwd.relay")

ANSWER_S: Final = 10.0
"""For the one who asked to take the answer."""

ENDING_S: Final = 1.0
"""Between two looks for places whose time is over, at least."""


class RelayService:
    """Of one node. `serve` says for whom; `close` ends its circuits."""

    def __init__(
        self,
        swarm: Swarm,
        clock: Callable[[], float] = time.monotonic,
        unix_time: Callable[[], float] = time.time,
        *,
        most_legs: int = LEGS,
    ) -> None:
        self.is_own: Callable[[PeerId], bool] = swarm.peerstore.is_chosen
        """Whose peers the owner counts as his; set by the daemon, who knows of more."""
        self.on_room: Callable[[PeerId], None] = lambda _peer: None
        """Told of a peer that asked in vain, and for whom there is a stranger's place now; once."""
        self.serves: Serve = "off"
        self.totals = Totals()
        self._swarm = swarm
        self._clock = clock
        self._unix_time = unix_time
        self._places: dict[PeerId, Place] = {}
        self._circuits: set[Circuit] = set()
        self._places_held = Held(RESERVATIONS)
        self._circuits_held = Held(CIRCUITS)
        self._door = Door(most_legs)
        self._bytes = Paced(BYTES)
        self._ending: asyncio.TimerHandle | None = None
        self._giving_way = GivingWay(RESERVATIONS, self._is_used)
        self._turned_away: dict[PeerId, Party] = {}
        """Connected peers that asked in vain, as they are none of the owner's; who asked first, first."""
        self._moved: dict[PeerId, set[asyncio.Future[None]]] = {}
        """Of circuits whose target has yet to answer: done when its place is at another connection."""
        swarm.memory.on_spare(lambda: self._bytes.forget_full(self._clock()))
        swarm.legs.take(self._door)
        swarm.services.reserve(wire.HOP)
        swarm.on_disconnected(self._disconnected)
        swarm.blocklist.on_changed = self._cut_blocked

    # --- whom it serves ---------------------------------------------------------------------------

    def serve(self, whom: Serve) -> bool:
        """Whom to relay for from now on; whether what is told to others has changed.

        With "off" all places are gone; circuits that stand go on.
        """
        before, self.serves = self.serves, whom
        if whom == "off":
            for place in tuple(self._places.values()):
                self._give_up(place)
            self._swarm.services.withdraw(wire.HOP)
        elif before == "off":
            self._swarm.services.serve(Service(name=wire.HOP, talk=self._talk, bounds=HOP))
        return (before == "off") != (whom == "off")

    def cut(self, peer: PeerId) -> int:
        """Take a peer's place away, and reset its circuits: how many there were."""
        if (place := self._places.get(peer)) is not None:
            self._give_up(place)
        found = [one for one in self._circuits if peer in (one.dialer, one.target)]
        for circuit in found:
            self._end(circuit)
        return len(found)

    def _cut_blocked(self) -> None:
        """By their legs circuits outlive the connections that a block has ended."""
        blocklist = self._swarm.blocklist
        for circuit in tuple(self._circuits):
            peers, addrs = (circuit.dialer, circuit.target), circuit.legs.addrs if circuit.legs else ()
            if any(map(blocklist.has_peer, peers)) or any(map(blocklist.has_addr, addrs)):
                self._end(circuit)

    def disowned(self) -> list[PeerId]:
        """Who has a place or a circuit as a peer of the owner's, and is none any more."""
        given = {place.peer for place in self._places.values() if place.is_own}
        for one in self._circuits:
            given |= {one.dialer, one.target}.difference(party.peer for party in one.strangers)
        return [peer for peer in given if not self.is_own(peer)]

    def strangers(self) -> list[PeerId]:
        """Connected peers that have a place as strangers, or asked for one and got none."""
        return [*self._turned_away, *(it.peer for it in self._places.values() if not it.is_own)]

    def is_turned_away(self, peer: PeerId) -> bool:
        """Whether a connected peer asked for a place, and got none."""
        return peer in self._turned_away

    def adopt(self, peer: PeerId) -> bool:
        """Whether one of the `strangers` is the owner's by now; said once. Its place has no limits then."""
        place = self._places.get(peer)
        has_limits = place is not None and not place.is_own
        if not (has_limits or peer in self._turned_away):
            return False
        if not is_let_in(self.serves, True) or not self.is_own(peer):
            return False
        self._turned_away.pop(peer, None)
        if place is not None and has_limits:
            self._places[peer] = replace(place, is_own=True)
            self._give_share(place.party)
        return True

    def close(self) -> None:
        """Serve nobody, and reset what stands. Idempotent."""
        self.serve("off")
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        for circuit in tuple(self._circuits):
            self._end(circuit)

    def places(self) -> list[Place]:
        """Those that are held now, the oldest first."""
        self._expire()
        return list(self._places.values())

    def circuits(self) -> list[Circuit]:
        """Those that stand or are being made, the oldest first."""
        return sorted(self._circuits, key=lambda one: one.opened_at)

    # --- one request ------------------------------------------------------------------------------

    async def _talk(self, visit: Visit) -> None:
        message = await visit.message()
        if message is None:
            await visit.stream.close()
            return
        try:
            request = wire.decode_hop_request(message)
        except RemoteProtocolError:
            await self._refuse(visit.stream, Status.MALFORMED_MESSAGE)
            return
        if request.peer is not None:
            await self._connect(visit, request.peer, can_leg=request.can_leg)
            return
        answer = self._reserve(visit.stream, visit.party)
        if answer.status is Status.OK:
            await self._answer(visit.stream, answer)
            await visit.stream.close()
        else:
            await self._refuse(visit.stream, answer.status)

    async def _answer(self, stream: DuplexStream, answer: HopAnswer) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await stream.write_delimited(wire.encode_hop_answer(answer))
        except TimeoutError:
            raise TimedOut("relay: the answer was not taken") from None

    async def _refuse(self, stream: DuplexStream, status: Status) -> None:
        self.totals.refused[status] = self.totals.refused.get(status, 0) + 1
        log.debug("%s is refused: %s", stream.remote_peer, status.name)
        await self._answer(stream, HopAnswer(status))
        await stream.close()

    # --- places -----------------------------------------------------------------------------------

    def _reserve(self, stream: DuplexStream, party: Party) -> HopAnswer:
        peer, refusals = party.peer, self._swarm.refusals
        is_own = self.is_own(peer)
        if stream.conn.is_relayed:
            return HopAnswer(Status.PERMISSION_DENIED)
        self._turned_away.pop(peer, None)
        if not is_let_in(self.serves, is_own):
            if self._swarm.conns(peer):  # or it has left meanwhile
                self._turned_away[peer] = party
            refusals.note("relay-stranger", peer, "relay: it is none of this node's peers, and gets no place")
            return HopAnswer(Status.PERMISSION_DENIED)
        link = next((one for one in self._swarm.conns(peer) if one is stream.conn), None)
        if link is None or not link.can_open:
            return HopAnswer(Status.RESERVATION_REFUSED)
        self._expire()
        old = self._places.get(peer)
        if old is not None and not old.is_own:
            self._places_held.give(old.party)
        if not is_own:
            if (whose := self._make_room(party)) is not None:
                if old is not None and not old.is_own:
                    self._places_held.take(old.party)  # what it was promised it keeps
                elif old is not None:
                    self._give_up(old)
                self._turned_away[peer] = party
                refusals.note("relay-reservations", peer, f"relay: no place is left for it ({whose})")
                return HopAnswer(Status.RESERVATION_REFUSED)
            self._places_held.take(party)
        now = self._clock()
        since, quiet_since = (now, now) if old is None else (old.since, old.quiet_since)
        self._keep(Place(peer, link, party, is_own, since, quiet_since, now + RESERVATION_S))
        if is_own and old is not None and not old.is_own:
            self._tell_of_room()
        self._swarm.connmgr.protect(peer, RELAY_TAG)
        self.totals.reservations += 1
        return HopAnswer(Status.OK, self._reservation(link), limit_between(is_own, is_own))

    def _reservation(self, link: Link) -> wire.Reservation:
        swarm, peer = self._swarm, link.remote_peer
        expires_at = int(self._unix_time()) + RESERVATION_S
        addrs = visible(swarm.listen_addrs(), swarm.place_of(link))
        told = [addr for addr in addrs if not addr.has("p2p-circuit")]
        here = tuple(addr.with_peer_id(swarm.peer_id) for addr in told[: wire.MAX_ADDRESSES])
        voucher = wire.Voucher(swarm.peer_id, peer, expires_at).to_signed(swarm.identity)
        return wire.Reservation(expires_at, here, voucher)

    def _make_room(self, party: Party) -> Whose | None:
        """For one place more, if need be another's; else whose share leaves none."""
        while (whose := self._places_held.full(party)) is not None:
            victim = self._giving_way.victim(self._places.values(), party, whose, self._clock())
            if victim is None:
                return whose
            peer = victim.peer
            self._drop(victim)
            self._places_held.give(victim.party)  # nobody is told of room: there is none
            self._swarm.refusals.note("relay-gave-way", peer, "relay: its place, of no use, went to another")
            self._swarm.spawn(self._swarm.disconnect(peer), "a place gave way")
        return None

    def _is_used(self, peer: PeerId) -> bool:
        """Whether a peer's connections are of use beside its place: by their end alone all peers notice."""
        swarm = self._swarm
        return any(swarm.connmgr.has_use_beside(conn, RELAY_TAG) for conn in swarm.conns(peer))

    def _drop(self, place: Place) -> None:
        del self._places[place.peer]
        self._swarm.connmgr.unprotect(place.peer, RELAY_TAG)

    def _give_up(self, place: Place) -> None:
        self._drop(place)
        if not place.is_own:
            self._give_share(place.party)

    def _give_share(self, party: Party) -> None:
        self._places_held.give(party)
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        """A stranger's place is free: one of those who asked in vain may have it.

        No more are told than there is room for, or all would ask for each place that is given up.
        """
        for peer, party in self._turned_away.items():
            if is_let_in(self.serves, self.is_own(peer)) and self._places_held.full(party) is None:
                del self._turned_away[peer]
                self.on_room(peer)
                return

    def _expire(self) -> None:
        now = self._clock()
        for place in [one for one in self._places.values() if one.ends_at <= now]:
            self._give_up(place)

    def _end_later(self) -> None:
        """A place that nobody asks about ends all the same, and what it protects with it.

        All last equally long, so none that comes later ends before the first.
        """
        if self._ending is None and self._places:
            first = min(place.ends_at for place in self._places.values())
            wait_s = max(ENDING_S, first - self._clock())
            self._ending = asyncio.get_running_loop().call_later(wait_s, self._end_due)

    def _end_due(self) -> None:
        self._ending = None
        self._expire()
        self._end_later()

    def _disconnected(self, conn: Link) -> None:
        if not self._swarm.conns(conn.remote_peer):
            self._turned_away.pop(conn.remote_peer, None)
        place = self._places.get(conn.remote_peer)
        if place is None or place.link is not conn:
            return
        others = (one for one in self._swarm.conns(place.peer) if one.can_open and not one.is_relayed)
        if (other := next(others, None)) is None:
            self._give_up(place)
        else:  # a place lasts as long as any connection of its peer (circuit v2)
            self._keep(replace(place, link=other))

    def _keep(self, place: Place) -> None:
        """In place of the peer's last one; who waits for that peer's answer asks over this connection."""
        before, self._places[place.peer] = self._places.get(place.peer), place
        self._end_later()
        if before is None or before.link is not place.link:
            for moved in self._moved.pop(place.peer, ()):
                if not moved.done():
                    moved.set_result(None)

    # --- circuits ---------------------------------------------------------------------------------

    async def _connect(self, visit: Visit, target: PeerId, *, can_leg: bool) -> None:
        stream = visit.stream
        found = self._admit(stream, visit.party, target)
        visit.leave()  # from here on it counts as a circuit
        if isinstance(found, Status):
            await self._refuse(stream, found)
            return
        circuit, place = found
        if can_leg and circuit.limit is None and self._door.is_open:
            circuit.legs = self._door.offer(partial(self._end, circuit))
        far: DuplexStream | None = None
        try:
            far, status = await self._ask(place, circuit)
            if far is None:
                await self._refuse(stream, status)
                return
            await self._answer(stream, HopAnswer(Status.OK, None, circuit.limit, circuit.ticket(0)))
            if circuit in self._circuits:  # it was cut meanwhile
                self._join(circuit, stream, far)
        finally:
            if circuit.bridge is None:
                self._over(circuit)
                if far is not None:
                    far.reset()
                    stream.reset()

    def _admit(self, stream: DuplexStream, party: Party, target: PeerId) -> Status | tuple[Circuit, Place]:
        dialer = party.peer
        if stream.conn.is_relayed or target == dialer:
            return Status.PERMISSION_DENIED
        self._expire()
        place = self._places.get(target)
        if place is None or not place.link.can_open:
            return Status.NO_RESERVATION
        is_own = self.is_own(dialer)
        strangers = tuple(one for one, own in ((party, is_own), (place.party, place.is_own)) if not own)
        for one in strangers:
            if (whose := self._circuits_held.full(one)) is not None:
                what = f"relay: it has as many circuits as it may ({whose})"
                self._swarm.refusals.note("relay-circuits", one.peer, what)
                return Status.RESOURCE_LIMIT_EXCEEDED
        for one in strangers:
            self._circuits_held.take(one)
        limit = limit_between(is_own, place.is_own)
        circuit = Circuit(dialer, target, limit, self._clock(), strangers)
        self._circuits.add(circuit)
        return circuit, place

    async def _ask(self, place: Place, circuit: Circuit) -> tuple[DuplexStream | None, Status]:
        """Have the target take the circuit: its stream, or None and what to tell the dialer.

        A target whose line was cut without a word is asked once more when it has come back.
        """
        try:
            async with asyncio.timeout(STOP_S):
                while True:
                    moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._moved.setdefault(place.peer, set()).add(moved)
                    asking = asyncio.ensure_future(self._ask_over(place.link, circuit))
                    try:
                        waits: set[asyncio.Future[Any]] = {asking, moved}
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                        if asking.done() or (next_place := self._places.get(place.peer)) is None:
                            return await asking
                        place = next_place
                    finally:
                        self._forget(place.peer, moved)
                        asking.cancel()
                        await asyncio.gather(asking, return_exceptions=True)
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s took no circuit: %s", circuit.target, exc)
            return None, Status.CONNECTION_FAILED

    def _forget(self, peer: PeerId, moved: asyncio.Future[None]) -> None:
        waiting = self._moved.get(peer, set())
        waiting.discard(moved)
        if not waiting:
            self._moved.pop(peer, None)

    async def _ask_over(self, link: Link, circuit: Circuit) -> tuple[DuplexStream | None, Status]:
        far = await link.open_stream([wire.STOP], STOP_S, known=True)  # or it fails at the answer
        try:
            request = wire.StopRequest(circuit.dialer, circuit.limit, circuit.ticket(1))
            await far.write_delimited(wire.encode_stop_request(request))
            status = wire.decode_stop_answer(await far.read_delimited(wire.MAX_MESSAGE_BYTES))
        except BaseException:
            far.reset()
            raise
        if status is Status.OK:
            return far, status
        far.reset()
        return None, Status.CONNECTION_FAILED

    def _join(self, circuit: Circuit, near: DuplexStream, far: DuplexStream) -> None:
        limit, loop = circuit.limit, asyncio.get_running_loop()
        most = limit.data_bytes if limit is not None else None
        debt_s = partial(self._debt_s, circuit.strangers) if limit is not None else None
        circuit.bridge = Bridge(
            near, far, loop, partial(self._bridge_over, circuit), most_bytes=most, debt_s=debt_s
        )
        if limit is not None:
            circuit.timer = loop.call_later(limit.duration_s, self._time_is_up, circuit)
        self.totals.circuits += 1
        for peer in (circuit.dialer, circuit.target):
            self._swarm.connmgr.protect(peer, CIRCUIT_TAG)
        log.debug("circuit from %s to %s", circuit.dialer, circuit.target)
        circuit.bridge.start()

    def _debt_s(self, strangers: tuple[Party, ...], n: int) -> float:
        return self._bytes.owes_s(strangers, self._clock(), n, DEBT_S)

    def _time_is_up(self, circuit: Circuit) -> None:
        self._swarm.refusals.note("relay-limit", circuit.dialer, "relay: a stranger's circuit had its time")
        self._end(circuit, RESOURCE_LIMIT_EXCEEDED)

    def _bridge_over(self, circuit: Circuit, bridge: Bridge) -> None:
        if bridge.limit_reached:
            what = "relay: a stranger's circuit carried as much as it may"
            self._swarm.refusals.note("relay-limit", circuit.dialer, what)
        if circuit.has_legs and bridge.is_whole:
            return  # both ends have changed over to them
        self._over(circuit)

    def _end(self, circuit: Circuit, code: int = NO_REASON) -> None:
        if circuit.bridge is not None:
            circuit.bridge.reset(code)
        self._over(circuit)  # who makes it finds it gone

    def _over(self, circuit: Circuit) -> None:
        if circuit not in self._circuits:
            return
        self._circuits.discard(circuit)
        self.totals.bytes += circuit.bytes_in + circuit.bytes_out
        if circuit.bridge is not None and (place := self._places.get(circuit.target)) is not None:
            self._places[place.peer] = replace(place, quiet_since=self._clock())
        if circuit.legs is not None:
            circuit.legs.close()
        if circuit.timer is not None:
            circuit.timer.cancel()
        for party in circuit.strangers:
            self._circuits_held.give(party)
        busy = {peer for one in self._circuits for peer in (one.dialer, one.target)}
        for peer in {circuit.dialer, circuit.target} - busy:
            self._swarm.connmgr.unprotect(peer, CIRCUIT_TAG)
