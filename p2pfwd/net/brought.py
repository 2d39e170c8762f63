"""Circuits that relays bring to this node, each a connection of its own then.

One is taken only from a relay that has been asked for a place, and never over a circuit. How fast they may
come is bounded for the peer at the other end, for one relay and in all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import P2PForwardError, ProtocolError
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.relay_transport import through
from p2pfwd.net.upgrader import describe
from p2pfwd.net.visits import Visit, said
from p2pfwd.policy.networks import Network
from p2pfwd.policy.service_bounds import BROUGHT, STOP
from p2pfwd.policy.shares import Paced, Party, binds
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import Status

log = logging.getLogger("p2pfwd.relay")


class Brought:
    """Of one node; serves at once. `is_relay` says from whom they are taken."""

    def __init__(self, swarm: Swarm, is_relay: Callable[[PeerId], bool]) -> None:
        self._swarm = swarm
        self._is_relay = is_relay
        self._paced = Paced(BROUGHT)
        swarm.memory.on_spare(lambda: self._paced.forget_full(time.monotonic()))
        swarm.services.serve(Service(name=wire.STOP, talk=self._stop, accepts=self._accepts, bounds=STOP))

    def _accepts(self, peer: PeerId, _protocol: str) -> bool:
        return self._is_relay(peer)

    def _may_come(self, peer: PeerId, relay: PeerId) -> bool:
        """Whether circuits of this peer, as the relay says, do not come too fast; it is counted."""
        party = Party(peer, (Network(str(relay), 0),))
        if not binds(self._paced.empty(party, time.monotonic()), party, self._swarm.peerstore.rank):
            return True
        self._swarm.refusals.note(f"{STOP.label}-opens", peer, said(f"{STOP.label}-opens"))
        return False

    async def _stop(self, visit: Visit) -> None:
        stream = visit.stream
        if (message := await visit.message()) is None:
            stream.reset()
            return
        status, link = Status.OK, self._swarm.paths.direct(stream.remote_peer)
        if stream.conn.is_relayed or link is None:
            status = Status.PERMISSION_DENIED
        try:
            request = wire.decode_stop_request(message)
        except ProtocolError:
            status = Status.MALFORMED_MESSAGE
        if status is Status.OK and not self._may_come(request.peer, stream.remote_peer):
            status = Status.RESOURCE_LIMIT_EXCEEDED
        await visit.answer(wire.encode_stop_answer(status))
        if status is not Status.OK or link is None:
            await stream.close()
            return
        visit.go_on()
        pool = self._swarm.io.pool
        conduit = CircuitConduit(stream, pool, link.local_addr, through(link), request.limit)
        self._swarm.legs.promise(conduit, link, request.ticket)
        try:
            await self._swarm.adopt(conduit, "inbound", request.peer)
        except (P2PForwardError, TimeoutError, OSError) as exc:
            log.debug("a circuit from %s failed: %s", request.peer, describe(exc))
