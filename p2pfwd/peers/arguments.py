"""PEER and address arguments of RPC calls, as people type them, into values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.core.typed import check_peer_ids, is_meant_as_peer_id, parse_endpoint, parse_peer
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId, PeerNotFound, UsageError
from p2pfwd.peers.named import NamedPeer, is_name

MAX_PEER_ARGUMENTS = 32
"""PEERs of one call: addresses of one peer."""

Resolve = Callable[[Multiaddr], Awaitable[Sequence[Multiaddr]]]


class Names(Protocol):
    """Who has a name, as `NamedPeers`."""

    def find(self, text: str) -> NamedPeer | None:
        """The peer of this name, in any case; None if there is none."""


async def read_peers(
    texts: Sequence[str], names: Names, resolve: Resolve
) -> tuple[PeerId, tuple[Multiaddr, ...]]:
    """The peer that all of `texts` mean, and the addresses given for it, without its ID.

    A name gives the addresses it has.
    `/dnsaddr/host` without an ID is resolved to learn it, and kept, to be resolved again at each dial.
    Raises InvalidPeerId, InvalidMultiaddr, PeerNotFound, and UsageError when they name more than one peer.
    """
    found, addresses, unknown = _parse(texts, names)
    for address in unknown:
        found.setdefault(await _peer_behind(address, resolve), str(address))
    return _one_of(found), tuple(addresses)


def read_known_peer(texts: Sequence[str], names: Names) -> tuple[PeerId, tuple[Multiaddr, ...]]:
    """The same where nothing is looked up: a name of the DNS needs the peer ID behind it. Raises as that."""
    found, addresses, unknown = _parse(texts, names)
    for address in unknown:
        if not found:
            raise InvalidMultiaddr(
                f"{address} does not say which peer it is", hint=f"write {address}/p2p/<peer ID>"
            )
    return _one_of(found), tuple(addresses)


def _parse(
    texts: Sequence[str], names: Names
) -> tuple[dict[PeerId, str], dict[Multiaddr, None], list[Multiaddr]]:
    """Peers, each with the text that means it; addresses; those of them whose peer only the DNS knows."""
    if not texts:
        raise UsageError("no peer given", hint="give a peer ID, or a multiaddr that ends in /p2p/<peer ID>")
    if len(texts) > MAX_PEER_ARGUMENTS:
        raise UsageError(f"{len(texts)} peer arguments, where {MAX_PEER_ARGUMENTS} is the limit")
    found: dict[PeerId, str] = {}
    addresses: dict[Multiaddr, None] = {}
    unknown: list[Multiaddr] = []
    for text in texts:
        if (named := named_peer(text, names)) is not None:
            found.setdefault(named.peer_id, text)
            addresses.update(dict.fromkeys(named.addrs))
            continue
        peer_id, address = parse_peer(text)
        if address is not None:
            addresses[address] = None
        if peer_id is not None:
            found.setdefault(peer_id, text)
        elif address is not None:
            unknown.append(address)
    return found, addresses, unknown


def _one_of(found: dict[PeerId, str]) -> PeerId:
    if len(found) > 1:
        one, two, *_ = found.items()
        raise UsageError(
            f"the arguments name two peers: {one[0]} ({one[1]}) and {two[0]} ({two[1]})",
            hint="give addresses of one peer",
        )
    return next(iter(found))


def named_peer(text: str, names: Names) -> NamedPeer | None:
    """The peer of this name; None for what is no name. Raises InvalidPeerId for a name that nobody has."""
    named = names.find(text)
    if named is None and is_name(text):
        raise InvalidPeerId(
            f"{quoted(text)} is no peer ID, and no peer has that name",
            hint="p2pfwd peer ls shows the names, p2pfwd id on the other machine prints its peer ID",
        )
    return named


async def _peer_behind(address: Multiaddr, resolve: Resolve) -> PeerId:
    named = list(dict.fromkeys(entry.peer_id() for entry in await resolve(address)))
    peers = [peer_id for peer_id in named if peer_id is not None]
    if not peers:
        raise PeerNotFound(f"fail to resolve the multiaddr: {address} names no peer in DNS")
    if len(peers) > 1:
        raise InvalidMultiaddr(
            f"ambiguous multiaddr {address} could refer to {peers[0]} or {peers[1]}",
            hint=f"say which: {address}/p2p/{peers[0]}",
        )
    return peers[0]


def read_filter(text: str, names: Names) -> Multiaddr:
    """An address given to select listeners: a multiaddr, a shorthand, a peer ID in any text form, a name.

    Raises InvalidMultiaddr, InvalidPeerId.
    """
    if (named := names.find(text)) is not None:
        return Multiaddr.parse(f"/p2p/{named.peer_id}")
    if ":" not in text and is_meant_as_peer_id(text):
        return Multiaddr.parse(f"/p2p/{parse_peer(text)[0]}")
    address = parse_endpoint(text)
    check_peer_ids(address, text)
    return address
