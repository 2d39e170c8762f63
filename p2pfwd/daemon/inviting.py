"""Invites of this node: made, listed, and given their rights as they are taken.

Rules: what is used up is on the disk before the right is given, so that a daemon killed in between lets in
nobody else, and its peer comes again. The right is the one of `p2pfwd allow PROTOCOL PEER`, and goes as that
does; who was given it once, and lost it, is not given it again. An invite never undoes a denial by peer ID,
nor a block, and takes no name away from anybody.
"""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING, Final, Literal

from p2pfwd.core.invite_token import KEY_MARK_BYTES, InviteToken
from p2pfwd.core.multiaddrs import AddressClass, address_class
from p2pfwd.errors import P2PForwardError, ResourceLimitExceeded, StorageFailed, UsageError
from p2pfwd.forwarding.names import check_protocol
from p2pfwd.peers.invites import Invite, Invites
from p2pfwd.peers.named import read_name
from p2pfwd.policy.invite_addresses import invite_addresses
from p2pfwd.protocols.invite import InviteService
from p2pfwd.rpc import schema as s
from p2pfwd.wire.invite import InviteStatus, Offer, Verdict, Verifier, id_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2pfwd.core.peer_id import PeerId
    from p2pfwd.daemon.access import AccessControl
    from p2pfwd.daemon.networks import NetworkProfile
    from p2pfwd.daemon.peering import Peering
    from p2pfwd.forwarding.service import Forwarding
    from p2pfwd.host.host import Host
    from p2pfwd.policy.shares import Party
    from p2pfwd.rpc.paths import Paths

log = logging.getLogger("p2pfwd.invites")

NOT_LISTENING: Final = "not-listening"
OPEN: Final = "open"
NAMES_OPEN: Final = "names-open"
UNREACHABLE: Final = "unreachable"
"""Codes of notices."""


InviteChange = Literal["made", "taken", "revoked"]


