"""Whether the program at the other end of a local connection has closed it, or only half-closed it.

The kernel's socket diagnosis (sock_diag(7)) is asked for that one socket by its two ends. That takes 25 us
however many sockets there are; the list in /proc takes milliseconds where there are thousands. Half-closed a
socket still belongs to a file; closed it belongs to none, or is not there.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import struct
from typing import Final

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_ALL_STATES: Final = 0xFFFF_FFFF
_ANY_COOKIE: Final = b"\xff" * 8

_MESSAGE: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ERROR: Final = struct.Struct("=i")
_INODE_AT: Final = _MESSAGE.size + 4 + 48 + 16
"""In the answer, behind state, both ends, and timer, queues and owner."""

_TIMEOUT_S: Final = 1.0
"""The kernel answers in the very call; this is for one that does not."""


def has_closed(sock: socket.socket) -> bool | None:
    """Of a connection whose FIN has come. None where that cannot be known: it is on another machine."""
    if sock.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(sock, 0)  # POLLHUP is always told: both directions are shut
        return bool(poll.poll(0))
    try:
        own, other = sock.getsockname(), sock.getpeername()
    except OSError:  # no connection any more
        return True
    if not ipaddress.ip_address(other[0].partition("%")[0]).is_loopback and other[0] != own[0]:
        return None
    try:
        inode = _inode_of(sock.family, other, own)
    except OSError:  # a system without it
        return None
    return not inode


def _inode_of(family: int, local: tuple[str, int], remote: tuple[str, int]) -> int:
    """Of the TCP socket with these ends: 0 if it belongs to no file any more, or is not there.

    Raises OSError where the kernel cannot be asked.
    """
    ends = struct.pack(">HH", local[1], remote[1]) + _packed(local[0]) + _packed(remote[0])
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + ends + bytes(4) + _ANY_COOKIE
    head = _MESSAGE.pack(_MESSAGE.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    netlink = getattr(socket, "AF_NETLINK", None)
    if netlink is None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    with socket.socket(netlink, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(head + body)
        answer = kernel.recv(4096)
    if _MESSAGE.unpack_from(answer)[1] == _NLMSG_ERROR:
        code = -_ERROR.unpack_from(answer, _MESSAGE.size)[0]
        if code == errno.ENOENT:
            return 0
        raise OSError(code, os.strerror(code))
    return int(struct.unpack_from("=I", answer, _INODE_AT)[0])


def _packed(host: str) -> bytes:
    """In the 16 bytes that an address of either family has."""
    return ipaddress.ip_address(host.partition("%")[0]).packed.ljust(16, b"\0")
