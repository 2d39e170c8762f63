"""The line that lets a machine into somebody's network: where its hub is, and the secrets it takes.

    /ip4/203.0.113.5/tcp/4011/p2p/12D3…#token?key

The token lets in at the hub's relay; the key, in base16, is that of a private network. Either may be left
out.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.relay_token import read_token
from p2pfwd.core.swarm_key import SwarmKey
from p2pfwd.errors import InvalidKey, InvalidMultiaddr, UsageError

_FORM = "paste the whole line that p2pfwd hub printed on the other machine, in quotes"


@dataclass(frozen=True, slots=True)
class JoinLine:
    """Its parts. `hub` ends in `/p2p/<peer ID>`."""

    hub: Multiaddr
    token: str | None = None
    key: SwarmKey | None = None

    @classmethod
    def parse(cls, text: str) -> JoinLine:
        """The line that `text` is; the error shows none of its secrets. Raises UsageError."""
        rest, _, key = text.strip().strip("'\"").partition("?")
        address, _, token = rest.partition("#")
        if not address.startswith("/"):  # perhaps the token alone: it is not to be seen
            raise UsageError("that is no line of a hub's: it begins with no address", hint=_FORM)
        try:
            hub = Multiaddr.parse(address)
        except InvalidMultiaddr as exc:
            raise UsageError(exc.message, hint=_FORM) from None
        peer_id = hub.peer_id()
        if peer_id is None or not peer_id.is_possible():
            raise UsageError(f"{address} does not end in /p2p/ and the hub's peer ID", hint=_FORM)
        try:
            psk = SwarmKey(bytes.fromhex(key)) if key else None
        except (ValueError, InvalidKey):
            raise UsageError("what follows the ? is no swarm key", hint=_FORM) from None
        return cls(hub, read_token(token) if token else None, psk)

    def __str__(self) -> str:
        return self.relay if self.key is None else f"{self.relay}?{self.key.psk.hex()}"

    @property
    def relay(self) -> str:
        """As `reach.relays` has it."""
        return str(self.hub) if self.token is None else f"{self.hub}#{self.token}"
