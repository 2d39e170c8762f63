"""The router that leads from here to the world: the gateway of the IPv4 default route.

Read from /proc/net/route (proc(5)), so on Linux only. The halves of a default route, as VPNs set them, win
over a whole one; a route into a line without a gateway, as a VPN's, means that no router here leads out.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from p2pfwd.system.proc_net import MAX_BYTES, PROC

_UP: Final = 0x1  # RTF_UP
_GATEWAY: Final = 0x2  # RTF_GATEWAY
_WIDE_MASKS: Final = ("00000000", "00000080", "80000000")
"""/0, and /1 in either byte order."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A router, and where it sees this machine: IPv4 addresses."""

    host: str
    own_host: str


def default_gateway(proc: Path = PROC) -> Gateway | None:
    """None: there is no way to the world, it has no router, or the system does not tell."""
    try:
        with (proc / "route").open(encoding="ascii", errors="replace") as file:
            lines = file.read(MAX_BYTES).splitlines()[1:]
    except OSError:
        return None
    routes: list[tuple[bool, int, int, int]] = []
    for line in lines:
        fields = line.split()  # Iface Destination Gateway Flags RefCnt Use Metric Mask ...
        if len(fields) < 8 or fields[7] not in _WIDE_MASKS:
            continue
        with suppress(ValueError):
            flags, metric, gateway = int(fields[3], 16), int(fields[6]), int(fields[2], 16)
            if flags & _UP:
                routes.append((fields[7] == _WIDE_MASKS[0], metric, flags, gateway))
    if not routes:
        return None
    _, _, flags, gateway = min(routes)
    if not flags & _GATEWAY:
        return None
    host = socket.inet_ntoa(struct.pack("=I", gateway))
    own_host = _source_towards(host)
    return None if own_host is None else Gateway(host, own_host)


def _source_towards(host: str) -> str | None:
    """From which of our addresses a datagram to `host` would leave. Nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 9))
        return str(sock.getsockname()[0])
    return None
