"""Networks from which a listening socket takes no connection for now: by a socket filter of Linux.

Each segment that comes to what listens meets its filter first. This one drops the first segment of a
connection (a SYN) from some networks. The sender's system repeats it after a second, so a flood waits where
it is, and nothing has to be accepted and closed. Connections that are there lose nothing, for no segment of
theirs is a SYN. But they inherit the filter, which may name their own network by then; and a peer that comes
back from a crash with the same ports is answered by its old connection: see `take_all`.

Source: linux/filter.h, Documentation/networking/filter.rst, socket(7).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from array import array
from collections.abc import Iterable
from typing import Final

IS_HERE: Final = sys.platform.startswith("linux")

MOST: Final = 16
"""Networks in one filter, the widest: to set one takes a tenth of a millisecond then."""

_ATTACH: Final = 26
_DETACH: Final = 27
"""SO_ATTACH_FILTER, SO_DETACH_FILTER."""

_LOAD_BYTE: Final = 0x30
_LOAD_WORD: Final = 0x20
_AND: Final = 0x54
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06

_ALL: Final = 0xFFFFFFFF
_IN_NETWORK_HEADER: Final = 0xFFF00000
_SOURCE: Final[dict[int, int]] = {socket.AF_INET: 12, socket.AF_INET6: 8}
"""Where the source address begins in that header."""

_FLAGS: Final = 13
"""Where they are in the TCP header, at which a filter's offsets begin."""

_SYN_ACK: Final = 0x12
_SYN: Final = 0x02


def program(family: int, networks: Iterable[str]) -> bytes:
    """Machine code (struct sock_filter, 8 bytes an instruction) that drops SYNs from these networks.

    `networks` as `192.0.2.0/24` or `2001:db8::/48`. Those of another family are left out, and beyond `MOST`
    the narrowest.
    """
    fit = [network.split("/") for network in networks if (":" in network) is (family == socket.AF_INET6)]
    fit.sort(key=lambda host_bits: int(host_bits[1]))
    code = [
        _op(_LOAD_BYTE, _FLAGS),
        _op(_AND, _SYN_ACK),
        _op(_JUMP_IF_EQUAL, _SYN, unequal=0, equal=1),
        _op(_RETURN, _ALL),
    ]
    for host, bits in fit[:MOST]:
        code += _drops(family, socket.inet_pton(family, host), int(bits))
    return b"".join([*code, _op(_RETURN, _ALL)])


def _drops(family: int, address: bytes, bits: int) -> list[bytes]:
    """Return 0, which is no byte of the segment, where its source is in the network; else go on behind."""
    code = [_op(_RETURN, 0)]
    for word in reversed(range(-(-bits // 32))):  # each is told how far it is to the end
        (value,) = struct.unpack_from("!I", address, 4 * word)
        mask = _ALL << max(0, 32 * (word + 1) - bits) & _ALL
        code = [
            _op(_LOAD_WORD, _IN_NETWORK_HEADER + _SOURCE[family] + 4 * word),
            _op(_AND, mask),
            _op(_JUMP_IF_EQUAL, value & mask, unequal=len(code), equal=0),
            *code,
        ]
    return code


def _op(code: int, value: int, *, equal: int = 0, unequal: int = 0) -> bytes:
    return struct.pack("=HBBI", code, equal, unequal, value)


def keep_out(sock: socket.socket, networks: Iterable[str]) -> None:
    """Take no connection from these networks, until this is called again; from none of them: take all.

    Raises OSError where the system refuses; what was said before holds then.
    """
    wanted = list(networks)
    if not wanted:
        take_all(sock)
        return
    code = array("B", program(sock.family, wanted))
    address, size = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HP", size // 8, address))


def take_all(sock: socket.socket) -> None:
    """Take connections from everywhere; of one that was accepted, have no filter. Idempotent."""
    with contextlib.suppress(OSError):  # there is no filter, or no such socket any more
        sock.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
