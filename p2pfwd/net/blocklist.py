"""The block list at work: who is turned away at the door, and who after the handshake.

Rules: a network is refused before a byte is read, a peer as soon as it has proved its ID, whoever dialed.
What is refused is counted as `blocked`.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pfwd.core.multiaddrs import Multiaddr, split_circuit
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import PeerBlocked
from p2pfwd.net.link.contract import Link
from p2pfwd.net.refusals import Refusals
from p2pfwd.policy.blocks import Blocks


class Blocklist:
    """Of one node."""

    def __init__(self, refusals: Refusals) -> None:
        self.blocks = Blocks()
        """Replaced as a whole where it changes."""
        self.on_changed: Callable[[], None] = lambda: None
        """Called when its connections have ended: set by the relay, whose circuits may need none."""
        self._refusals = refusals

    def turns_away(self, host: str) -> bool:
        """Whether a connection from this literal host is to be closed at once; it is counted."""
        if not self.blocks.has_host(host):
            return False
        self._refusals.note("blocked", host, "refused: its address is blocked")
        return True

    def has(self, conn: Link) -> bool:
        """Whether this connection may not be, or the relay that it leads through."""
        if conn.is_relayed:
            relay, addr = split_circuit(conn.remote_addr)
            if relay in self.blocks.peers or (addr is not None and self.blocks.has_addr(addr)):
                return True
        return conn.remote_peer in self.blocks.peers or self.blocks.has_addr(conn.remote_addr)

    def has_peer(self, peer_id: PeerId) -> bool:
        """Whether this peer is on the list by its ID."""
        return peer_id in self.blocks.peers

    def has_addr(self, addr: Multiaddr) -> bool:
        """Whether this address is not dialed."""
        return self.blocks.has_addr(addr)

    def refuses(self, conn: Link) -> bool:
        """The same of one that has come up; it is counted."""
        if not self.has(conn):
            return False
        self._refusals.note("blocked", conn.remote_peer, f"{conn.remote_addr} is refused: it is blocked")
        return True

    def check(self, peer_id: PeerId) -> None:
        """Raise PeerBlocked where nothing may be opened to this peer."""
        if self.has_peer(peer_id):
            raise PeerBlocked(
                f"{peer_id} is blocked on this node", hint=f"p2pfwd unblock {peer_id} takes it off the list"
            )
