"""The system's errors in words. Those that are this machine's own limits say so: no peer is to be blamed."""

from __future__ import annotations

import errno
import os
from typing import Final

_OWN_LIMITS: Final = {
    errno.EMFILE: "a limit of this machine: ulimit -n, or LimitNOFILE= of the unit",
    errno.ENFILE: "a limit of this machine: fs.file-max",
    errno.ENOBUFS: "a limit of this machine",
    errno.ENOMEM: "a limit of this machine",
    errno.EADDRNOTAVAIL: "this machine has no local port left, see net.ipv4.ip_local_port_range, "
    "or no address of that kind",
}


def reason(code: int | None) -> str:
    """One clause for the errno of a failed `connect`, `socket`, `accept` or `open`."""
    told, limit = os.strerror(code or 0), _OWN_LIMITS.get(code or 0)
    return told if limit is None else f"{told} ({limit})"
