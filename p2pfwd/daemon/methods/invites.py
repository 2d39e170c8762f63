"""The RPC's methods on invites: `invite.*` (p2pfwd-rpc(7)).

Rule: no word of an invite, and no secret, is logged or told again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from p2pfwd.core.invite_token import InviteToken
from p2pfwd.core.typed import parse_endpoint
from p2pfwd.daemon import notices
from p2pfwd.daemon.methods import views
from p2pfwd.daemon.methods.process import Node
from p2pfwd.rpc import schema as s
from p2pfwd.rpc.server import CallContext, Handler
from p2pfwd.rpc.time_limit import check_timeout

if TYPE_CHECKING:
    from p2pfwd.daemon.inviting import Inviting
    from p2pfwd.daemon.joining import Joining
    from p2pfwd.peers.invites import Invite


class InviteMethods:
    """Methods of one daemon."""

    def __init__(self, node: Node, inviting: Inviting, joining: Joining) -> None:
        self._node = node
        self._inviting = inviting
        self._joining = joining

    def table(self) -> Mapping[str, Handler]:
        """Method name -> coroutine function."""
        return {
            "invite.new": self.new,
            "invite.ls": self.ls,
            "invite.revoke": self.revoke,
            "invite.join": self.join,
        }

    async def new(self, context: CallContext, params: s.InviteNewParams) -> s.InviteNewResult:
        """Make an invite. Raises InvalidProtocol, UsageError, ResourceLimitExceeded, StorageFailed."""
        await self._node.relays.first_place()
        invite, token = await self._inviting.make(
            params.protocol, life_s=params.expires_s, uses=params.uses, name=params.name
        )
        return s.InviteNewResult(
            invite=self._view(invite),
            token=str(token),
            command=f"p2pfwd join {token}",
            addresses=views.full_addresses(list(token.addrs), token.peer),
            notices=(*self._inviting.notices(invite, token), *notices.of_relays(self._node.relays)),
            taken_ports=self._node.host.taken_ports,
        )

    async def ls(self, context: CallContext, params: s.Empty) -> s.InviteLsResult:
        """Every invite that is known, the oldest first."""
        return s.InviteLsResult(tuple(map(self._view, self._inviting.invites.all())))

    async def revoke(self, context: CallContext, params: s.InviteRevokeParams) -> s.InviteRevokeResult:
        """Let nobody take an invite any more. Raises NotFound, StorageFailed."""
        revoked = await self._inviting.revoke(params.id)
        rules, shown = self._node.forwarding.access.rules, self._view(revoked)
        takers = zip(revoked.peers, shown.taken_by, strict=True)
        return s.InviteRevokeResult(
            shown, tuple(taker for peer, taker in takers if rules.admits(peer, revoked.protocol))
        )

    async def join(self, context: CallContext, params: s.InviteJoinParams) -> s.InviteJoinResult:
        """Take up an invite. Raises InvalidInvite, InviteRefused, and as `swarm.connect`, `p2p.forward`."""
        token = InviteToken.parse(params.token)
        listen = None if params.listen is None else parse_endpoint(params.listen)
        joined = await self._joining.join(token, listen, params.name, check_timeout(params.timeout_s))
        listener, offer = joined.listener, joined.offer
        assert listener is not None and offer is not None
        swarm = self._node.host.swarm
        return s.InviteJoinResult(
            listener=self._node.shown(listener.info()),
            peer=str(token.peer),
            name=joined.name,
            listening=offer.listens,
            notices=tuple(notices.of_listening(listener.listen_address, swarm.own_addresses)),
            stood=joined.stood,
        )

    def _view(self, invite: Invite) -> s.Invite:
        now = self._inviting.invites.unix_time()
        state = invite.state(now)
        names = {it.peer_id: it.name for it in self._node.peering.names.all()}
        return s.Invite(
            id=invite.id,
            protocol=invite.protocol,
            state=state,
            made=invite.made,
            expires=invite.expires,
            left_s=max(0.0, invite.expires - now) if state == "open" else 0.0,
            uses=invite.uses,
            name=invite.name,
            taken_by=tuple(s.AccessPeer(str(peer), names.get(peer)) for peer in invite.peers),
        )
