"""A machine with a hosts file and a resolv.conf of its own, for the programs that are started within it.

Needs root, and what `two_machines` needs. A mount namespace per program: nobody else sees the files. They are
written in place, as a DHCP client may do it, and programs that run see the change.
"""

from __future__ import annotations

from pathlib import Path

from tests.netns.two_machines import Machine, Unavailable

_BIND = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


class OwnFiles:
    """`within` are the words in front of a command. Raises Unavailable where the system has no such files."""

    def __init__(self, directory: Path, machine: Machine, *, hosts: str = "", resolv_conf: str = "") -> None:
        for name in ("/etc/hosts", "/etc/resolv.conf"):
            if not Path(name).exists():
                raise Unavailable(f"there is no {name} here to put another one in its place")
        directory.mkdir(parents=True, exist_ok=True)
        self._hosts, self._resolv_conf = directory / "hosts", directory / "resolv.conf"
        self._hosts.write_text(f"127.0.0.1 localhost\n::1 localhost\n{hosts}")
        self.resolv_conf(resolv_conf)
        files = [str(self._hosts), str(self._resolv_conf)]
        self.within = [*machine.within, "unshare", "-m", "sh", "-c", _BIND, *files]

    def resolv_conf(self, text: str) -> None:
        """Another resolv.conf from now on."""
        self._resolv_conf.write_text(text)
