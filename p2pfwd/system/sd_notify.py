"""Tells systemd how the service fares: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("p2pfwd.daemon")

VARIABLE = "NOTIFY_SOCKET"

SHARE = 3
"""Signs of life per watchdog's time: one may be lost, and one be late."""


def notify(state: str, env: Mapping[str, str] = os.environ) -> bool:
    """Send `state` (such as "READY=1") to the service manager; False when there is none that takes it."""
    address = env.get(VARIABLE)
    if not address or address[0] not in "/@":
        return False
    if address[0] == "@":  # Linux's abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(1.0)
            sock.connect(address)
            sock.sendall(state.encode("utf-8"))
    except OSError as exc:
        log.warning("systemd cannot be told %s: %s", state, exc.strerror or exc)
        return False
    return True


def watchdog_interval(env: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two WATCHDOG=1, as sd_watchdog_enabled(3) wants them; None where no watchdog waits."""
    pid, usec = env.get("WATCHDOG_PID", ""), env.get("WATCHDOG_USEC", "")
    if not env.get(VARIABLE) or (pid and pid != str(os.getpid())):
        return None
    if not (usec.isascii() and usec.isdecimal()) or int(usec) == 0:
        return None
    return int(usec) / 1e6 / SHARE


def is_journal(descriptor: int, env: Mapping[str, str] = os.environ) -> bool:
    """Whether `descriptor` leads to systemd's journal, which stamps lines by itself: JOURNAL_STREAM."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return env.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
