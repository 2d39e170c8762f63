"""Why an address cannot be dialed by this node, in words for its owner: what it is, or what it lacks. Pure.

Asked before a name in the address is looked up: a name server need not learn what leads nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from p2pfwd.core.multiaddrs import (
    AddressClass,
    Multiaddr,
    address_class,
    is_relayed,
    split_circuit,
    tcp_endpoint,
)

UNDIALABLE: Final = "undialable"
"""Code of such a reason in the attempts of a failed dial."""

_KINDS: Final = {
    "webtransport": "WebTransport",
    "webrtc-direct": "WebRTC",
    "webrtc": "WebRTC",
    "p2p-webrtc-direct": "WebRTC",
    "ws": "WebSocket",
    "wss": "WebSocket",
    "quic-v1": "QUIC",
    "quic": "QUIC",
    "http": "HTTP",
    "https": "HTTP",
    "http-path": "HTTP",
    "tls": "TLS outside libp2p",
    "onion": "a Tor onion service",
    "onion3": "a Tor onion service",
    "garlic32": "I2P",
    "garlic64": "I2P",
    "memory": "the memory of one process",
    "unix": "a Unix socket",
    "utp": "uTP",
    "udt": "UDT",
    "sctp": "SCTP",
    "dccp": "DCCP",
    "udp": "UDP",
}
"""What an address is about by a component of it; the first of these counts."""

HasInterface = Callable[[str], bool]
"""Whether this machine has the interface that a zone names."""


def why_undialable(addr: Multiaddr, has_interface: HasInterface) -> str | None:
    """One clause on why `addr` cannot be dialed; None if it can, maybe after a look-up of its name."""
    names = [name for name, _ in addr.components()]
    if "p2p-circuit" in names:
        return _why_no_circuit(addr, names, has_interface)
    for component, kind in _KINDS.items():
        if component in names:
            return f"it is for {kind}, and this node speaks TCP only"
    if "dnsaddr" in names:
        return None
    endpoint = tcp_endpoint(addr)
    if endpoint is None:
        return "it is no host and TCP port alone, as /ip4/192.0.2.1/tcp/4011"
    if endpoint.port == 0:
        return "0 is no port to dial"
    cls = address_class(addr)
    if cls is AddressClass.UNSPECIFIED:
        return f"{endpoint.host} stands for every address of a machine that listens, and is none to dial"
    zone = endpoint.host.partition("%")[2]
    if zone and not has_interface(zone):
        return f"this machine has no network interface {zone}"
    if endpoint.family == "ip6" and cls is AddressClass.LINK_LOCAL and not zone:
        return "a link-local address needs the interface it is behind, as /ip6zone/eth0/ip6/fe80::1/tcp/4011"
    return None


def why_no_relay(addr: Multiaddr) -> str | None:
    """The same of the address of a relay or hub, without its peer ID, on whichever machine it is dialed."""
    if is_relayed(addr):
        return "it leads over another relay, and a relay has to be reached directly"
    return why_undialable(addr, lambda _zone: True)


def _why_no_circuit(addr: Multiaddr, names: list[str], has_interface: HasInterface) -> str | None:
    if names.count("p2p-circuit") > 1:
        return "it leads through a relay behind a relay, and none relays that"
    if "p2p-circuit" not in names[-2:] or names[-1] not in ("p2p-circuit", "p2p"):
        return "what follows /p2p-circuit can only be the peer's ID"
    relay, relay_addr = split_circuit(addr)
    if relay is None:
        return "it does not say which relay: /ip4/192.0.2.1/tcp/4011/p2p/<relay>/p2p-circuit"
    why = None if relay_addr is None else why_undialable(relay_addr, has_interface)
    return None if why is None else f"its relay cannot be dialed: {why}"
