"""Tells systemd how the service fares: the datagram protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("p2pfwd.daemon")

VARIABLE = "NOTIFY_SOCKET"


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
