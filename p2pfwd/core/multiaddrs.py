"""Multiaddrs as immutable values, and what the rest of the program asks about them (multiaddr spec).

Text and bytes follow go-multiaddr. Equality and hash are those of the bytes. What people type beside
multiaddrs (`127.0.0.1:22`, `22`, a bare peer ID) is understood by `core.typed` only.
A stranger's multiaddr that cannot be decoded costs that one address, never the message it came in:
`from_bytes` raises InvalidMultiaddr and the caller drops it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, final

from p2pfwd.core import multiaddr_components as components
from p2pfwd.core.address_classes import AddressClass, class_of_ip4, class_of_ip6, class_of_name
from p2pfwd.core.multiaddr_components import Part
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import InvalidMultiaddr

__all__ = [
    "AddressClass",
    "Multiaddr",
    "TcpEndpoint",
    "address_class",
    "forget_remembered",
    "from_sockaddr",
    "is_relayed",
    "split_circuit",
    "tcp_endpoint",
    "unix_path",
]

_P2P = components.BY_NAME["p2p"]
_TCP = components.BY_NAME["tcp"]
_CIRCUIT = components.BY_NAME["p2p-circuit"]
_NAMES = ("dns", "dns4", "dns6", "dnsaddr")
_WRITE = "write an address like /ip4/127.0.0.1/tcp/22, /dns/example.com/tcp/22 or /unix/run/app.sock"

_SURELY_SHORT_BYTES: Final = components.MAX_BYTES - components.PEER_ROOM_BYTES
_SURELY_SHORT_CHARS: Final = components.MAX_TEXT_CHARS - components.PEER_ROOM_CHARS

REMEMBERED: Final = 4096
"""Addresses whose parts and class are remembered: a DHT server looks at the same few hundred all the time
(without this, half of its CPU time went into taking them apart)."""

_split = lru_cache(maxsize=REMEMBERED)(components.split)  # callers do not change the list


@final
class Multiaddr:
    """One multiaddr. Made by `parse` and `from_bytes`; empty (and false) only where a method cut all away."""

    __slots__ = ("_data", "_text")

    _data: bytes
    _text: str

    def __init__(self, parts: list[Part]) -> None:
        """From components; ValueError if a value is none of its protocol's, or all of it is too long."""
        self._text = components.to_text(parts)
        self._data = b"".join([component.encode(value) for component, value in parts])
        if len(self._text) > _SURELY_SHORT_CHARS or len(self._data) > _SURELY_SHORT_BYTES:
            components.check_length(parts, self._data, self._text)

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """The multiaddr of `text`; InvalidMultiaddr names the part that is wrong."""
        try:
            return cls(components.parse_text(text))
        except ValueError as exc:
            raise InvalidMultiaddr(f"failed to parse multiaddr {quoted(text)}: {exc}", hint=_WRITE) from exc

    @classmethod
    def from_bytes(cls, data: bytes) -> Multiaddr:
        """The multiaddr whose binary form is `data`; InvalidMultiaddr if there is none."""
        try:
            return cls(components.parse_bytes(bytes(data)))
        except ValueError as exc:
            shown = bytes(data[:48]).hex() + ("…" if len(data) > 48 else "")
            raise InvalidMultiaddr(f"failed to parse multiaddr bytes {shown}: {exc}") from exc

    def to_bytes(self) -> bytes:
        """The binary form."""
        return self._data

    def components(self) -> tuple[tuple[str, str | None], ...]:
        """(name, value as text) of each component; the value is None where the protocol has none."""
        return tuple(
            (component.name, component.to_text(value) if component.size else None)
            for component, value in self._parts()
        )

    def has(self, name: str) -> bool:
        """Whether a component of protocol `name` is in it (`ipfs` counts as `p2p`)."""
        wanted = components.BY_NAME.get(name)
        return any(component is wanted for component, _ in self._parts())

    def peer_id(self) -> PeerId | None:
        """The peer ID at the very end; None if the last component is something else."""
        parts = self._parts()
        return PeerId.from_bytes(parts[-1][1]) if parts and parts[-1][0] is _P2P else None

    def peer_ids(self) -> tuple[PeerId, ...]:
        """Every peer ID in it, those of relays too."""
        return tuple(PeerId.from_bytes(value) for component, value in self._parts() if component is _P2P)

    def without_peer_id(self) -> Multiaddr:
        """The address without its trailing `/p2p/ID`; itself if there is none."""
        parts = self._parts()
        return Multiaddr(parts[:-1]) if parts and parts[-1][0] is _P2P else self

    def with_peer_id(self, peer_id: PeerId) -> Multiaddr:
        """The address ending in `/p2p/<peer_id>`, which replaces a trailing one.

        InvalidMultiaddr after a /unix path.
        """
        return self.without_peer_id()._followed_by([(_P2P, peer_id.to_bytes())])

    def encapsulate(self, other: Multiaddr) -> Multiaddr:
        """This address followed by `other`; InvalidMultiaddr if it ends in a /unix path."""
        return self._followed_by(other._parts())

    def _followed_by(self, more: list[Part]) -> Multiaddr:
        try:
            return Multiaddr(self._parts() + more)
        except ValueError as exc:
            raise InvalidMultiaddr(f"multiaddr {quoted(self._text)}: {exc}") from exc

    def _parts(self) -> list[Part]:
        return _split(self._data)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Multiaddr({self._text!r})"

    def __bool__(self) -> bool:
        return bool(self._data)

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not Multiaddr:
            return NotImplemented
        return self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)


