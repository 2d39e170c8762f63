"""What the system's lists of sockets tell: is somebody listening, has a local client closed altogether?

Is somebody listening on a loopback or unix address? Asked without connecting.

A connection just to see is not harmless: a one-shot server (`nc -l`) takes it for its client and ends,
a database counts it as an error. Linux lists its listening sockets (proc(5), /proc/net/tcp and
/proc/net/unix); where the list shows none, or there is no list, only a connection can tell.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from itertools import product
from pathlib import Path
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint, unix_path

_LISTEN: Final = "0A"  # TCP_LISTEN
_NOBODY: Final = "0"
_ACCEPTING: Final = 0x10000  # __SO_ACCEPTCON
MAX_BYTES: Final = 4 << 20
"""Of a list: about 25,000 connections. A longer one is not worth the time."""


MAX_AGE_S: Final = 0.2
"""How old the list of connections may be: one reading takes milliseconds where there are thousands (28 ms of
a connection's opening, 200 of them a second), and serves all who ask meanwhile."""

_last_read: dict[Path, tuple[float, dict[tuple[str, str], str]]] = {}


def somebody_listens(target: Multiaddr, proc: Path = Path("/proc/net")) -> bool:
    """Whether a listening socket for `target` is seen; False means not known."""
    path = unix_path(target)
    if path is not None:
        return _unix(path, proc)
    endpoint = tcp_endpoint(target)
    if endpoint is None or endpoint.family not in ("ip4", "ip6"):
        return False
    address = ipaddress.ip_address(endpoint.host)
    if not address.is_loopback:  # a wildcard listener here says nothing about another machine
        return False
    if address.version == 4:
        accepted = {_hex(address), _hex(ipaddress.IPv4Address(0))}
        accepted6 = {_hex(ipaddress.IPv6Address(0)), _hex(ipaddress.IPv6Address(f"::ffff:{address}"))}
        return _tcp(proc / "tcp", accepted, endpoint.port) or _tcp(proc / "tcp6", accepted6, endpoint.port)
    return _tcp(proc / "tcp6", {_hex(address), _hex(ipaddress.IPv6Address(0))}, endpoint.port)


def has_closed(
    sock: socket.socket, proc: Path = Path("/proc/net"), max_age_s: float = MAX_AGE_S
) -> bool | None:
    """Whether the other end of a connection, whose FIN has come, has closed it or only half-closed it.

    Ask no sooner than `max_age_s` after the FIN: the list of connections may be as old. None where that
    cannot be known: the other end is on another machine.
    """
    if sock.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(sock, 0)  # POLLHUP is always told: both directions are shut
        return bool(poll.poll(0))
    try:
        own, other = sock.getsockname(), sock.getpeername()
    except OSError:  # no connection any more
        return True
    owner = _owner(_endpoints(other), _endpoints(own), _connections(proc, max_age_s))
    if owner is None:
        return True if ipaddress.ip_address(other[0]).is_loopback else None
    return owner == _NOBODY


def _endpoints(sockaddr: tuple[str, int]) -> set[str]:
    """The ways the kernel prints an address and port: a program may use IPv4 through an IPv6 socket."""
    address = ipaddress.ip_address(sockaddr[0].partition("%")[0])
    forms = {_hex(address)}
    if isinstance(address, ipaddress.IPv4Address):
        forms.add(_hex(ipaddress.IPv6Address(f"::ffff:{address}")))
    elif address.ipv4_mapped is not None:
        forms.add(_hex(address.ipv4_mapped))
    return {f"{form}:{sockaddr[1]:04X}" for form in forms}


def _owner(local: set[str], remote: set[str], connections: dict[tuple[str, str], str]) -> str | None:
    """Inode of the socket with this local and remote end, `_NOBODY` once closed, None if there is none."""
    return next((connections[ends] for ends in product(local, remote) if ends in connections), None)


def _connections(proc: Path, max_age_s: float) -> dict[tuple[str, str], str]:
    """(local end, remote end) -> inode, read anew when older than `max_age_s`."""
    now = time.monotonic()
    read_at, found = _last_read.get(proc, (-1e9, {}))
    if now - read_at < max_age_s:
        return found
    found = {}
    for name in ("tcp", "tcp6"):
        for line in _lines(proc / name):
            fields = line.split(None, 10)
            if len(fields) > 9:
                found[fields[1], fields[2]] = fields[9]
    _last_read.clear()
    _last_read[proc] = now, found
    return found


def _hex(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As the kernel prints it: each 32-bit word in the machine's byte order."""
    packed = address.packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words)


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            return file.read(MAX_BYTES).splitlines()[1:]
    except OSError:  # no /proc here: not known
        return []


def _tcp(path: Path, addresses: set[str], port: int) -> bool:
    for line in _lines(path):
        fields = line.split(None, 4)
        if len(fields) > 3 and fields[3] == _LISTEN:
            host, _, text = fields[1].partition(":")
            if host in addresses and int(text, 16) == port:
                return True
    return False


def _unix(path: str, proc: Path) -> bool:
    for line in _lines(proc / "unix"):
        fields = line.split(None, 7)  # Num RefCount Protocol Flags Type St Inode Path
        if len(fields) == 8 and fields[7] == path and int(fields[3], 16) & _ACCEPTING:
            return True
    return False
