"""Tokens that let a peer in at a relay: showing one, and taking those that are shown.

A token is shown once per connection, before a place or a circuit is asked for. It goes over a connection
whose other end has proved that it is the relay; it is never logged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import ProtocolNotSupported, RelayRefused, RemoteProtocolError, TimedOut
from p2pfwd.net.exchange import exchange
from p2pfwd.net.link.contract import Link
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.visits import Visit
from p2pfwd.policy.service_bounds import RELAY_TOKEN
from p2pfwd.wire import relay_token as wire
from p2pfwd.wire.relay_token import TokenStatus

ANSWER_S: Final = 10.0

Claim = Callable[[str, PeerId], Awaitable[TokenStatus]]
"""(token, who shows it): what becomes of it."""

_PUT: Final = "put it behind the # in reach.relays, then p2pfwd reload"

_WHY: Final = {
    TokenStatus.UNKNOWN: (
        "it does not know the token; was it revoked? p2pfwd relay token new there makes another",
        _PUT,
    ),
    TokenStatus.TAKEN: (
        "the token is another machine's, which showed it first; p2pfwd relay token new there makes another",
        _PUT,
    ),
    TokenStatus.BUSY: ("it could not take the token just now; it is shown again by itself", None),
}


async def show(link: Link, token: str) -> None:
    """Show a token to the relay at the other end.

    Raises RelayRefused (its `status` says why), RemoteProtocolError, TimedOut, and as `Link.open_stream`.
    """
    relay = link.remote_peer
    try:
        async with exchange(link, wire.PROTOCOL, ANSWER_S) as stream:
            await stream.write_delimited(wire.encode_request(token))
            status = wire.decode_answer(await stream.read_delimited(wire.MAX_MESSAGE_BYTES))
    except ProtocolNotSupported as exc:
        why = f"the relay {relay} knows no tokens; take the # and what follows it out of reach.relays"
        raise RelayRefused(why, status="NO_TOKENS") from exc
    except TimeoutError:
        raise TimedOut(f"the relay {relay} did not answer within {ANSWER_S:g} s") from None
    if status is not TokenStatus.OK:
        why, hint = _WHY[status]
        raise RelayRefused(f"the relay {relay} refuses: {why}", hint=hint, status=f"TOKEN_{status.name}")


class RelayTokenService:
    """A relay's side; `serve` begins and ends it."""

    def __init__(self, swarm: Swarm, claim: Claim) -> None:
        self._swarm = swarm
        self._claim = claim
        self._serving = False
        swarm.services.reserve(wire.PROTOCOL)

    def serve(self, on: bool) -> None:
        """Take tokens, or no longer."""
        if on == self._serving:
            return
        self._serving = on
        if on:
            service = Service(name=wire.PROTOCOL, talk=self._talk, bounds=RELAY_TOKEN)
            self._swarm.services.serve(service)
        else:
            self._swarm.services.withdraw(wire.PROTOCOL)

    async def _talk(self, visit: Visit) -> None:
        message = await visit.message()
        if message is None:
            await visit.stream.close()
            return
        try:
            status = await self._claim(wire.decode_request(message), visit.party.peer)
        except RemoteProtocolError:
            status = TokenStatus.UNKNOWN
        if status is not TokenStatus.OK:
            what = f"relay: it shows a token that is not its own ({status.name.lower()})"
            self._swarm.refusals.note("relay-token-refused", visit.party.peer, what)
        await visit.answer(wire.encode_answer(status))
        await visit.stream.close()
