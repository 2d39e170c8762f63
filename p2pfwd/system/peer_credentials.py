"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from typing import Protocol

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class HasSockOpt(Protocol):
    """A socket, or what an event loop shows of one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_uid(sock: HasSockOpt) -> int | None:
    """User id of the process at the other end; None where the system has no SO_PEERCRED."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    uid: int = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))[1]
    return uid
