"""Circuits as a transport: a peer is reached through a relay that it has a reservation with.

The connection to the relay is one like any other, and is there already or made for it. What goes over the
circuit is secured between the two ends: the relay sees neither bytes nor the names of services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, is_relayed, split_circuit
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import BindFailed, InvalidMultiaddr, NotAtRelay, ProtocolNotSupported, RelayRefused
from p2pfwd.net.link.contract import DuplexStream, Link
from p2pfwd.net.settings import SwarmSettings
from p2pfwd.net.transport.circuit import CircuitConduit
from p2pfwd.net.transport.contract import Gate, Listening
from p2pfwd.net.transport.legs import Legs
from p2pfwd.net.upgrader import Upgrader
from p2pfwd.policy.undialable import why_undialable
from p2pfwd.system import sockaddrs
from p2pfwd.system.buffers import BufferPool
from p2pfwd.wire import circuit as wire
from p2pfwd.wire.circuit import HopAnswer, Status

Reach = Callable[[PeerId, Sequence[Multiaddr]], Awaitable[Link]]
"""A direct connection to a peer, at these addresses or, where there are none, at those that are known."""

_NOT_UNDERSTOOD: Final = {
    Status.MALFORMED_MESSAGE: "it did not understand the request",
    Status.UNEXPECTED_MESSAGE: "it did not expect the request",
}
_OF_PLACES: Final = _NOT_UNDERSTOOD | {
    Status.RESERVATION_REFUSED: "it has no place left for this node",
    Status.RESOURCE_LIMIT_EXCEEDED: "it holds as much as it may",
    Status.PERMISSION_DENIED: "it has places for peers of its owner alone",
}
_OF_CIRCUITS: Final = _NOT_UNDERSTOOD | {
    Status.RESOURCE_LIMIT_EXCEEDED: "it has as many circuits as it carries",
    Status.PERMISSION_DENIED: "it does not relay between these two peers",
    Status.CONNECTION_FAILED: "the peer did not take the circuit",
    Status.NO_RESERVATION: "the peer is not connected to it, or has no reservation",
}
_ANOTHER: Final = "name another relay in reach.relays"
_PLACE_CURES: Final = {
    Status.PERMISSION_DENIED: "p2pfwd relay token new there makes a token, which goes behind a # at its "
    "address in reach.relays here; or p2pfwd peer add there names this node",
}
_CIRCUIT_CURES: Final = {
    Status.RESOURCE_LIMIT_EXCEEDED: "try again later, or name another relay in reach.relays there",
    Status.PERMISSION_DENIED: "its owner lets one of the two in: p2pfwd relay token new at the relay, or "
    "p2pfwd peer add with its peer ID; relay.serve says for whom it relays",
    Status.CONNECTION_FAILED: "try again; p2pfwd doctor there says whether it is up",
    Status.NO_RESERVATION: "is the daemon running there? p2pfwd status there shows its relays",
}


def refusal(relay: PeerId, status: Status) -> RelayRefused:
    """What a relay's status means where a place was asked for, for people; told behind the relay's name.

    The cure is part of the message: it is kept as the reason why there is no place, and shown as that.
    """
    why, cure = _OF_PLACES.get(status, status.name), _PLACE_CURES.get(status, _ANOTHER)
    return RelayRefused(f"{why}; {cure}", status=status.name, relay=str(relay))


def no_circuit(relay: PeerId, status: Status) -> RelayRefused:
    """The same where a circuit to a peer was asked for."""
    why, cure = _OF_CIRCUITS.get(status, status.name), _CIRCUIT_CURES.get(status, f"{_ANOTHER} there")
    kind = NotAtRelay if status is Status.NO_RESERVATION else RelayRefused
    return kind(f"the relay {relay} refuses: {why}", hint=cure, status=status.name)


class RelayTransport:
    """Of one swarm; `reach` is its way to the relays."""

    def __init__(
        self, upgrader: Upgrader, pool: BufferPool, settings: SwarmSettings, reach: Reach, legs: Legs
    ) -> None:
        self._upgrader = upgrader
        self._pool = pool
        self._settings = settings
        self._reach = reach
        self._legs = legs

    def why_not(self, addr: Multiaddr) -> str | None:
        """See `Transport`."""
        if not is_relayed(addr):
            return "it leads through no relay"
        return why_undialable(addr, sockaddrs.has_interface)

    def can_listen(self, addr: Multiaddr) -> bool:
        """See `Transport`: a place at a relay is asked for by `protocols.relay_client`."""
        return False

    def listen(self, addr: Multiaddr, gate: Gate) -> Listening:
        """See `Transport`."""
        raise BindFailed(f"{addr} is no address to listen on")

    async def dial(self, peer_id: PeerId, addr: Multiaddr, *, fresh_port: bool = False) -> Link:
        """See `Transport`; there is no port to choose."""
        relay, relay_addr = split_circuit(addr)
        if relay is None or relay == peer_id:
            raise InvalidMultiaddr(f"{addr} leads through no relay other than the peer itself")
        link = await self._reach(relay, () if relay_addr is None else (relay_addr,))
        async with asyncio.timeout(self._settings.upgrade_timeout_s):
            stream, answer = await connect(link, peer_id, can_leg=self._legs.can_dial(link))
            conduit = CircuitConduit(stream, self._pool, link.local_addr, through(link), answer.limit)
            self._legs.promise(conduit, link, answer.ticket)
            return await self._upgrader.upgrade(conduit, "outbound", peer_id)


def through(link: Link) -> Multiaddr:
    """Where a peer is that is met over the relay at the other end of `link`."""
    (addr,) = wire.relayed((link.remote_addr,), link.remote_peer)
    return addr


async def connect(link: Link, peer_id: PeerId, *, can_leg: bool = False) -> tuple[DuplexStream, HopAnswer]:
    """Have the relay at the end of `link` make a circuit to the peer: its stream, and what is said of it.

    The question goes out with the proposal. Raises RelayRefused, RemoteProtocolError, and as
    `Link.open_stream`.
    """
    stream = await link.open_stream([wire.HOP], known=True)  # or it fails at the answer
    try:
        await stream.write_delimited(wire.encode_hop_request(wire.HopRequest(peer_id, can_leg)))
        answer = wire.decode_hop_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
        if answer.status is not Status.OK:
            raise no_circuit(link.remote_peer, answer.status)
    except ProtocolNotSupported as exc:
        raise RelayRefused(f"{link.remote_peer} is no relay") from exc
    except BaseException:
        stream.reset()
        raise
    return stream, answer
