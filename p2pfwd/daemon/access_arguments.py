"""What `allow`, `deny`, `block` and their tables in a file are told: peers and networks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.typed import parse_peer
from p2pfwd.errors import InvalidPeerId, UsageError
from p2pfwd.peers.arguments import Names, named_peer
from p2pfwd.policy.blocks import Network, parse_network

ANY: Final = "any"
"""In place of a peer: every peer."""

MAX_ARGUMENTS: Final = 256
"""Peers or networks of one command."""

_WRITTEN_AS_NETWORK: Final = re.compile(r"[^/]+[/:]|[0-9]+\.")
"""What no peer's name or ID has, and no multiaddr begins with."""


def read_allowed(texts: Sequence[str], names: Names) -> frozenset[PeerId] | None:
    """The peers that these mean, or None: all. Raises UsageError, InvalidPeerId, InvalidMultiaddr."""
    if ANY in texts:
        if len(texts) > 1:
            raise UsageError("any is every peer, and stands alone", hint="leave out the others, or any")
        return None
    return frozenset(_peer(text, names) for text in texts)


def read_blocks(texts: Sequence[str], names: Names) -> tuple[frozenset[PeerId], frozenset[Network]]:
    """The peers and networks that these mean. Raises UsageError and its kin."""
    peers: set[PeerId] = set()
    networks: set[Network] = set()
    for text in texts:
        try:
            network = parse_network(text)
        except ValueError as exc:
            raise UsageError(
                f"{quoted(text)} has bits beyond its prefix", hint=f"the network is {exc}"
            ) from None
        if network is None and _WRITTEN_AS_NETWORK.match(text):
            raise UsageError(
                f"{quoted(text)} is no network", hint="write it as 192.0.2.0/24 or 2001:db8::/32"
            )
        if network is None:
            peers.add(_peer(text, names))
        else:
            networks.add(network)
    return frozenset(peers), frozenset(networks)


def _peer(text: str, names: Names) -> PeerId:
    named = named_peer(text, names)
    if named is not None:
        return named.peer_id
    peer_id, _ = parse_peer(text)
    if peer_id is None:
        raise InvalidPeerId(
            f"{quoted(text)} has no peer ID in it, and access is given to an ID, not to an address",
            hint="p2pfwd id on the other machine prints its peer ID",
        )
    return peer_id


def check_number(texts: Sequence[str]) -> None:
    """Of one command. Raises UsageError."""
    if not texts:
        raise UsageError("no peer given", hint="give a peer ID, or a name of p2pfwd peer add")
    if len(texts) > MAX_ARGUMENTS:
        raise UsageError(
            f"{len(texts)} arguments, where {MAX_ARGUMENTS} is the limit", hint="use several commands"
        )