class Inviting:
    """Of one daemon; `start` reads the invites, `close` ends it."""

    def __init__(
        self,
        host: Host,
        paths: Paths,
        network: NetworkProfile,
        access: AccessControl,
        peering: Peering,
        forwarding: Forwarding,
    ) -> None:
        self.invites = Invites(paths.invites_file)
        self._host = host
        self._network = network
        self._access = access
        self._peering = peering
        self._forwarding = forwarding
        self.on_changed: Callable[[Invite, InviteChange, PeerId | None], None] = lambda *_: None
        """Told of an invite that was made, revoked, or taken by this peer."""
        self.on_refused: Callable[[Party, str], None] = lambda *_: None
        """Told who tried one in vain, and why."""
        self._service = InviteService(host.swarm, self)

    def start(self) -> None:
        """Read the invites, and know of them. Raises as `Invites.load`."""
        self.invites.load()
        self._serve()

    def close(self) -> None:
        """Know of none any more. Idempotent."""
        self._service.serve(False)

    def _serve(self) -> None:
        self._service.serve(bool(self.invites.all()))

    async def make(
        self, protocol: str, *, life_s: float, uses: int, name: str | None
    ) -> tuple[Invite, InviteToken]:
        """A new invite, and the word for it. Raises UsageError and its kin, as `Invites.make`."""
        check_protocol(protocol, allow_custom=True, serving=True)
        wish = None if name is None else read_name(name)
        invite, secret = await self.invites.make(protocol, life_s=life_s, uses=uses, name=wish)
        self._serve()
        log.info("invite %s was made, for %s", invite.id, protocol)
        self.on_changed(invite, "made", None)
        key = self._network.fingerprint
        token = InviteToken(
            self._host.peer_id,
            tuple(invite_addresses(self._host.swarm.listen_addrs())),
            secret,
            self._network.name,
            b"" if key is None else bytes.fromhex(key)[:KEY_MARK_BYTES],
        )
        return invite, token

    def notices(self, invite: Invite, token: InviteToken) -> list[s.Notice]:
        """What the owner should know of an invite that he has made."""
        protocol, found = invite.protocol, []
        listening = self._forwarding.is_listening(protocol)
        if not listening:
            message = f"no listen has the name {protocol} yet: the invite is good for when it has"
            found.append(
                s.Notice(NOT_LISTENING, message, f"{shlex.join(['p2pfwd', 'listen', protocol])} TARGET")
            )
        if self._access.of(protocol).lets_in == "any":
            message = f"{protocol} lets in any peer that knows its name, invited or not"
            found.append(s.Notice(OPEN, message, shlex.join(["p2pfwd", "deny", protocol, "any"])))
        if invite.name is not None and self._access.default == "named":
            message = f"access.default is named: as {invite.name} it may use every listen that has no rule"
            found.append(s.Notice(NAMES_OPEN, message, "leave out --name, or give those listens a rule"))
        if all(address_class(addr) is AddressClass.LOOPBACK for addr in token.addrs):
            message = "this node has no address that leads here from another machine"
            hint = "p2pfwd doctor says why; the other machine looks this one up by its peer ID"
            found.append(s.Notice(UNREACHABLE, message, hint))
        return found

    async def revoke(self, invite: str) -> Invite:
        """Let nobody take it any more; who has taken it keeps its right. Raises NotFound, StorageFailed."""
        before = self.invites.find(invite)
        revoked = await self.invites.revoke(invite)
        if before is None or not before.revoked:
            log.info("invite %s was revoked", revoked.id)
            self.on_changed(revoked, "revoked", None)
        return revoked

    # --- the desk of `protocols.invite` -----------------------------------------------------------------

    def verifier(self, invite: bytes) -> Verifier | None:
        """Of the invite with this ID, whatever has become of it."""
        found = self.invites.find(id_text(invite))
        return None if found is None else found.verifier

    def judge(self, invite: bytes, peer: PeerId) -> Verdict:
        """What a peer that has proved the secret is told."""
        found = self.invites.find(id_text(invite))
        if found is None:
            return Verdict(InviteStatus.UNKNOWN)
        status = found.status(peer, self.invites.unix_time())
        if status is InviteStatus.OK and (
            self._access.is_denied(found.protocol, peer) or self._has_lost(found, peer)
        ):
            status = InviteStatus.DENIED
        if status is not InviteStatus.OK:
            return Verdict(status)
        return Verdict(status, Offer(found.protocol, self._forwarding.is_listening(found.protocol)))

    def _has_lost(self, invite: Invite, peer: PeerId) -> bool:
        """Whether its owner has taken away what this peer was given."""
        return peer in invite.let_in and not self._forwarding.access.rules.admits(peer, invite.protocol)

    async def claim(self, invite: bytes, peer: PeerId) -> InviteStatus:
        """It takes it: on OK the use is written down, and the right is given."""
        status, before = self.judge(invite, peer).status, self.invites.find(id_text(invite))
        if status is InviteStatus.OK:
            status = await self.invites.claim(id_text(invite), peer)
        found = self.invites.find(id_text(invite))
        if status is not InviteStatus.OK or found is None or peer in found.let_in:
            return status
        try:
            if not await self._access.let_in(found.protocol, peer):
                return InviteStatus.DENIED  # the owner was quicker
            if found.name is not None:
                await self._name(found.name, peer)
        except P2PForwardError as exc:
            log.error("invite %s was taken by %s, and its right not given: %s", found.id, peer, exc.message)
            return InviteStatus.BUSY
        try:
            await self.invites.note_let_in(found.id, peer)
        except StorageFailed as exc:
            log.warning("%s may take its right again with invite %s: %s", peer, found.id, exc.message)
        if before is None or peer not in before.peers:  # it may have come again for its answer
            log.info("invite %s was taken by %s: it may use %s", found.id, peer, found.protocol)
            self.on_changed(found, "taken", peer)
        return status

    async def _name(self, name: str, peer: PeerId) -> None:
        """Call it that, if it can have the name and there is room: the right does not hang on it."""
        try:
            await self._peering.name_if_free(name, peer)
        except (ResourceLimitExceeded, UsageError) as exc:
            log.warning("%s, which was invited as %s, has no name: %s", peer, name, exc.message)

    def refused(self, party: Party, cause: str) -> None:
        """Somebody tried an invite in vain."""
        self.on_refused(party, cause)
