"""The daemon as a relay: for whom, since when, who was let in by a token.

Rules: it relays only where others can reach it: in the public network once AutoNAT says so, or by an address
of its own that is public, or on the owner's word (`dht.mode` is `server`); in `lan` and `private`, where
often nobody can tell, at once, and until AutoNAT finds that strangers do not get in: a place at such a relay
would be announced, and lead nowhere. The owner's peers are those he named, keeps or forwards to, those that
may use a listen by their ID, those with a token, and all of a private network: they alone have its key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.own_addresses import Change
from p2pfwd.peers.relay_tokens import RelayToken, RelayTokens
from p2pfwd.policy.relay_bounds import Serve
from p2pfwd.protocols.relay_service import RelayService
from p2pfwd.protocols.relay_token import RelayTokenService
from p2pfwd.wire.relay_token import TokenStatus

if TYPE_CHECKING:
    from p2pfwd.daemon.networks import NetworkProfile
    from p2pfwd.daemon.settings import Settings
    from p2pfwd.host.host import Host
    from p2pfwd.rpc.paths import Paths

log = logging.getLogger("p2pfwd.relay")

PIN: Final = "relay-token"
"""Tag in the peerstore of those who were let in: the owner's peers."""


class Relaying:
    """Of one daemon; `start` begins, `close` ends it."""

    def __init__(
        self,
        host: Host,
        paths: Paths,
        settings: Settings,
        network: NetworkProfile,
        is_reachable: Callable[[], bool],
        is_hidden: Callable[[], bool] = lambda: False,
        is_allowed: Callable[[PeerId], bool] = lambda _peer: False,
    ) -> None:
        """`is_reachable`: whether strangers are thought to reach this node; `is_hidden`: known not to.

        `is_allowed`: whether an access rule lets a peer in by its ID.
        """
        self.service = RelayService(host.swarm, most_legs=settings.relay_legs)
        self.tokens = RelayTokens(paths.relay_tokens_file)
        self._host = host
        self._wanted: Serve = settings.relay_serve
        self._is_told_to = settings.dht_mode == "server"
        self._is_at_once = not network.is_public
        self._is_reachable = is_reachable
        self._is_hidden = is_hidden
        self._token_service = RelayTokenService(host.swarm, self._claim)
        self._started = False
        is_private, is_chosen = network.name == "private", host.swarm.peerstore.is_chosen
        self.service.is_own = lambda peer: is_private or is_chosen(peer) or is_allowed(peer)
        self.service.on_room = self._has_room

    def start(self) -> None:
        """Read the tokens, and relay where it can be. Raises as `RelayTokens.load`."""
        self.tokens.load()
        self._pin(self.tokens.peers())
        self._started = True
        self._host.swarm.own_addresses.on_changed(self._addresses_changed)
        self._host.swarm.peerstore.on_change(self._may_be_own)
        self.look_again()

    def close(self) -> None:
        """Relay for nobody. Idempotent."""
        self._started = False
        self._token_service.serve(False)
        self.service.close()

    @property
    def why_not(self) -> str | None:
        """Why this node relays for nobody, in words; None where it does."""
        if self.service.serves != "off":
            return None
        if self._wanted == "off":
            return "relay.serve is off"
        return "it is not known that others reach this node"

    def look_again(self) -> None:
        """Whether others reach this node may have changed."""
        if not self._started:
            return
        may = self._is_told_to or (not self._is_hidden() if self._is_at_once else self._is_reachable())
        serves = self._wanted if may else "off"
        self._token_service.serve(serves != "off")
        if self.service.serve(serves):
            log.info("relaying for %s", {"off": "nobody", "peers": "own peers"}.get(serves, serves))
            self._host.identify.push()

    def rights_changed(self) -> None:
        """Others may be the owner's peers now: cut what was given to those that are it no more."""
        for peer in self.service.disowned():
            log.info("%s is none of this node's peers any more", peer)
            self._cut(peer)
        for peer in self.service.strangers():
            self._may_be_own(peer)

    def _may_be_own(self, peer: PeerId) -> None:
        """Whoever asked before its owner's word was given asks again when it hears of this node.

        It had no place, or one with limits: that it has none any more it learns when it asks.
        """
        if self.service.adopt(peer):
            log.info("%s asked for a place as a stranger, and may have one as an own peer now", peer)
            self._host.identify.push(peer)

    def _has_room(self, peer: PeerId) -> None:
        log.info("%s asked for a place before, and there is room for it now", peer)
        self._host.identify.push(peer)

    def _cut(self, peer: PeerId) -> int:
        """Take its place and its circuits away: how many there were."""
        ended = self.service.cut(peer)
        self._host.identify.push(peer)  # whoever held a place asks for it anew, and learns it
        return ended

    def _addresses_changed(self, change: Change) -> None:
        if change & (Change.MOVED | Change.TOLD):
            self.look_again()

    # --- tokens -----------------------------------------------------------------------------------

    async def _claim(self, token: str, peer: PeerId) -> TokenStatus:
        status = await self.tokens.claim(token, peer)
        if status is TokenStatus.OK:
            self._pin({peer})
        return status

    def _pin(self, peers: set[PeerId]) -> None:
        for peer in peers:
            self._host.swarm.peerstore.pin(peer, (), PIN)

    async def revoke(self, name: str) -> tuple[RelayToken, int, list[PeerId]]:
        """Take a token away, and cut those it let in: the entry, and how many circuits ended.

        And those who may use this relay all the same: by another token, or as the owner's peers in another
        way. Raises NotFound, StorageFailed.
        """
        token = await self.tokens.revoke(name)
        left = self.tokens.peers()
        ended = 0
        for peer in token.peers:
            if peer not in left:
                self._host.swarm.peerstore.unpin(peer, PIN)
                ended += self._cut(peer)
            await asyncio.sleep(0)  # there may be a thousand
        return token, ended, [peer for peer in token.peers if self.service.is_own(peer)]
