"""Is somebody listening on a loopback or unix address? Asked without connecting.

A connection just to see is not harmless: a one-shot server (`nc -l`) takes it for its client and ends,
a database counts it as an error. The kernel is asked for the sockets that listen at the port
(`sock_diag`); where that is not permitted, its lists are read (proc(5), /proc/net/tcp), and for unix
sockets always (/proc/net/unix). Where nothing is seen, only a connection can tell.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr, tcp_endpoint, unix_path
from p2pfwd.system.sock_diag import listening_at

_LISTEN: Final = "0A"  # TCP_LISTEN
_ACCEPTING: Final = 0x10000  # __SO_ACCEPTCON
MAX_BYTES: Final = 256 << 10
"""Of a list: some 1,600 connections or 3,000 unix sockets, 2 ms. A longer one is not worth the time."""

PROC: Final = Path("/proc/net")


def somebody_listens(target: Multiaddr, proc: Path = PROC) -> bool:
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
    if proc is PROC:
        try:
            return _diagnosed(address, endpoint.port)
        except OSError:  # a system without it, or a sandbox: the list may be there
            pass
    if address.version == 4:
        accepted = {_hex(address), _hex(ipaddress.IPv4Address(0))}
        accepted6 = {_hex(other) for other in _dual(address)}
        return _tcp(proc / "tcp", accepted, endpoint.port) or _tcp(proc / "tcp6", accepted6, endpoint.port)
    return _tcp(proc / "tcp6", {_hex(address), _hex(ipaddress.IPv6Address(0))}, endpoint.port)


def _diagnosed(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bool:
    six = listening_at(socket.AF_INET6, port)
    if isinstance(address, ipaddress.IPv6Address):
        return address.packed in six or bytes(16) in six
    four = listening_at(socket.AF_INET, port)
    return address.packed in four or bytes(4) in four or any(other.packed in six for other in _dual(address))


def _dual(address: ipaddress.IPv4Address) -> tuple[ipaddress.IPv6Address, ipaddress.IPv6Address]:
    """What an IPv6 socket that takes IPv4 is bound to where it listens at this address."""
    return ipaddress.IPv6Address(0), ipaddress.IPv6Address(f"::ffff:{address}")


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
