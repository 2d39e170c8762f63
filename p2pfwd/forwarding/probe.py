"""The probe: asks a peer whether it serves a protocol, without touching the service behind it.

Opening a stream of the protocol itself makes the far side dial its target, and a one-shot service takes
that for its client. So a p2pfwd node also answers `/p2pfwd/probe/1.0.0<protocol>`: negotiation succeeds iff
the protocol is served, then it sends one varint-delimited message, the listener's state as in
`ListenerInfo.state` (no addresses, no reasons: those are not a stranger's business), and closes. A peer that
is denied the protocol, and told so by the owner's word, is answered `not-allowed`.

Another libp2p node knows no probes, and tells by identify what it serves. Where it lists the protocol, as go-
and js-libp2p do, that is the answer: the service is not touched, and nobody knows whether it answers. A Kubo
lists `/x/` and none of the names below it. Only the protocol itself, offered second in the same negotiation,
tells whether that name is served: a mistyped one is found far more often than a service that minds. A
stream that opens is watched for a moment and then reset; its service sees one connection that ends, and the
answer says so. (A FIN would ask nothing more: a Kubo answers one with FIN or with reset, whether its service
is alive or not.)
"""

from __future__ import annotations

import asyncio
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import NotAllowed, ProtocolNotSupported, RemoteProtocolError, StreamReset
from p2pfwd.forwarding.listen import RemoteListener
from p2pfwd.forwarding.registry import ListenerRegistry
from p2pfwd.forwarding.values import READY, UNKNOWN

if TYPE_CHECKING:
    from p2pfwd.net.link.contract import Accepts, Carrier, DuplexStream
    from p2pfwd.net.swarm import Swarm
    from p2pfwd.net.visits import Visit
    from p2pfwd.policy.paths import Way

PREFIX: Final = "/p2pfwd/probe/1.0.0"
MAX_STATE_BYTES: Final = 64
"""A state is an error code: a few words in kebab-case."""

GRACE_S: Final = 1.0
"""How long a peer that only knows the protocol itself has to show that its target is dead."""

LISTED_WAIT_S: Final = 5.0
"""How long a peer on a new connection has to say what it serves."""

NOT_TRIED: Final = (
    "the peer lists the service, which was not tried: it is no p2pfwd, and a try would be a connection there"
)

TRIED: Final = "this try was a connection at its service, which ended at once; --no-check makes none"

_STATE: Final = re.compile(rb"[a-z][a-z-]*")
_STRANGER_SAYS: Final = {
    "target-refused": "its service does not answer",
    "target-timeout": "its service does not answer in time",
    "target-unhealthy": "its service answers that it is not well",
    "resource-limit": "it is at its limit of connections",
}


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """The peer serves the protocol, and this is how its service is; a `reason` beside READY is a remark."""

    conn: Carrier
    state: str
    reason: str | None


class ProbeService:
    """Answers probes about the listens of a registry, to whom `serves` says they are there for.

    Whom `tells` names is told that they are not for it.
    """

    def __init__(
        self, listeners: ListenerRegistry, serves: Accepts, tells: Accepts = lambda _peer, _name: False
    ) -> None:
        self._listeners = listeners
        self._serves = serves
        self._tells = tells

    def _asked(self, name: str) -> RemoteListener | None:
        found = self._listeners.find("listen", name.removeprefix(PREFIX))
        return found if isinstance(found, RemoteListener) else None

    def accepts(self, peer: PeerId, name: str) -> bool:
        """Whether `name` asks about a protocol that this peer is served."""
        protocol = name.removeprefix(PREFIX)
        return name.startswith(PREFIX) and (self._serves(peer, protocol) or self._tells(peer, protocol))

    async def serve(self, visit: Visit) -> None:
        """Answer one probe."""
        stream = visit.stream
        listener = self._asked(stream.protocol or "")
        if listener is None:  # closed since the negotiation
            stream.reset()
            return
        is_told = self._tells(visit.party.peer, listener.protocol)
        await visit.answer((NotAllowed.code if is_told else listener.glance()).encode())
        await stream.close()


def not_served(protocol: str) -> ProtocolNotSupported:
    """The peer was reached and knows no such protocol, in words for its user."""
    return ProtocolNotSupported(
        f"the peer is there but does not serve {protocol}",
        hint="is the listen running on the other machine, under exactly this name?",
        protocol=protocol,
    )


def not_allowed(protocol: str, own: PeerId) -> NotAllowed:
    """The peer serves it to others, in words for this node's user, with the line for the other's."""
    line = shlex.join(("p2pfwd", "allow", protocol, str(own)))
    return NotAllowed(f"not allowed yet to use {protocol}", hint=f"ask them to run: {line}")


async def probe(swarm: Swarm, peer: PeerId, protocol: str, timeout_s: float, way: Way) -> ProbeAnswer:
    """Ask `peer` about `protocol`, by the way that a tunnel may go over; connects if need be.

    Raises what `Swarm.open_stream` raises (ProtocolNotSupported names `protocol`), NotAllowed, TimeoutError.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    conn = await swarm.connect_by(peer, way, timeout_s)
    await asyncio.wait([conn.identified], timeout=min(LISTED_WAIT_S, timeout_s))
    listed = swarm.peerstore.protocols(peer)
    if protocol in listed and PREFIX not in listed:
        return ProbeAnswer(conn, UNKNOWN, NOT_TRIED)
    left_s = deadline - loop.time()
    try:
        stream = await swarm.open_stream(peer, (PREFIX + protocol, protocol), timeout_s=left_s, way=way)
    except ProtocolNotSupported as exc:
        raise not_served(protocol) from exc
    try:
        if stream.protocol == protocol:
            return await _try_service(stream, min(GRACE_S, deadline - loop.time()))
        async with asyncio.timeout_at(deadline):
            return await _read_answer(stream, protocol, swarm.peer_id)
    finally:
        stream.reset()


async def ask(swarm: Swarm, peer: PeerId, protocol: str, timeout_s: float) -> ProbeAnswer:
    """What a p2pfwd peer says of `protocol`. Unlike `probe` it never touches a service, a Kubo's included.

    Raises what `Swarm.open_stream` raises (ProtocolNotSupported: or the peer knows no probes), NotAllowed,
    TimeoutError.
    """
    async with asyncio.timeout(timeout_s):
        stream = await swarm.open_stream(peer, (PREFIX + protocol,), timeout_s=timeout_s)
        try:
            return await _read_answer(stream, protocol, swarm.peer_id)
        finally:
            stream.reset()


async def _read_answer(stream: DuplexStream, protocol: str, own: PeerId) -> ProbeAnswer:
    message = await stream.read_delimited(MAX_STATE_BYTES)
    if not _STATE.fullmatch(message):
        raise RemoteProtocolError("the peer's answer to a probe is no state")
    state = message.decode()
    if state == NotAllowed.code:
        raise not_allowed(protocol, own)
    if state in (READY, UNKNOWN):
        return ProbeAnswer(stream.conn, READY, None)
    says = _STRANGER_SAYS.get(state, f"it reports {state}")
    return ProbeAnswer(stream.conn, state, f"the peer serves the protocol, but {says}")


async def _try_service(stream: DuplexStream, grace_s: float) -> ProbeAnswer:
    try:
        async with asyncio.timeout(grace_s):
            await stream.read(1)
    except StreamReset:
        reason = "the peer took the stream and reset it: its service does not answer, or it refuses this node"
        return ProbeAnswer(stream.conn, "stream-reset", reason)
    except TimeoutError:
        pass  # a service that waits: it is alive
    return ProbeAnswer(stream.conn, READY, TRIED)
