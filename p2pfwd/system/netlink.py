"""What the Linux kernel tells of interfaces, addresses and ways to the world (rtnetlink).

All addresses are listed when it is asked; what changes is told as it happens.

Rules: only what may concern a connection is news: an address that comes or goes, an interface whose carrier
comes back, a default route (or a VPN's halves of one) that comes or goes. What was not read in time is news
too. The system may refuse the socket (a sandbox, another system); whoever wants to know polls then.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

log = logging.getLogger("p2pfwd.net")

_GROUPS: Final = 0x1 | 0x10 | 0x100 | 0x40 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_ROUTE, _IPV6_ROUTE."""

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_LOWER_UP: Final = 0x1_0000
_MAIN_TABLE: Final = 254
_WIDE: Final = 1
"""Prefix length up to which a route leads to the world: 0, or the halves that VPNs use."""

_SCOPE_LINK: Final = 253
"""From here on an address is the interface's or the machine's own: each container brings one."""

ADDRESSES: Final = "other addresses"
"""The news that an address came, went, or lives longer than was said: an IPv6 router makes it each minute."""

_HEADER: Final = struct.Struct("=LHHLL")
_ADDRESS: Final = struct.Struct("=BBBBI")
_LINK: Final = struct.Struct("=BxHiII")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_READ_BYTES: Final = 65536
_MAX_READS: Final = 64
"""Messages of one turn; a router that learns a million routes does not stop us."""

_MAX_ROUTES: Final = 64

_GETADDR: Final = 22
_REQUEST_DUMP: Final = 0x301
_ERROR, _DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_ATTRIBUTE: Final = struct.Struct("=HH")
_IP_BYTES: Final = {socket.AF_INET: 4, socket.AF_INET6: 16}
_TIMEOUT_S: Final = 1.0
"""The kernel answers in the very call; this is for one that does not."""


def list_addresses() -> list[tuple[int, str]]:
    """Every interface's index and IP address, without zone. Raises OSError where the system does not tell."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    found: list[tuple[int, str]] = []
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(_HEADER.pack(_HEADER.size + _ADDRESS.size, _GETADDR, _REQUEST_DUMP, 0, 0) + bytes(8))
        while read_addresses(kernel.recv(_READ_BYTES), found):
            continue
    return found


def read_addresses(data: bytes, found: list[tuple[int, str]]) -> bool:
    """Add those of one datagram of the answer; whether more will come. Raises OSError: the kernel refuses."""
    pos = 0
    while pos + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, pos)
        body = data[pos + _HEADER.size : pos + length]
        if length < _HEADER.size or kind == _DONE:
            return False
        if kind == _ERROR:
            code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
            raise OSError(code, os.strerror(code))
        if kind == _NEWADDR and len(body) >= _ADDRESS.size:
            family, _bits, _flags, _scope, index = _ADDRESS.unpack_from(body)
            attributes = _attributes(body[_ADDRESS.size :])
            packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)  # the latter: the other end
            if packed is not None and len(packed) == _IP_BYTES.get(family):
                found.append((index, str(ipaddress.ip_address(packed))))
        pos += (length + 3) & ~3
    return True


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


class NetworkNews:
    """What the messages mean; sans-IO."""

    def __init__(self) -> None:
        self._down: set[int] = set()
        self._routes: dict[bytes, None] = {}

    def read(self, data: bytes) -> list[str]:
        """The news in one datagram of messages, in words."""
        news: list[str] = []
        pos = 0
        while pos + _HEADER.size <= len(data):
            length, kind, _flags, _seq, _pid = _HEADER.unpack_from(data, pos)
            if length < _HEADER.size or pos + length > len(data):
                break
            found = self._message(kind, data[pos + _HEADER.size : pos + length])
            if found is not None:
                news.append(found)
            pos += (length + 3) & ~3
        return news

    def _message(self, kind: int, body: bytes) -> str | None:
        if kind in (_NEWADDR, _DELADDR) and len(body) >= _ADDRESS.size:
            _family, _bits, _flags, scope, _index = _ADDRESS.unpack_from(body)
            return ADDRESSES if scope < _SCOPE_LINK else None
        if kind in (_NEWLINK, _DELLINK) and len(body) >= _LINK.size:
            return self._link(kind, body)
        if kind in (_NEWROUTE, _DELROUTE) and len(body) >= _ROUTE.size:
            return self._route(kind, body)
        return None

    def _link(self, kind: int, body: bytes) -> str | None:
        _family, _type, index, flags, _change = _LINK.unpack_from(body)
        if kind == _DELLINK:
            self._down.discard(index)
        elif not flags & _LOWER_UP:
            self._down.add(index)
        elif index in self._down:
            self._down.discard(index)
            return "a line is up again"
        return None

    def _route(self, kind: int, body: bytes) -> str | None:
        _family, prefix_bits, _src, _tos, table, _protocol, _scope, _type, _flags = _ROUTE.unpack_from(body)
        if prefix_bits > _WIDE or table != _MAIN_TABLE:
            return None
        if kind == _DELROUTE:
            self._routes.clear()  # which of them it was is not worth knowing
            return "a default route went"
        if body in self._routes:
            return None
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[body] = None
        return "a default route came"


class Netlink:
    """The socket in the loop; `told(news)` for each piece of news."""

    def __init__(self, told: Callable[[str], None]) -> None:
        """Raises OSError where the system refuses it."""
        family = getattr(socket, "AF_NETLINK", None)
        if family is None:
            raise OSError("this system has no netlink")
        self._told = told
        self._news = NetworkNews()
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            self._sock.bind((0, _GROUPS))
            self._loop.add_reader(self._sock, self._readable)
        except BaseException:
            self._sock.close()
            raise

    def _readable(self) -> None:
        for _ in range(_MAX_READS):
            try:
                data = self._sock.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:  # ENOBUFS: more than was read
                self._told(f"news were lost: {exc.strerror or exc}")
                return
            for news in self._news.read(data):
                self._told(news)

    def close(self) -> None:
        """End. Idempotent."""
        with suppress(ValueError):
            self._loop.remove_reader(self._sock)
        self._sock.close()