# --- questions ------------------------------------------------------------------------------------


def readable(encoded: Iterable[bytes], most: int, most_bytes: int | None = None) -> tuple[Multiaddr, ...]:
    """The distinct addresses among the first `most` of a stranger's list, odd ones left out.

    A component of a newer table costs that one address; so does a length above `most_bytes`.
    """
    found: dict[Multiaddr, None] = {}
    for data in islice(encoded, most):
        if most_bytes is not None and len(data) > most_bytes:
            continue
        try:
            found[Multiaddr.from_bytes(data)] = None
        except InvalidMultiaddr:
            continue
    return tuple(found)


class TcpEndpoint(NamedTuple):
    """Host and port of a plain TCP address; a link-local IPv6 host carries its zone (`fe80::1%eth0`)."""

    family: Literal["ip4", "ip6", "dns", "dns4", "dns6"]
    host: str
    port: int


def tcp_endpoint(addr: Multiaddr) -> TcpEndpoint | None:
    """Host and port if `addr` is exactly host and TCP port (a trailing `/p2p/ID` aside), else None."""
    items = list(addr.components())
    if items and items[-1][0] == "p2p":
        items.pop()
    zone = ""
    if len(items) == 3 and items[0][0] == "ip6zone" and items[1][0] == "ip6":
        zone = f"%{items.pop(0)[1]}"
    if len(items) != 2 or items[1][0] != "tcp":
        return None
    (family, host), (_, port) = items
    if family not in ("ip4", "ip6", "dns", "dns4", "dns6") or host is None or port is None:
        return None
    return TcpEndpoint(family, host + zone, int(port))  # type: ignore[arg-type]


def unix_path(addr: Multiaddr) -> str | None:
    """The absolute socket path if `addr` is `/unix/…` and nothing else, else None."""
    parts = addr._parts()
    return parts[0][1].decode("utf-8") if len(parts) == 1 and parts[0][0].is_path else None


def is_relayed(addr: Multiaddr) -> bool:
    """Whether the way to the peer leads through a relay (`/p2p-circuit`)."""
    return addr.has("p2p-circuit")


def split_circuit(addr: Multiaddr) -> tuple[PeerId | None, Multiaddr | None]:
    """(relay, its address without its ID) of a relayed address; None for what it does not say.

    `/p2p/<relay>/p2p-circuit` has no address: whoever dials it knows one.
    """
    before: list[Part] = []
    for part in addr._parts():
        if part[0] is _CIRCUIT:
            break
        before.append(part)
    relay = Multiaddr(before)
    return relay.peer_id(), relay.without_peer_id() or None


@lru_cache(maxsize=REMEMBERED)
def address_class(addr: Multiaddr) -> AddressClass:
    """Where the first hop can be reached from; UNROUTABLE if the address begins with no host.

    For a relayed address that hop is the relay. `localhost` is LOOPBACK; `.local` and the other
    domains outside the public DNS are PRIVATE; every other name is NAME.
    """
    for component, value in addr._parts():
        if component.name == "ip4":
            return class_of_ip4(value)
        if component.name == "ip6":
            return class_of_ip6(value)
        if component.name in _NAMES:
            return class_of_name(value.decode("utf-8"))
        if component.name != "ip6zone":
            break
    return AddressClass.UNROUTABLE


def forget_remembered() -> None:
    """Take every address apart anew: what is remembered of a flood's keeps memory from being freed."""
    _split.cache_clear()
    address_class.cache_clear()


def from_sockaddr(sockaddr: tuple[Any, ...]) -> Multiaddr:
    """The `/ip4|ip6/…/tcp/…` of a socket's (host, port[, flow, scope]) with a numeric host.

    An IPv4 address mapped into IPv6 becomes `/ip4`; a zone, by name or scope number, becomes `/ip6zone`.
    """
    host, port = str(sockaddr[0]), int(sockaddr[1])
    host, _, zone = host.partition("%")
    try:
        address = ipaddress.ip_address(host)
        tcp = _TCP.to_bytes(str(port))
    except ValueError as exc:
        raise InvalidMultiaddr(f"no multiaddr for the socket address {quoted(repr(sockaddr))}") from exc
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    parts: list[Part] = []
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local:
        if not zone and len(sockaddr) > 3 and sockaddr[3]:
            zone = str(sockaddr[3])
        if zone:
            parts.append((components.BY_NAME["ip6zone"], zone.encode("utf-8")))
    parts.append((components.BY_NAME[f"ip{address.version}"], address.packed))
    return Multiaddr([*parts, (_TCP, tcp)])
