"""Taking up somebody's invite: the inviter is reached and proved, the forward made, and the inviter named.

Rules: what is wrong on this side (the word, the network, LISTEN) is told before anything is used up there.
The forward is saved as every forward is, and taken back where the invite is not granted. A name that another
peer has is never taken.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from p2pfwd.core.invite_token import KEY_MARK_BYTES, InviteToken
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.terms import ForwardTerms
from p2pfwd.errors import InvalidInvite, P2PForwardError, PeerExists, SelfDial
from p2pfwd.forwarding.bind import numeric
from p2pfwd.forwarding.names import PREFIX, check_protocol
from p2pfwd.peers.named import read_name
from p2pfwd.protocols import invite as invites
from p2pfwd.state.tunnel_file import SavedTunnel

if TYPE_CHECKING:
    from p2pfwd.daemon.access import AccessControl
    from p2pfwd.daemon.networks import NetworkProfile
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.daemon.tunnels import Tunnels
    from p2pfwd.forwarding.registry import Listener
    from p2pfwd.host.host import Host
    from p2pfwd.wire.invite import Offer

log = logging.getLogger("p2pfwd.invites")

NAME: Final = "inviter"
"""What an inviter is called that nobody has named."""

ANY_PORT: Final = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


class Joined:
    """What came of it."""

    def __init__(self, token: InviteToken) -> None:
        self.token = token
        self.offer: Offer | None = None
        self.listener: Listener | None = None
        self.stood = False
        """Whether the forward was there before."""
        self.name: str | None = None


class Joining:
    """Of one daemon."""

    def __init__(
        self,
        host: Host,
        network: NetworkProfile,
        access: AccessControl,
        peering: Peering,
        tunnels: Tunnels,
    ) -> None:
        self._host = host
        self._network = network
        self._access = access
        self._peering = peering
        self._tunnels = tunnels

    async def join(
        self, token: InviteToken, listen: Multiaddr | None, name: str | None, timeout_s: float
    ) -> Joined:
        """Take it up; `timeout_s` is for reaching the inviter. `name`: what to call it.

        Raises InvalidInvite, SelfDial, PeerExists, InviteRefused, and as `Swarm.connect` and `Tunnels.make`.
        """
        joined = Joined(token)
        self._check(token)
        wish = None if name is None else self._free_name(name, token)
        try:
            link = await self._host.swarm.connect(token.peer, token.addrs, timeout_s=timeout_s, force=True)
        except P2PForwardError as exc:
            raise self._with_network(exc, token) from exc

        async def prepare(offer: Offer) -> None:
            joined.offer = offer
            joined.listener, joined.stood = await self._forward(token, offer, listen)

        try:
            await invites.take_up(link, token.secret, self._host.peer_id, prepare)
        except (P2PForwardError, asyncio.CancelledError):
            if joined.listener is not None:
                await self._tunnels.take_back(joined.listener, joined.stood)
            raise
        joined.name = await self._name(token, wish)
        return joined

    def _check(self, token: InviteToken) -> None:
        if token.peer == self._host.peer_id:
            raise SelfDial("the invite is one of this node itself", hint="join it on the other machine")
        key = self._network.fingerprint
        mark = b"" if key is None else bytes.fromhex(key)[:KEY_MARK_BYTES]
        if token.key_mark == mark:
            return
        if not mark:
            message = "the invite is of a private network, and this node is in none"
        elif not token.key_mark:
            message = f"the invite is of the network {token.network}, and this node is in a private one"
        else:
            message = "the invite is of another private network: its swarm key is not the one here"
        raise InvalidInvite(
            message,
            hint="p2pfwd network join LINE has this node join a private network; "
            "p2pfwd --home DIR has room for a node in each network",
        )

    def _with_network(self, exc: P2PForwardError, token: InviteToken) -> P2PForwardError:
        """The failure to get there, and that the two are in networks that may not meet."""
        if token.network == self._network.name:
            return exc
        there, here = token.network, self._network.name
        message = f"{exc.message}; the inviter is in the network {there}, and this node in {here}"
        return type(exc)(message, hint=exc.hint, **exc.details)

    def _free_name(self, name: str, token: InviteToken) -> str:
        """The name asked for, if the inviter can have it. Raises UsageError, PeerExists."""
        wish = read_name(name)
        named = self._peering.names.find(wish)
        if named is not None and named.peer_id != token.peer:
            hint = f"another --name, or p2pfwd peer rm {wish} first"
            raise PeerExists(f"{wish} is the name of another peer, {named.peer_id}", hint=hint)
        return wish

    async def _forward(
        self, token: InviteToken, offer: Offer, listen: Multiaddr | None
    ) -> tuple[Listener, bool]:
        """The forward, and whether it stood already. Raises as `Tunnels.make`."""
        protocol = check_protocol(offer.protocol, allow_custom=True, serving=False)
        kept = self._tunnels.kept_forward(protocol, token.peer) if listen is None else None
        if kept is not None:
            wanted = replace(kept, peer_addrs=token.addrs)
        else:
            wanted = SavedTunnel(
                "forward",
                protocol,
                await numeric(ANY_PORT if listen is None else listen),
                ForwardTerms(custom_protocol=not protocol.startswith(PREFIX)),
                peer=token.peer,
                peer_addrs=token.addrs,
            )
        return await self._tunnels.make(wanted, "saved")

    async def _name(self, token: InviteToken, wish: str | None) -> str | None:
        """The inviter's name here; None where it has none, and where a name would let it in."""
        if wish is None and self._access.default == "named":
            return next((it.name for it in self._peering.names.all() if it.peer_id == token.peer), None)
        try:
            return await self._peering.name_if_free(wish or NAME, token.peer, token.addrs)
        except P2PForwardError as exc:  # the right is given, and the forward stands
            log.warning("the inviter was given no name: %s", exc.message)
            return None
