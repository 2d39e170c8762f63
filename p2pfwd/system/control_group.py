"""Whose control group this process lives in, and the way out of a service's. For Linux with systemd.

What a service starts dies with it: systemd ends a unit's whole control group. A daemon that holds the tunnels
of all must not be a part of the unit that happened to need it first. `systemd-run --scope` asks the manager
for a group of its own and then becomes the program, with its descriptors and its process number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROC_FILE = Path("/proc/self/cgroup")
MAX_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Service:
    """A systemd service; `manager` is "system", or "user" for one of a user's own manager."""

    unit: str
    manager: str


def service_of(text: str) -> Service | None:
    """The service whose group is in `text`, the content of /proc/PID/cgroup; None for sessions and the like.

    The end of a session (`session-2.scope`), of a terminal's tab or a container is another matter.
    """
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number, controllers) == ("0", "") or controllers == "name=systemd":
            parts = [part for part in path.split("/") if part]
            if parts and parts[-1].endswith(".service"):
                in_user = any(part.startswith("user@") and part.endswith(".service") for part in parts[:-1])
                return Service(parts[-1], "user" if in_user else "system")
    return None


def own_service(env: Mapping[str, str]) -> Service | None:
    """The service this process is a part of.

    systemd tells each of its services an INVOCATION_ID, and cron and sshd tell none to what they start: their
    units leave it alone when they end.
    """
    if not env.get("INVOCATION_ID"):
        return None
    try:
        with PROC_FILE.open(encoding="utf-8", errors="replace") as file:
            return service_of(file.read(MAX_BYTES))
    except OSError:
        return None


def way_out(service: Service, uid: int) -> list[str] | None:
    """Words before a command that give it a control group of its own; None where nobody may grant one.

    The system's manager grants it to root. A user's own manager is asked by its own services alone: it may
    end before a system service does.
    """
    if service.manager == "system" and uid != 0:
        return None
    from shutil import which  # slow to import, and of no use in the daemon

    program = which("systemd-run")
    if program is None:
        return None
    manager = ["--user"] if service.manager == "user" else []
    return [program, *manager, "--scope", "--quiet", "--collect", "--description=p2pfwd daemon", "--"]
