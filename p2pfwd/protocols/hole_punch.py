"""From a relay to a direct connection: both sides dial at once (libp2p spec: DCUtR).

B, who was reached over the relay, leads; A, who dialed, follows. One effort of B's, for one peer:

    PLAIN ──A has a public address: dialed──▶ done
      │ none, or it does not answer
      ▼
    TRYING ──CONNECT, CONNECT, SYNC, both dial──▶ done
      │ in vain, `policy.punching.plan` times
      ▼
    RESTING ──1, 2, 4 … minutes, or another network──▶ PLAIN

Done: a direct connection has answered a ping. New streams take it; the relayed one is closed when it has no
streams (`net.needless`), and made again when the direct one is lost. An effort ends with its success, or with
the relayed connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ProtocolNotSupported, TimedOut
from p2pfwd.net.link.contract import Carrier, DuplexStream, Link
from p2pfwd.net.needless import Needless
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.contract import Meeting
from p2pfwd.net.visits import Visit
from p2pfwd.policy import nat_kind, punching
from p2pfwd.policy.networks import networks
from p2pfwd.policy.paths import PathCode
from p2pfwd.policy.punching import NEWS_PAUSE_S, WINDOW_S
from p2pfwd.policy.service_bounds import DCUTR, MAX_PUNCHED, PUNCHES
from p2pfwd.policy.shares import Paced, Party
from p2pfwd.wire import dcutr as wire
from p2pfwd.wire.dcutr import Kind
from p2pfwd.wire.role_search import a_proposes, listens_s
from p2pfwd.wire.tls.engine import load as load_tls

log = logging.getLogger("p2pfwd.punch")

ANSWER_S: Final = 10.0
"""For A's CONNECT."""

ANSWERED_S: Final = 0.01
"""For A's CONNECT to be on its way."""

NEXT_S: Final = 2.0
"""After a try that B ended, for its next one, or for a direct connection that is nearly there."""


