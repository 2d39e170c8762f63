"""What people type or paste where an address or a peer is asked, into values; or what they should write.

Rule: what can be meant in one way only is understood (`8080`, `http://127.0.0.1:8080/`, `unix:/run/app.sock`,
`/run/app.sock`, socat's `tcp:127.0.0.1:80`); for the rest the hint has the words to write. Blanks around it
do not count.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from typing import Final

from p2pfwd.core import multiaddr_components as components
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.quoting import quoted
from p2pfwd.errors import InvalidMultiaddr, InvalidPeerId

_WRITE: Final = "write HOST:PORT, as 127.0.0.1:22, or a multiaddr, as /ip4/127.0.0.1/tcp/22"
_WRITE_PEER: Final = "end it with the other side's peer ID, as /ip4/192.0.2.1/tcp/4002/p2p/12D3KooW…"
_PRINTED: Final = "`p2pfwd id` on the other machine prints its ID"
_ID_BEGINNINGS: Final = ("12D3KooW", "16Uiu2HA", "Qm")
_TWO: Final = "these are two: give each as an argument of its own"

_PORTS: Final = {
    "http": 80,
    "https": 443,
    "ws": 80,
    "wss": 443,
    "ssh": 22,
    "sftp": 22,
    "git": 9418,
    "postgres": 5432,
    "postgresql": 5432,
    "mysql": 3306,
    "redis": 6379,
    "mongodb": 27017,
    "vnc": 5900,
    "rdp": 3389,
}
"""Ports that a URL need not name. Any other scheme is dropped, too, when there is a port."""

_NOT_TCP: Final = ("udp", "quic", "dns", "coap", "http+unix", "npipe", "file")

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_SSH_TARGET: Final = r"((?:\[[^\]]+\]|[^:\[\]/]+):\d+|/.+)"
_SSH_FORWARD: Final = re.compile(rf"(?:(?:\[[^\]]*\]|[^:\[\]/]*):)?(\d+):{_SSH_TARGET}")
_SSH_SOCKET: Final = re.compile(rf"(/[^:]+):{_SSH_TARGET}")
_PORT_PAIR: Final = re.compile(r"(\d+):(\d+)")
_SOCAT_TCP: Final = re.compile(r"tcp[46]?(?:-connect)?:(.+:\d+)", re.IGNORECASE)
_SOCAT_LISTEN: Final = re.compile(r"tcp[46]?-listen:(\d+)(?:,.*)?", re.IGNORECASE)
_SOCAT_UDP: Final = re.compile(r"udp[46]?(?:-[a-z]+)?:.*:\d+", re.IGNORECASE)
_UNIX: Final = re.compile(r"unix(?:-connect|-listen)?:(?://)?(.*)", re.IGNORECASE | re.DOTALL)
_SOCKET_NAME: Final = re.compile(r"/(?:[^/]+\.(?:sock|socket)|\.s\.[^/]+)$")


# --- addresses ------------------------------------------------------------------------------------


def parse_endpoint(text: str) -> Multiaddr:
    """A multiaddr, or one of the short forms `HOST:PORT`, `[IPv6]:PORT`, `:PORT`, `PORT`, a URL without a
    path, `unix:PATH`, `tcp:HOST:PORT`, or the path of a socket.

    InvalidMultiaddr otherwise. Without a host, and for `localhost`, the host is 127.0.0.1; another name
    becomes `/dns/name`.
    Whether the address fits its purpose (TCP, Unix socket, port 0) is for the caller to judge.
    """
    return parse_target(text)[0]


def parse_target(text: str) -> tuple[Multiaddr, bool]:
    """As `parse_endpoint`, and whether any loopback was meant: then ::1 is as good as 127.0.0.1."""
    text = text.strip()
    if text.startswith("/"):
        return _visible(text, _multiaddr(text)), False
    if (found := _UNIX.fullmatch(text)) is not None:
        return _visible(text, _unix(text, found[1])), False
    if (url := _URL.fullmatch(text)) is not None:
        return _host_port(_from_url(text, *url.groups()), text)
    if (found := _SOCAT_TCP.fullmatch(text)) is not None:
        text = found[1]
    if (found := _SOCAT_LISTEN.fullmatch(text)) is not None:
        every = f"0.0.0.0:{found[1]} for every address of this machine"
        raise _invalid(text, "it is a word of socat", f"write {found[1]} for 127.0.0.1, or {every}")
    if _SOCAT_UDP.fullmatch(text) is not None:
        raise _invalid(text, "udp is not TCP, which is all that is carried", _WRITE)
    if (found := _SSH_FORWARD.fullmatch(text)) is not None:
        raise _ssh_habit(text, found[1], found[2])
    if (found := _PORT_PAIR.fullmatch(text)) is not None:
        raise _ssh_habit(text, found[1], found[2])
    if _is_peer(text):
        raise _invalid(text, "it is a peer, and an address of this machine or network is asked", _WRITE)
    head, slash, path = text.partition("/")
    if slash and path and ":" in head:
        raise _invalid(text, "a path cannot be part of it", f"leave it out: {head}")
    return _host_port(head if slash and not path else text, text)


def _visible(text: str, addr: Multiaddr) -> Multiaddr:
    """Nobody can see, or type again, a path that ends in a space: one is left by a slash behind it."""
    if str(addr) != str(addr).strip():
        raise _invalid(text, "its path ends in a space", "leave out the space, and the slash behind it")
    return addr


def _multiaddr(text: str) -> Multiaddr:
    try:
        return Multiaddr.parse(text)
    except InvalidMultiaddr as exc:
        first = text.split("/")[1]
        if first == "x":
            hint = "that is a protocol name; it comes first: PROTOCOL, then the address"
        elif " /" in text:
            hint = _TWO
        elif first in components.BY_NAME or not first:
            raise
        elif (found := _SSH_SOCKET.fullmatch(text)) is not None:
            raise _ssh_habit(text, found[1], found[2]) from exc
        elif _SOCKET_NAME.search(text):
            return Multiaddr.parse(f"/unix{text}")
        else:
            hint = f"for a Unix socket write /unix{text}; {_WRITE}"
        raise InvalidMultiaddr(exc.message, hint=hint) from exc


def _unix(text: str, path: str) -> Multiaddr:
    if not path.startswith("/"):
        raise _invalid(text, "a socket's path begins with a slash", f"write /unix/run/app.sock for {text}")
    return Multiaddr.parse(f"/unix{path}")


def _from_url(text: str, scheme: str, authority: str, rest: str) -> str:
    """`HOST:PORT` of a URL that says nothing else."""
    scheme = scheme.lower()
    where = authority.rpartition("@")[2]
    bare = where if re.search(r":\d+$", where) else f"{where}:{_PORTS[scheme]}" if scheme in _PORTS else None
    if scheme in _NOT_TCP:
        raise _invalid(text, f"{scheme} is not TCP, which is all that is carried", _WRITE)
    if bare is None:
        raise _invalid(text, f"it has no port, and {scheme}:// does not tell one", _WRITE)
    if not where or where.startswith(":"):
        raise _invalid(text, "it has no host", _WRITE)
    if "@" in authority or rest not in ("", "/"):
        what = "a user" if "@" in authority else "a path"
        raise _invalid(text, f"{what} cannot be part of it", f"leave it out: {bare}")
    return bare


def _ssh_habit(text: str, listen: str, target: str) -> InvalidMultiaddr:
    """`listen` and `target`: a port or HOST:PORT, or the path of a socket."""
    listen, target = (shlex.quote(f"/unix{it}") if it.startswith("/") else it for it in (listen, target))
    return _invalid(
        text,
        "it is two addresses, as ssh -L takes them, and here each is told to its own machine",
        f"where the service is: p2pfwd listen /x/NAME {target}; "
        f"on the other machine: p2pfwd forward /x/NAME {listen} PEER",
    )


def _host_port(text: str, typed: str) -> tuple[Multiaddr, bool]:
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not (colon or (port.isascii() and port.isdecimal())):
        missing = ", or be HOST:PORT (the port is missing)" if text else ""
        raise _invalid(typed, f"must begin with /{missing}", _WRITE)
    if not _is_port(port):
        raise _invalid(typed, "a port is a number from 0 to 65535", _WRITE)
    try:
        addr = Multiaddr(components.parse_text(f"{_host_component(host)}/tcp/{int(port)}"))
    except ValueError as exc:
        raise _invalid(typed, str(exc), _WRITE) from exc
    return addr, _is_any_loopback(host)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535


def _is_any_loopback(host: str) -> bool:
    return host.lower() in ("", "localhost")


def _host_component(host: str) -> str:
    """`/ip4/…`, `/ip6/…` or `/dns/…` for the host of a short form; ValueError if it is none."""
    if _is_any_loopback(host):
        return "/ip4/127.0.0.1"
    if host == "*":
        raise ValueError("for every address of this machine write 0.0.0.0 or [::]")
    if host.startswith("[") and host.endswith("]"):
        address, _, zone = host[1:-1].partition("%")
        return (f"/ip6zone/{zone.removeprefix('25')}" if zone else "") + f"/ip6/{address}"
    if ":" in host:
        raise ValueError("an IPv6 address needs brackets, as [::1]:22")
    if host.rpartition(".")[2].isdecimal():
        return f"/ip4/{host}"
    if not _is_host_name(host):
        raise ValueError(f"{quoted(host)} is no host name")
    return f"/dns/{host}"


def _is_host_name(text: str) -> bool:
    labels = text.removesuffix(".").split(".")
    return len(text) <= 253 and all(
        0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum() for label in labels
    )


def _invalid(text: str, reason: str, hint: str) -> InvalidMultiaddr:
    return InvalidMultiaddr(f"failed to parse multiaddr {quoted(text)}: {reason}", hint=hint)


# --- name servers ---------------------------------------------------------------------------------


def parse_name_server(text: str) -> tuple[str, int]:
    """IP address and port of `IP`, `IP:PORT` or `[IPv6]:PORT`, else port 53. ValueError: what is wrong."""
    found = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?|([^:]*):(\d+)", text)
    host, port = (found[1] or found[3] or "", found[2] or found[4] or "53") if found else (text, "53")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{quoted(text)} is no IP address, and none with a port") from None
    if not _is_port(port) or int(port) == 0:
        raise ValueError(f"{quoted(text)} has no port from 1 to 65535")
    return host, int(port)


# --- peers ----------------------------------------------------------------------------------------


def parse_peer(text: str) -> tuple[PeerId | None, Multiaddr | None]:
    """(peer ID, address to reach it at) of a PEER argument.

    A bare ID, `/p2p/ID` and `/ipfs/ID` give (ID, None); a multiaddr ending in `/p2p/ID` gives the ID and
    what stands before it; `/dnsaddr/host`, whose records name the peer, gives (None, address).
    Errors: InvalidPeerId for text that begins with no slash, InvalidMultiaddr for the rest.
    """
    text = text.strip()
    if not text.startswith("/"):
        return _bare_peer(text), None
    try:
        addr = Multiaddr.parse(text)
    except InvalidMultiaddr as exc:
        if " /" in text:
            raise InvalidMultiaddr(exc.message, hint=_TWO) from exc
        if text.startswith("/x/"):
            hint = "that is a protocol name, and a peer is asked: its ID, or an address that ends in /p2p/ID"
            raise InvalidMultiaddr(exc.message, hint=hint) from exc
        raise
    check_peer_ids(addr, text)
    peer_id = addr.peer_id()
    if peer_id is not None:
        return peer_id, addr.without_peer_id() or None
    items = addr.components()
    if len(items) == 1 and items[0][0] == "dnsaddr":
        return None, addr
    if items[-1][0] == "p2p-circuit":
        reason = "it names the relay and not the peer behind it"
    else:
        reason = "it has no peer ID at its end"
    raise InvalidMultiaddr(f"multiaddr {quoted(text)} names no peer: {reason}", hint=_WRITE_PEER)


def _bare_peer(text: str) -> PeerId:
    try:
        peer_id = PeerId.parse(text)
    except InvalidPeerId as exc:
        written = _as_peer_address(text)
        if written is None:
            raise
        hint = f"that is an address; write it with the peer ID at its end, as {written}/p2p/12D3KooW…"
        raise InvalidPeerId(exc.message, hint=hint) from exc
    if not peer_id.is_possible():
        raise InvalidPeerId(
            f"{quoted(text)} is no peer ID: {_mistyped(peer_id)}",
            hint=_PRINTED,
        )
    return peer_id


def check_peer_ids(addr: Multiaddr, text: str) -> None:
    """Raise InvalidMultiaddr where no key can have an ID in it, a relay's before /p2p-circuit too."""
    for peer_id in addr.peer_ids():
        if not peer_id.is_possible():
            raise _invalid(text, _mistyped(peer_id), _PRINTED)


def is_meant_as_peer_id(text: str) -> bool:
    """Whether a text without a slash is an ID, or begins as one and is mistyped."""
    return text.startswith(_ID_BEGINNINGS) or _is_peer(text)


def _mistyped(peer_id: PeerId) -> str:
    return f"no key can have the ID {peer_id.short()}, so it is mistyped"


def _as_peer_address(text: str) -> str | None:
    """The multiaddr of a text that is an address rather than a peer."""
    address = text.partition("/p2p/")[0]
    if not re.search(r"[:.\d]", address) or " " in text:
        return None
    try:
        return str(parse_endpoint(address))
    except InvalidMultiaddr:
        return None


def _is_peer(text: str) -> bool:
    try:
        PeerId.parse(text)
    except InvalidPeerId:
        return False
    return True
