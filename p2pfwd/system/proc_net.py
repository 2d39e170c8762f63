"""Is somebody listening on a loopback or unix address? Asked without connecting.

A connection just to see is not harmless: a one-shot server (`nc -l`) takes it for its client and ends,
a database counts it as an error. Linux lists its listening sockets (proc(5), /proc/net/tcp and
/proc/net/unix); where the list shows none, or there is no list, only a connection can tell.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint, unix_path

_LISTEN: Final = "0A"  # TCP_LISTEN
_ACCEPTING: Final = 0x10000  # __SO_ACCEPTCON
MAX_BYTES: Final = 4 << 20
"""Of a list: about 25,000 connections. A longer one is not worth the time."""


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