class HolePunch:
    """Of one node; serves at once, `close` ends it."""

    def __init__(self, swarm: Swarm) -> None:
        self.is_own: Callable[[PeerId], bool] = swarm.peerstore.is_chosen
        """Whose peers the owner counts as his; set by the daemon, who knows of more."""
        self._swarm = swarm
        self._loop = asyncio.get_running_loop()
        self._efforts: dict[PeerId, _Effort] = {}
        self._near: dict[PeerId, Sequence[Multiaddr]] = {}
        """Who is dialed where it was heard near by, and where it was heard since."""
        self._paced = Paced(PUNCHES)
        self._failures: WeakKeyDictionary[Carrier, int] = WeakKeyDictionary()
        """How often A has dialed in vain, by the connection over the relay."""
        self._needless = Needless(swarm.connections, swarm.paths, swarm.spawn)
        self._settling: dict[PeerId, asyncio.TimerHandle] = {}
        """Of peers that lead and have begun no next try yet."""
        self._following: Counter[PeerId] = Counter()
        """Tries of leaders that run."""
        swarm.services.serve(Service(name=wire.PROTOCOL, talk=self._follow, bounds=DCUTR))
        swarm.on_connected(self._connected)
        swarm.on_disconnected(self._disconnected)
        swarm.on_identified(self._identified)
        swarm.own_addresses.on_changed(self._addresses_changed)

    def close(self) -> None:
        """End the timers; the efforts are the swarm's tasks. Idempotent."""
        for timer in self._settling.values():
            timer.cancel()
        self._settling.clear()
        self._needless.close()

    # --- when -------------------------------------------------------------------------------------

    def _connected(self, conn: Link) -> None:
        if conn.is_relayed and conn.direction == "inbound":
            self._begin(conn.remote_peer)
        if conn.is_relayed or self._swarm.paths.circuits(conn.remote_peer):
            self._needless.look_later()

    def _disconnected(self, conn: Link) -> None:
        """A lost direct connection is to be made anew from one over a relay; a lost one of these ends it."""
        if conn.is_relayed and (effort := self._efforts.get(conn.remote_peer)) is not None:
            effort.news.set()
        if not conn.is_relayed and any(
            circuit.direction == "inbound" for circuit in self._swarm.paths.circuits(conn.remote_peer)
        ):
            self._begin(conn.remote_peer)
        elif not conn.is_relayed:
            self._note_spoken(conn.remote_peer)

    def _identified(self, peer_id: PeerId) -> None:
        """It may have said that it is elsewhere now, and whether it speaks this protocol."""
        if (effort := self._efforts.get(peer_id)) is not None:
            effort.news.set()
        else:
            self._note_spoken(peer_id)

    def _note_spoken(self, peer_id: PeerId) -> None:
        """Who does not speak this protocol begins no try: nobody is to wait for one."""
        paths = self._swarm.paths
        ours = [circuit for circuit in paths.circuits(peer_id) if circuit.direction == "outbound"]
        if not ours or paths.direct(peer_id) is not None:
            return
        told = self._swarm.peerstore.protocols(peer_id)
        if told and wire.PROTOCOL not in told:
            paths.note(peer_id, PathCode.NOT_SPOKEN, settled=True)
        elif paths.code(ours[0]) is PathCode.NOT_SPOKEN:
            paths.note(peer_id, PathCode.RELAYED)

    def _addresses_changed(self, change: Change) -> None:
        if change & (Change.MOVED | Change.STIRRED | Change.SEEN):
            for effort in self._efforts.values():
                effort.news.set()

    def _begin(self, peer_id: PeerId) -> None:
        if peer_id in self._efforts:
            self._efforts[peer_id].news.set()
            return
        if len(self._efforts) >= MAX_PUNCHED and not (self.is_own(peer_id) or self._makes_room()):
            self._swarm.paths.note(peer_id, PathCode.BUSY, settled=True)
            self._swarm.refusals.note("dcutr-dials", peer_id, "dcutr: too many are being tried")
            return
        effort = self._efforts[peer_id] = _Effort(self, self._swarm, peer_id)
        effort.task = self._swarm.spawn(self._lead(effort), "hole punch")

    async def _lead(self, effort: _Effort) -> None:
        """It is there as long as it takes notice of news: from its last look on there may be another."""
        try:
            await effort.run()
        finally:
            if self._ended(effort) and not self._swarm.connections.closing:
                self._begin_next()

    def _begin_next(self) -> None:
        """With one of the strangers for whom there was no room."""
        for conn in self._swarm.conns():
            peer_id, is_led = conn.remote_peer, conn.is_relayed and conn.direction == "inbound"
            if is_led and peer_id not in self._efforts and self._swarm.paths.code(conn) is PathCode.BUSY:
                return self._begin(peer_id)

    def _makes_room(self) -> bool:
        """Whether a stranger's effort gives way: the one that has rested longest, if any rests."""
        strangers = [one for one in self._efforts.values() if not self.is_own(one.peer_id)]
        oldest = min(strangers, key=lambda one: one.rests_since, default=None)
        if oldest is None or oldest.task is None or oldest.rests_since == inf:
            return False
        self._ended(oldest)
        oldest.task.cancel()
        return True

    def _ended(self, effort: _Effort) -> bool:
        """Whether it ended by itself: one that gave way is forgotten before."""
        if self._efforts.get(effort.peer_id) is not effort:
            return False
        del self._efforts[effort.peer_id]
        return True

    def nearby(self, peer_id: PeerId, addrs: Sequence[Multiaddr]) -> None:
        """The peer was heard on a network that this node is on, at these addresses: no relay is needed.

        One dial of a peer at a time, however often neighbours tell of it.
        """
        if not (addrs and self._swarm.paths.circuits(peer_id)):
            return
        is_tried = peer_id in self._near
        self._near[peer_id] = addrs
        if not is_tried:
            self._swarm.spawn(self._dial_near(peer_id), "dial a peer that is near by now")

    async def _dial_near(self, peer_id: PeerId) -> None:
        try:
            while (addrs := self._near[peer_id]) and self._swarm.paths.direct(peer_id) is None:
                self._near[peer_id] = ()
                await self.dial(peer_id, addrs, WINDOW_S)
        finally:
            del self._near[peer_id]

    async def dial(self, peer_id: PeerId, addrs: Sequence[Multiaddr], limit_s: float) -> bool:
        """Plainly, beside the connection over a relay; whether the peer was reached.

        From another port than the hole is punched from. A router remembers a SYN for minutes: the peer's
        would be let in to our listener, whose answer does not belong to the SYN that went out, and is lost.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self._swarm.dials.beside(peer_id, addrs, fresh_port=True)
        except (P2PForwardError, TimeoutError) as exc:
            log.debug("%s cannot be dialed plainly: %s", peer_id, exc)
            return False
        return True

    # --- what both sides do -----------------------------------------------------------------------

    def offer(self) -> tuple[Multiaddr, ...]:
        """Where this node may be met."""
        own = self._swarm.own_addresses
        announced = (*own.proofs.addresses(), *own.bound())
        upcoming = nat_kind.next_ports(own.sights(), own.nat)
        return punching.offer(own.nat, own.seen(), announced, upcoming)

    def may_dial(self, peer_id: PeerId, addrs: tuple[Multiaddr, ...]) -> bool:
        """Whether a try is within the bounds; it is counted."""
        if self.is_own(peer_id):
            return True
        dialed = (network for addr in addrs for network in networks(addr))
        party = Party(peer_id, tuple(dict.fromkeys(dialed)))
        if self._paced.empty(party, self._loop.time()) is None:
            return True
        self._swarm.refusals.note("dcutr-dials", peer_id, "dcutr: it asks for too many dials")
        return False

    async def meet(
        self,
        peer_id: PeerId,
        addrs: tuple[Multiaddr, ...],
        *,
        is_a: bool,
        rtt_s: float,
        is_first: bool,
        lead_s: float = 0.0,
    ) -> None:
        """Dial while the peer dials, `lead_s` from now. Raises TimedOut."""
        agent = self._swarm.peerstore.agent(peer_id) if is_first else None
        meeting = Meeting(
            peer_id,
            listens_s(is_a=is_a, rtt_s=rtt_s, agent=agent),
            listens_s(is_a=is_a, rtt_s=rtt_s, agent=None),
            self._loop.time() + lead_s,
            self._loop.time() + WINDOW_S,
        )
        await self._swarm.paths.meet(addrs, meeting)

    def plain(self, addrs: tuple[Multiaddr, ...]) -> list[Multiaddr]:
        """Those on our side of the router: dialed as any other."""
        return [addr for addr in addrs if not punching.is_public(addr)]

    # --- A: who dialed over the relay -------------------------------------------------------------

    async def _follow(self, visit: Visit) -> None:
        """Answer the leader, once for each of its tries."""
        stream, peer_id = visit.stream, visit.stream.remote_peer
        if not stream.conn.is_relayed or stream.conn.direction != "outbound":
            log.debug("%s wants to be dialed, on a connection that is none of ours over a relay", peer_id)
            stream.reset()
            return
        code: PathCode | None = None
        self._following[peer_id] += 1
        try:
            while (data := await visit.message()) is not None:
                told, own, is_own = wire.decode(data, Kind.CONNECT).addrs, self.offer(), self.is_own(peer_id)
                self._stay_unsettled(peer_id)
                plan = punching.plan(self._swarm.own_addresses.nat, told, own, is_own=is_own)
                near = punching.near(own, told, self._swarm.own_addresses.bound(), is_own=is_own)
                begin = self._loop.time()
                await visit.answer(wire.encode(wire.HolePunch(Kind.CONNECT, (*own, *near))))
                agent = self._swarm.peerstore.agent(peer_id)  # not known yet: a p2pfwd, which is this quick
                if plan.tries and agent is not None and not a_proposes(agent):
                    # What the peer will propose, as a rule. SYNC takes a round trip, which the peer measures.
                    self._loop.call_later(ANSWERED_S, load_tls)
                code = PathCode.BROKEN_OFF if plan.tries else plan.otherwise
                trying = PathCode.PUNCHING if plan.tries else code
                self._swarm.paths.note(peer_id, trying, settled=not plan.tries)
                if (data := await visit.message()) is None:
                    break
                wire.decode(data, Kind.SYNC)
                addrs = punching.targets(told, own, is_own=is_own)
                if not plan.tries or not addrs:
                    continue
                if not self.may_dial(peer_id, addrs):
                    code = PathCode.BUSY
                    continue
                code = plan.otherwise
                try:
                    rtt_s, is_first = self._loop.time() - begin, stream.conn not in self._failures
                    await self.meet(peer_id, addrs, is_a=True, rtt_s=rtt_s, is_first=is_first)
                    break
                except TimedOut:
                    failures = self._failures[stream.conn] = self._failures.get(stream.conn, 0) + 1
                    self._swarm.paths.note(peer_id, code, settled=failures >= plan.tries)
            await stream.close()
        finally:
            self._following -= Counter((peer_id,))
            if code is not None:
                self._settle_later(peer_id, code)

    def _settle_later(self, peer_id: PeerId, code: PathCode) -> None:
        """However the leader's try has ended: unless it begins another, nobody is to wait for one."""
        self._stay_unsettled(peer_id)
        if not self._swarm.connections.closing:
            self._settling[peer_id] = self._loop.call_later(NEXT_S, self._settle, peer_id, code)

    def _stay_unsettled(self, peer_id: PeerId) -> None:
        if (timer := self._settling.pop(peer_id, None)) is not None:
            timer.cancel()

    def _settle(self, peer_id: PeerId, code: PathCode) -> None:
        del self._settling[peer_id]
        if peer_id in self._following:  # the leader's next try had begun before this one was over
            self._settle_later(peer_id, code)
        elif self._swarm.paths.direct(peer_id) is None:
            self._swarm.paths.note(peer_id, code, settled=True)


