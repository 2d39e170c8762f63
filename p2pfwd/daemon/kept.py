"""Tunnels that are there tomorrow, saved or declared, as values, and what is shown of one. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.errors import P2PForwardError
from p2pfwd.forwarding.forward import LocalListener
from p2pfwd.forwarding.health import state_of
from p2pfwd.forwarding.registry import Listener
from p2pfwd.forwarding.values import UNKNOWN, ListenerInfo
from p2pfwd.state.tunnel_file import MAX_SAVED_ADDRESSES, SavedTunnel

NOT_MADE: Final = 0
"""The id of a tunnel that does not live."""


@dataclass(frozen=True, slots=True)
class DeclaredTunnel:
    """One of config.toml."""

    tunnel: SavedTunnel
    where: str
    """The file and the line, for people."""


def three(tunnel: SavedTunnel, own: Multiaddr) -> tuple[str, Multiaddr, Multiaddr]:
    """Protocol, listen address and target address; `own` is /p2p/ and the own peer ID."""
    if tunnel.peer is None:
        return tunnel.protocol, own, tunnel.address
    return tunnel.protocol, tunnel.address, Multiaddr.parse(f"/p2p/{tunnel.peer}")


def info_of(
    tunnel: SavedTunnel, own: Multiaddr, error: P2PForwardError | None = None, *, is_declared: bool = False
) -> ListenerInfo:
    """What is shown of one that does not live; `error`: why it could not be made."""
    protocol, listen_address, target_address = three(tunnel, own)
    return ListenerInfo(
        id=NOT_MADE,
        direction=tunnel.direction,
        protocol=protocol,
        listen_address=listen_address,
        target_address=target_address,
        state=UNKNOWN if error is None else state_of(error),
        reason=None if error is None else error.message,
        hint=None if error is None else error.hint,
        state_since=tunnel.created,
        streams=0,
        bytes_in=0,
        bytes_out=0,
        foreground=False,
        saved=not is_declared,
        created=tunnel.created,
        lifetime="declared" if is_declared else "saved",
        ends_at=tunnel.terms.ends_at or None,
        terms=tunnel.terms,
    )


def as_made(wanted: SavedTunnel, listener: Listener) -> SavedTunnel:
    """With the port that a forward got for port 0."""
    address = wanted.address if wanted.peer is None else listener.listen_address
    return replace(wanted, address=address, created=listener.created)


def as_it_stands(listener: Listener) -> SavedTunnel:
    """What would make the same again."""
    if isinstance(listener, LocalListener):
        address, peer, addrs = listener.listen_address, listener.peer_id, listener.addrs
    else:
        address, peer, addrs = listener.target_address, None, ()
    return SavedTunnel(
        listener.direction, listener.protocol, address, listener.terms, peer, addrs, listener.created
    )


def knowing(tunnel: SavedTunnel, addrs: tuple[Multiaddr, ...]) -> SavedTunnel:
    """With these addresses of its peer, before those it has; the last of too many are forgotten."""
    known = dict.fromkeys((*addrs, *tunnel.peer_addrs))
    return replace(tunnel, peer_addrs=tuple(known)[:MAX_SAVED_ADDRESSES])


def who_wins(it: DeclaredTunnel, saved: SavedTunnel) -> str:
    """That a declared tunnel is now in the place of a saved one, in words."""
    return (
        f"{it.where} declares {saved.direction} {saved.key[1]}, and so it is: config.toml goes before what "
        f"commands saved. The saved one, {saved.protocol} with {saved.address}, comes back when it is "
        "declared no more"
    )
