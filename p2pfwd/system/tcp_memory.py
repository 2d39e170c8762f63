"""What all TCP sockets of this machine hold in the kernel, and from where on everybody suffers.

The kernel has one account for all programs (tcp_mem in tcp(7)): above its middle mark every socket's buffers
are cut, at its end nothing is received any more. Linux only.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class TcpMemory(NamedTuple):
    """Bytes."""

    used: int
    pressure: int
    """Where the kernel begins to cut buffers."""


def tcp_memory() -> TcpMemory | None:
    """As it is now; None where the system does not tell."""
    page = os.sysconf("SC_PAGESIZE")
    try:
        with open("/proc/net/sockstat", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("TCP:"))
        with open("/proc/sys/net/ipv4/tcp_mem", encoding="ascii") as file:
            _, pressure, _ = map(int, file.read().split())
        words = line.split()
        return TcpMemory(int(words[words.index("mem") + 1]) * page, pressure * page)
    except (OSError, ValueError, StopIteration):
        return None
