"""A home router with port mapping by the real miniupnpd: UPnP-IGD, NAT-PMP and PCP for the machine behind it.

Needs what `nat` needs, and `miniupnpd` (Debian: miniupnpd-nftables). Nothing that it or its clients send
leaves the namespaces.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from typing import Final

from tests.netns.lab import Segment
from tests.netns.nat import Router
from tests.netns.two_machines import Unavailable

START_S: Final = 10.0

_RULES: Final = """
table inet upnp
delete table inet upnp
table inet upnp {{
  chain mapped {{ }}
  chain mapped_post {{ }}
  chain pinholes {{ }}
  chain arriving {{ type nat hook prerouting priority -101; {jump} }}
}}
"""
_CONFIG: Final = """
ext_ifname=eth0
listening_ip=lan
port=5000
uuid=11110000-0000-4000-8000-000000000001
secure_mode=yes
system_uptime=no
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=pinholes
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=mapped_post
"""
_FORGET: Final = (
    "import socket, struct; s = socket.socket(16, 3, 12);"
    "s.send(struct.pack('=IHHIIBBH', 20, 258, 5, 1, 0, 0, 0, 0)); s.recv(99)"
)
"""IPCTNL_MSG_CT_DELETE without a tuple: every connection the router knows."""

ALLOW: Final = "allow 1-65535 0.0.0.0/0 1-65535"
DENY: Final = "deny 0-65535 0.0.0.0/0 0-65535"


class MappingRouter:
    """A cone NAT on a segment, and `client` behind it. Raises Unavailable, with the reason."""

    def __init__(self, segment: Segment) -> None:
        if shutil.which("miniupnpd") is None:
            raise Unavailable("port mapping needs the tool miniupnpd (package miniupnpd-nftables)")
        router = Router(segment, "cone")
        self.machine, self.gateway = router.machine, router.gateway
        self.client = router.host()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._lines: tuple[str, ...] = ()
        segment.stack.callback(self.stop)

    def start(self, *lines: str, allow: bool = True, works: bool = True) -> None:
        """Offer port mapping; `lines` are miniupnpd's. `allow`: grant any; `works`: it then leads in."""
        self._lines = (*lines, ALLOW if allow else DENY)
        self._rules(works=works)
        config = os.memfd_create("miniupnpd.conf")
        os.write(config, "\n".join((_CONFIG, *self._lines, "")).encode())
        file = f"/proc/self/fd/{config}"
        words = [*self.machine.within, "miniupnpd", "-d", "-f", file, "-P", f"{file}9"]
        quiet = subprocess.DEVNULL
        self._daemon = subprocess.Popen(words, stdout=quiet, stderr=quiet, pass_fds=[config])
        os.close(config)
        deadline = time.monotonic() + START_S
        while not self._listens("tcp", 5000) and not self._listens("udp", 5351):
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("miniupnpd does not start")
            time.sleep(0.02)

    def _listens(self, protocol: str, port: int) -> bool:
        assert self._daemon is not None
        listed = ""
        for version in ("", "6"):
            with open(f"/proc/{self.machine.pid}/net/{protocol}{version}", encoding="ascii") as file:
                listed += file.read()
        return re.search(f":{port:04X} ", listed) is not None

    def _rules(self, works: bool = True) -> None:
        rules = _RULES.format(jump='iifname "eth0" jump mapped;' if works else "")
        words = [*self.machine.within, "nft", "-f", "-"]
        subprocess.run(words, input=rules.encode(), check=True, capture_output=True)

    def stop(self) -> None:
        """No port mapping any more; no farewell, as when the power fails."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def reboot(self) -> None:
        """All mappings and connections are forgotten, and the epoch begins anew."""
        self.stop()
        self._rules()
        self.machine.run("python3", "-c", _FORGET)
        self.start(*self._lines[:-1], allow=self._lines[-1] == ALLOW)

    def mapped(self) -> set[int]:
        """The TCP ports that lead to the client."""
        words = [*self.machine.within, "nft", "list", "chain", "inet", "upnp", "mapped"]
        listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        lines = (line for line in listed.splitlines() if self.client.address in line)
        ports = (re.search(r"(?:tcp|th) dport (\S+)", line) for line in lines)
        return {int(found[1]) for found in ports if found is not None}
