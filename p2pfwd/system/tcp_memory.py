"""What all TCP sockets of this machine hold in the kernel, and from where on everybody suffers.

The kernel has one account for all programs (tcp_mem in tcp(7)): above its middle mark every socket's buffers
are cut, at its end nothing is received any more. Linux only; a container sees the account but not its marks,
which the kernel takes from the machine's memory.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

MARK_PART: Final = 16
"""The middle mark is one part in so many of the machine's memory, unless somebody has set it."""


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
        words = line.split()
        return TcpMemory(int(words[words.index("mem") + 1]) * page, _mark() * page)
    except (OSError, ValueError, StopIteration):
        return None


def _mark() -> int:
    try:
        with open("/proc/sys/net/ipv4/tcp_mem", encoding="ascii") as file:
            return int(file.read().split()[1])
    except FileNotFoundError:
        return os.sysconf("SC_PHYS_PAGES") // MARK_PART
