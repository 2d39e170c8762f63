"""What the kernel's socket diagnosis (sock_diag(7)) says of local TCP sockets.

It is asked for the very sockets that are meant. That takes 25 us however many sockets there are; the list in
/proc takes milliseconds where there are thousands.

- Has the program at the other end of a local connection closed it, or only half-closed it? Half-closed a
  socket still belongs to a file; closed it belongs to none, or is not there.
- On which addresses does somebody listen at a port?
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
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_ALL_STATES: Final = 0xFFFF_FFFF
_LISTENING: Final = 1 << 10  # TCP_LISTEN
_CLOSED: Final = 7  # TCP_CLOSE
_CLOSE_WAIT: Final = 8  # its FIN has come
_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_ANY_COOKIE: Final = b"\xff" * 8

_MESSAGE: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_ERROR: Final = struct.Struct("=i")
_INODE_AT: Final = _MESSAGE.size + 4 + 48 + 16
"""In the answer, behind state, both ends, and timer, queues and owner."""

_LOCAL_AT: Final = _MESSAGE.size + 4 + 4
"""In the answer, behind the state and both ports: the local address, in 16 bytes."""

_MAX_ANSWERS: Final = 64
"""Datagrams of one answer that are read; a port has a handful of listening sockets."""

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


def has_gone(sock: socket.socket) -> bool:
    """Whether the program at the other end has closed the connection, or it failed; unread data may be there.

    False where that cannot be known.
    """
    if sock.family == socket.AF_UNIX:
        return bool(has_closed(sock))
    if _TCP_INFO is None:
        return False
    try:
        state = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0]
    except OSError:
        return False
    return state == _CLOSED or (state == _CLOSE_WAIT and has_closed(sock) is True)


def _inode_of(family: int, local: tuple[str, int], remote: tuple[str, int]) -> int:
    """Of the TCP socket with these ends: 0 if it belongs to no file any more, or is not there.

    Raises OSError where the kernel cannot be asked.
    """
    ends = struct.pack(">HH", local[1], remote[1]) + _packed(local[0]) + _packed(remote[0])
    with _asked(family, _ALL_STATES, ends, 0) as kernel:
        answer = kernel.recv(4096)
    code = _error(answer)
    if code == errno.ENOENT:
        return 0
    if code:
        raise OSError(code, os.strerror(code))
    return int(struct.unpack_from("=I", answer, _INODE_AT)[0])


def listening_at(family: int, port: int) -> list[bytes]:
    """The packed local addresses, of `family`, of the TCP sockets that listen at `port`.

    Raises OSError where the kernel cannot be asked.
    """
    size = 4 if family == socket.AF_INET else 16
    found: list[bytes] = []
    with _asked(family, _LISTENING, struct.pack(">HH", port, 0) + bytes(32), _NLM_F_DUMP) as kernel:
        for _ in range(_MAX_ANSWERS):
            answer = kernel.recv(1 << 16)
            while answer:
                length, kind, *_ = _MESSAGE.unpack_from(answer)
                if kind == _NLMSG_DONE:
                    return found
                if code := _error(answer):
                    raise OSError(code, os.strerror(code))
                found.append(answer[_LOCAL_AT : _LOCAL_AT + size])
                answer = answer[(length + 3) & ~3 :]
    return found


def _asked(family: int, states: int, ends: bytes, flags: int) -> socket.socket:
    """A socket at which the kernel's answer is, about TCP sockets with these ends in these states."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + ends + bytes(4) + _ANY_COOKIE
    size = _MESSAGE.size + len(body)
    head = _MESSAGE.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, 0, 0)
    netlink = getattr(socket, "AF_NETLINK", None)
    if netlink is None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    kernel = socket.socket(netlink, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    try:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(head + body)
    except OSError:
        kernel.close()
        raise
    return kernel


def _error(answer: bytes) -> int:
    """The errno in an answer; 0 where it is none."""
    if _MESSAGE.unpack_from(answer)[1] != _NLMSG_ERROR:
        return 0
    return -int(_ERROR.unpack_from(answer, _MESSAGE.size)[0])


def _packed(host: str) -> bytes:
    """In the 16 bytes that an address of either family has."""
    return ipaddress.ip_address(host.partition("%")[0]).packed.ljust(16, b"\0")
