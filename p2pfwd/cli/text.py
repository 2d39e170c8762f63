"""Values as people read them: sizes, ages, addresses, peer IDs. Pure functions, no I/O.

Only the tables and sentences for people use these; `--json` and the plain lines carry full values.
Addresses are shortened textually: parsing them would cost the start of every command more than all
of its other work (the multiaddr library imports for longer than `ls` runs).
"""

from __future__ import annotations

import re

_SHORT_HEAD, _SHORT_TAIL = 4, 6
_ENDPOINT = re.compile(r"^(?:/ip6zone/([^/]+))?/(?:ip4|ip6|dns|dns4|dns6)/([^/]+)/tcp/(\d+)(/.*)?$")
_PEER_SUFFIX = re.compile(r"^(.*)/(?:p2p|ipfs)/([^/]+)$")
_PEER_ID = re.compile(r"(?:12D3KooW|16Uiu2HA|Qm)[1-9A-HJ-NP-Za-km-z]{38,}")
_LOOPBACK = re.compile(r"^/(?:ip4/127\.|ip6/::1/|dns[46]?/localhost/)")


def printable(text: str) -> str:
    """`text` with every control and format character escaped: peers choose some of what is printed here."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def short_peer(peer_id: str) -> str:
    """A peer ID for people: the first 4 and last 6 characters, as `PeerId.short` does."""
    if len(peer_id) <= _SHORT_HEAD + _SHORT_TAIL + 1:
        return peer_id
    return f"{peer_id[:_SHORT_HEAD]}…{peer_id[-_SHORT_TAIL:]}"


def shorten_peers(sentence: str) -> str:
    """A sentence with the peer IDs in it shortened."""
    return _PEER_ID.sub(lambda match: short_peer(match[0]), sentence)


def is_loopback(address: str) -> bool:
    """Whether a multiaddr leads nowhere but to this machine."""
    return _LOOPBACK.match(address) is not None


def host_port(address: str) -> tuple[str, int] | None:
    """Host (with `%zone` if it has one) and port of a multiaddr that begins with host+tcp, else None."""
    match = _ENDPOINT.match(address)
    return (_host(match), int(match[3])) if match else None


def _host(match: re.Match[str]) -> str:
    return f"{match[2]}%{match[1]}" if match[1] else match[2]


def unix_path(address: str) -> str | None:
    """The socket path of a `/unix/…` multiaddr, else None."""
    return address[len("/unix") :] if address.startswith("/unix/") else None


def endpoint(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def short_address(address: str) -> str:
    """A multiaddr for people: `127.0.0.1:22` for host+tcp, a shortened ID for a peer, else unchanged."""
    rest, peer = address, ""
    if match := _PEER_SUFFIX.match(address):
        rest, peer = match[1], short_peer(match[2])
        if not rest:
            return peer
    if (match := _ENDPOINT.match(rest)) and not match[4]:
        rest = endpoint(_host(match), int(match[3]))
    return f"{rest}/p2p/{peer}" if peer else rest


def size(count: float) -> str:
    """Bytes with a decimal unit and at most three digits: `0B`, `999B`, `1.2kB`, `340MB`."""
    if count < 1000:
        return f"{count:.0f}B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 9.95:
            return f"{value:.1f}{unit}"
        if value < 999.5:
            return f"{value:.0f}{unit}"
    return f"{value:.0f}TB"


def age(seconds: float) -> str:
    """A duration in its two largest units: `0s`, `59s`, `3m12s`, `2h05m`, `4d3h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{second:02}s"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minute:02}m"
    days, hour = divmod(hours, 24)
    return f"{days}d{hour}h"


def milliseconds(value: float | None) -> str:
    """A round-trip time: `0.42ms`, `3.1ms`, `24ms`, `-` when unknown."""
    if value is None:
        return "-"
    if value < 0.995:
        return f"{value:.2f}ms"
    return f"{value:.1f}ms" if value < 9.95 else f"{value:.0f}ms"


def counted(number: int, noun: str) -> str:
    """`1 stream`, `3 streams`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def joined(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
