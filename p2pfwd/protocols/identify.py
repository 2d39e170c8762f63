"""Identify and identify-push on the swarm: who, what and where a peer is (libp2p spec: identify).

Asked once on every new connection, both ways; `Conn.identified` is done after it, well or not. A
failure is logged and the connection stays. Addresses are told and taken by where the peer is
(`policy.visible`): loopback addresses only over loopback, private ones not to public peers. What changes is
pushed to those who take it, one push at a time over each connection: others bound them, and the last counts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from p2pfwd.core.multiaddrs import AddressClass, Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.record import PeerRecord
from p2pfwd.errors import P2PForwardError, TimedOut
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Carrier, Link
from p2pfwd.net.own_addresses import Change
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.service_bounds import IDENTIFY, PUSH
from p2pfwd.policy.visible import is_visible, visible
from p2pfwd.wire import identify as wire

log = logging.getLogger("p2pfwd.identify")

TIMEOUT_S: Final = 5.0

PUSH_AGAIN_S: Final = 5.0
"""After a push that was not taken, once: who has sent many may send one in so many seconds."""


class Identify:
    """The service; registers itself on the swarm."""

    def __init__(self, swarm: Swarm, agent_version: str) -> None:
        self.agent_version = agent_version
        self._swarm = swarm
        self._sequence = time.time_ns()
        self._untold: dict[Link, bool] = {}
        """Whom is being told what changed, and whether more has changed since it was written."""
        swarm.services.serve(Service(name=wire.ID, talk=self._answer, bounds=IDENTIFY))
        swarm.services.serve(Service(name=wire.PUSH, talk=self._pushed, bounds=PUSH))
        swarm.on_connected(self._connected)
        swarm.own_addresses.on_changed(self._addresses_changed)

    def _connected(self, conn: Link) -> None:
        self._swarm.spawn(self._ask(conn), "identify")

    def _addresses_changed(self, change: Change) -> None:
        if change & Change.TOLD:
            self.push()

    def message(self, remote_addr: Multiaddr, there: AddressClass, peer: PeerId | None = None) -> bytes:
        """What we tell this peer, or any, that is seen at `remote_addr`, and is `there`."""
        swarm = self._swarm
        self._sequence = max(self._sequence + 1, time.time_ns())
        addrs = tuple(visible(swarm.listen_addrs(), there))
        record = PeerRecord(swarm.peer_id, self._sequence, addrs).to_signed(swarm.identity)
        return wire.encode(
            wire.IdentifyMessage(
                public_key=swarm.identity.public_key.to_protobuf(),
                listen_addrs=addrs,
                protocols=tuple(swarm.services.names(peer)),
                observed_addr=remote_addr,
                protocol_version=wire.PROTOCOL_VERSION,
                agent_version=self.agent_version,
                signed_peer_record=record,
            )
        )

    def _message_for(self, conn: Carrier) -> bytes:
        return self.message(conn.remote_addr, self._swarm.place_of(conn), conn.remote_peer)

    async def _answer(self, visit: Visit) -> None:
        await visit.answer(self._message_for(visit.stream.conn))
        await visit.stream.close()

    async def _pushed(self, visit: Visit) -> None:
        parts: list[bytes] = []
        while (part := await visit.message()) is not None:
            parts.append(part)
        await visit.stream.close()
        self._take(visit.stream.conn, parts)

    async def _ask(self, conn: Link) -> None:
        try:
            async with exchange(conn, wire.ID, TIMEOUT_S) as stream:
                parts: list[bytes] = []
                while len(parts) < wire.MAX_MESSAGES and (first := await stream.read(1)):
                    parts.append(await stream.read_delimited(wire.MAX_MESSAGE_BYTES, first))
            self._take(conn, parts)
        except (P2PForwardError, TimeoutError) as exc:
            cause = exc if isinstance(exc, P2PForwardError) else TimedOut(f"no answer within {TIMEOUT_S:g} s")
            log.info("%s could not be identified: %s", conn.remote_peer, cause)
        finally:
            if not conn.identified.done():
                conn.identified.set_result(None)

    def _take(self, conn: Carrier, parts: Sequence[bytes]) -> None:
        """Believe what a peer says about itself."""
        if not parts:
            return
        message = wire.decode(*parts)
        addrs, _certified = wire.verify(message, conn.remote_peer)
        store = self._swarm.peerstore
        store.identified(conn.remote_peer, message.agent_version, message.protocols)
        there = self._swarm.place_of(conn)
        store.tells(conn.remote_peer, visible(addrs, there), lambda addr: is_visible(addr, there))
        if message.observed_addr is not None:
            self._swarm.own_addresses.note_observed(conn, message.observed_addr)
        self._swarm.note_identified(conn.remote_peer)

    def push(self, peer: PeerId | None = None) -> None:
        """Tell every connected peer that takes pushes, or this one, what changed here."""
        for conn in self._swarm.conns(peer):
            is_being_told = conn in self._untold
            self._untold[conn] = True
            if not is_being_told:
                self._swarm.spawn(self._tell(conn), "identify push")

    async def _tell(self, conn: Link) -> None:
        """Until there is no news. Whether a new peer takes pushes is known when it is identified."""
        was_in_vain = False
        try:
            await asyncio.wait([conn.identified])
            while self._untold[conn] and wire.PUSH in self._swarm.peerstore.protocols(conn.remote_peer):
                try:
                    await self._push(conn)
                except P2PForwardError:
                    if was_in_vain or conn.closed.done():
                        raise
                    was_in_vain = self._untold[conn] = True
                    await asyncio.sleep(PUSH_AGAIN_S)
        finally:
            del self._untold[conn]

    async def _push(self, conn: Link) -> None:
        try:
            async with exchange(conn, wire.PUSH, TIMEOUT_S) as stream:
                self._untold[conn] = False
                await stream.write_delimited(self._message_for(conn))
                stream.close_write()
                await stream.read(1)  # its end, or a reset where it was one too many
        except TimeoutError:
            raise TimedOut(f"{conn.remote_peer} takes no push within {TIMEOUT_S:g} s") from None