class _Answer(NamedTuple):
    """To a CONNECT."""

    stream: DuplexStream
    """For the SYNC."""
    own: tuple[Multiaddr, ...]
    """What was named to the peer."""
    told: tuple[Multiaddr, ...]
    rtt_s: float


class _Effort:
    """B's, for one peer.

    The first CONNECT goes out beside identify's question, whose answer says who proposes: a round trip less.
    """

    def __init__(self, punch: HolePunch, swarm: Swarm, peer_id: PeerId) -> None:
        self.peer_id = peer_id
        self.news = asyncio.Event()
        """Another network here or there, or another connection over a relay."""
        self.task: asyncio.Task[None] | None = None
        self.rests_since = inf
        """By the loop's clock; while it tries, never."""
        self._punch = punch
        self._swarm = swarm
        self._loop = asyncio.get_running_loop()
        self._early: asyncio.Task[_Answer | None] | None = None

    async def run(self) -> None:
        """Until there is a direct connection, or none over a relay any more."""
        failures = 0
        while (circuit := self._circuit()) is not None and self._swarm.paths.direct(self.peer_id) is None:
            self._early = self._loop.create_task(self._ask(circuit))
            try:
                await asyncio.wait([circuit.identified], timeout=ANSWER_S)
                self.news.clear()
                if self._swarm.paths.direct(self.peer_id) is None:
                    await self._round(circuit)
            finally:
                await self._forget_early()
            if self._swarm.paths.direct(self.peer_id) is not None:
                return
            failures += 1  # also where it was there, and is lost already
            self.rests_since = self._loop.time()
            await self._rest(circuit, punching.again_s(failures))
            self.rests_since = inf

    async def _forget_early(self) -> None:
        """Where it was not needed."""
        if self._early is not None:
            self._early.cancel()
            (answer,) = await asyncio.gather(self._early, return_exceptions=True)
            if isinstance(answer, _Answer):
                answer.stream.reset()
            self._early = None

    def _circuit(self) -> Link | None:
        circuits = self._swarm.paths.circuits(self.peer_id)
        return next((conn for conn in circuits if conn.direction == "inbound"), None)

    async def _rest(self, circuit: Link, pause_s: float) -> None:
        """Until it is time again, something changed, or the circuit is over."""
        await asyncio.wait([circuit.closed], timeout=NEWS_PAUSE_S)
        if circuit.closed.done():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s - NEWS_PAUSE_S):
                await self.news.wait()

    async def _round(self, circuit: Link) -> None:
        """All tries of one round, until there is a direct connection."""
        if await self._plain(circuit):
            return
        paths = self._swarm.paths
        code, done, most = PathCode.FAILED, 0, punching.TRIES
        while done < most:
            paths.note(self.peer_id, PathCode.PUNCHING)
            try:
                early, self._early = self._early, None
                answer = await (early or self._ask(circuit))
                code, most = await self._try(answer, is_first=not done)
            except ProtocolNotSupported:
                code, most = PathCode.NOT_SPOKEN, 0
            except (P2PForwardError, TimeoutError) as exc:
                log.debug("no direct connection to %s yet: %s", self.peer_id, exc)
            if paths.direct(self.peer_id) is not None:
                return
            if not circuit.can_open:
                break
            done += 1
        paths.note(self.peer_id, code, settled=True)

    async def _plain(self, circuit: Link) -> bool:
        """Dial the peer's public addresses, if it tells any: it may be that no hole is needed."""
        known = self._swarm.peerstore.dialable(self.peer_id)
        public = tuple(addr for addr in known if punching.is_public(addr))
        addrs = punching.targets(public, (), is_own=self._punch.is_own(self.peer_id))
        if not addrs or not self._punch.may_dial(self.peer_id, addrs):
            return False
        return await self._punch.dial(self.peer_id, addrs, punching.direct_limit_s(circuit.rtt_s))

    async def _try(self, answer: _Answer | None, *, is_first: bool) -> tuple[PathCode, int]:
        """The SYNC after a CONNECT, and the dials: (what to say if it is in vain, tries in all)."""
        if answer is None:
            return PathCode.NO_ADDRESS_HERE, 0
        stream, own, told, rtt_s = answer
        try:
            is_own = self._punch.is_own(self.peer_id)
            plan = punching.plan(self._swarm.own_addresses.nat, told, own, is_own=is_own)
            addrs = punching.targets(told, own, is_own=is_own)
            if not plan.tries or not addrs:
                await stream.close()
                return plan.otherwise, 0
            if not self._punch.may_dial(self.peer_id, addrs):
                await stream.close()
                return PathCode.BUSY, 0
            near = self._punch.plain(addrs)
            limit_s = punching.direct_limit_s(rtt_s)
            if not near or not await self._punch.dial(self.peer_id, near, limit_s):
                await self._lead(stream, addrs, rtt_s, is_first=is_first)
            await stream.close()
        except BaseException:
            stream.reset()
            raise
        return plan.otherwise, plan.tries

    async def _lead(
        self, stream: DuplexStream, addrs: tuple[Multiaddr, ...], rtt_s: float, *, is_first: bool
    ) -> None:
        """SYNC and the dials, one after the other in time."""
        lead_s = self._lead_s(rtt_s)
        work = self._punch.meet(
            self.peer_id, addrs, is_a=False, rtt_s=rtt_s, is_first=is_first, lead_s=max(0.0, lead_s)
        )
        meeting = self._loop.create_task(work)
        try:
            await asyncio.sleep(max(0.0, -lead_s))
            await stream.write_delimited(wire.encode(wire.HolePunch(Kind.SYNC)))
            with suppress(TimedOut):
                await meeting
        finally:
            meeting.cancel()
            await asyncio.gather(meeting, return_exceptions=True)

    def _lead_s(self, rtt_s: float) -> float:
        told = self._swarm.peerstore.dialable(self.peer_id)
        own = self._swarm.own_addresses.all()
        return punching.lead_s(
            rtt_s,
            knows_a=any(punching.is_public(addr) for addr in told),
            is_known=any(punching.is_public(addr) for addr in own),
        )

    async def _ask(self, circuit: Link) -> _Answer | None:
        """A CONNECT and what comes back; None where this node has no address to name."""
        own = self._punch.offer()
        if not own:
            return None
        stream = await circuit.open_stream([wire.PROTOCOL], ANSWER_S, known=True)  # or it fails at the answer
        try:
            begin = self._loop.time()
            async with asyncio.timeout(ANSWER_S):
                await stream.write_delimited(wire.encode(wire.HolePunch(Kind.CONNECT, own)))
                answer = await stream.read_delimited(wire.MAX_MESSAGE_BYTES)
            return _Answer(stream, own, wire.decode(answer, Kind.CONNECT).addrs, self._loop.time() - begin)
        except BaseException:
            stream.reset()
            raise
