"""What the kernel's socket diagnosis (sock_diag(7)) says of local TCP sockets.

It is asked for the very sockets that are meant. That takes 10 us however many sockets there are; the list in
/proc takes milliseconds where there are thousands.

- Has the program at the other end of a local connection closed it, or only half-closed it? Half-closed a
  socket still belongs to a file; closed it belongs to none, or is not there.
- On which addresses does somebody listen at a port?
"""

from __future__ import annotations

import errno
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
_UNIX: Final = getattr(socket, "AF_UNIX", None)

_MESSAGE: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_PORTS: Final = struct.Struct(">HH")
_BEHIND_ENDS: Final = bytes(4) + b"\xff" * 8  # any interface, any cookie
_SIZE: Final = _MESSAGE.size + _REQUEST.size + _PORTS.size + 2 * 16 + len(_BEHIND_ENDS)
_ERROR: Final = struct.Struct("=i")
_INODE: Final = struct.Struct("=I")
_INODE_AT: Final = _MESSAGE.size + 4 + 48 + 16
"""In the answer, behind state, both ends, and timer, queues and owner."""

_LOCAL_AT: Final = _MESSAGE.size + 4 + 4
"""In the answer, behind the state and both ports: the local address, in 16 bytes."""

_LOOPBACK6: Final = bytes(15) + b"\x01"

_MAX_ANSWERS: Final = 64
"""Datagrams of one answer that are read; a port has a handful of listening sockets."""

_MAX_STALE: Final = 4
"""Answers to earlier questions that are read past: there should be none."""

_TIMEOUT_S: Final = 1.0
"""The kernel answers in the very call; this is for one that does not."""


class SockDiag:
    """Questions about single connections, over one socket that is opened at the first and kept.

    A kernel that refuses it is asked again the next time. End with `close`.
    """

    def __init__(self) -> None:
        self._kernel: socket.socket | None = None
        self._sequence = 0

    def has_closed(self, sock: socket.socket) -> bool | None:
        """Of a connection whose FIN has come. None where that cannot be known: it is on another machine."""
        family = int(sock.family)
        if family == _UNIX:
            poll = select.poll()
            poll.register(sock, 0)  # POLLHUP is always told: both directions are shut
            return bool(poll.poll(0))
        try:
            own, other = sock.getsockname(), sock.getpeername()
        except OSError:  # no connection any more
            return True
        here, there = _packed(family, own[0]), _packed(family, other[0])
        if here != there and not _is_loopback(there):
            return None
        ends = _PORTS.pack(other[1], own[1]) + there.ljust(16, b"\0") + here.ljust(16, b"\0")
        try:
            return not self._inode_of(family, ends)
        except OSError:  # a system without it
            return None

    def has_gone(self, sock: socket.socket) -> bool:
        """Whether the program at the other end has closed the connection, or it failed.

        Unread data may be there. False where that cannot be known.
        """
        if sock.family == _UNIX:
            return bool(self.has_closed(sock))
        if _TCP_INFO is None:
            return False
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0]
        except OSError:
            return False
        return state == _CLOSED or (state == _CLOSE_WAIT and self.has_closed(sock) is True)

    def _inode_of(self, family: int, ends: bytes) -> int:
        """Of the TCP socket with these ends: 0 if it belongs to no file any more, or is not there.

        Raises OSError where the kernel cannot be asked.
        """
        if self._kernel is not None:
            try:
                return self._ask(self._kernel, family, ends)
            except OSError:  # it may be this socket's fault
                self.close()
        self._kernel = _open()
        try:
            self._kernel.setblocking(False)
            return self._ask(self._kernel, family, ends)
        except OSError:
            self.close()
            raise

    def _ask(self, kernel: socket.socket, family: int, ends: bytes) -> int:
        self._sequence = sequence = self._sequence + 1 & 0xFFFF_FFFF
        kernel.send(_question(family, _ALL_STATES, ends, 0, sequence))
        for _ in range(1 + _MAX_STALE):
            answer = kernel.recv(4096)
            if _MESSAGE.unpack_from(answer)[3] == sequence:
                break
        else:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        code = _error(answer)
        if code == errno.ENOENT:
            return 0
        if code:
            raise OSError(code, os.strerror(code))
        return int(_INODE.unpack_from(answer, _INODE_AT)[0])

    def close(self) -> None:
        """Give the socket back. Idempotent; another question opens a new one."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


def listening_at(family: int, port: int) -> list[bytes]:
    """The packed local addresses, of `family`, of the TCP sockets that listen at `port`.

    Raises OSError where the kernel cannot be asked.
    """
    size = 4 if family == socket.AF_INET else 16
    found: list[bytes] = []
    with _open() as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(_question(family, _LISTENING, _PORTS.pack(port, 0) + bytes(32), _NLM_F_DUMP, 0))
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


def _open() -> socket.socket:
    netlink = getattr(socket, "AF_NETLINK", None)
    if netlink is None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return socket.socket(netlink, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)


def _question(family: int, states: int, ends: bytes, flags: int, sequence: int) -> bytes:
    """About TCP sockets with these ends in these states."""
    head = _MESSAGE.pack(_SIZE, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | flags, sequence, 0)
    return head + _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states) + ends + _BEHIND_ENDS


def _error(answer: bytes) -> int:
    """The errno in an answer; 0 where it is none."""
    if _MESSAGE.unpack_from(answer)[1] != _NLMSG_ERROR:
        return 0
    return -int(_ERROR.unpack_from(answer, _MESSAGE.size)[0])


def _packed(family: int, host: str) -> bytes:
    return socket.inet_pton(family, host.partition("%")[0])


def _is_loopback(packed: bytes) -> bool:
    return packed[0] == 127 if len(packed) == 4 else packed == _LOOPBACK6
