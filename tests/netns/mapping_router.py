"""A home router with port mapping by the real miniupnpd: UPnP-IGD, NAT-PMP and PCP for one machine behind it.

Needs what `lab` needs, `nft` (nftables), and `miniupnpd` (Debian: miniupnpd-nftables). Nothing that it or its
clients send leaves the namespaces.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from contextlib import ExitStack
from typing import Final

from tests.netns.two_machines import Machine, Unavailable, new_machine

GATEWAY, CLIENT = "10.1.0.1", "10.1.0.2"
START_S: Final = 10.0

_RULES: Final = """
table inet upnp
delete table inet upnp
table inet upnp {{
  chain mapped {{ }}
  chain mapped_post {{ }}
  chain pinholes {{ }}
  chain arriving {{ type nat hook prerouting priority -100; {jump} }}
  chain leaving {{ type nat hook postrouting priority 100; oifname "eth0" masquerade; }}
  chain through {{
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" accept
    ct status dnat accept
  }}
  chain in {{ type filter hook input priority 0; iifname "eth0" ct state new drop; }}
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
    """`machine`, of a segment, as a router; `client` is the machine behind it, until `stack` is closed.

    Raises Unavailable, with the reason.
    """

    def __init__(self, stack: ExitStack, machine: Machine) -> None:
        for tool, package in (("nft", "nftables"), ("miniupnpd", "miniupnpd-nftables")):
            if shutil.which(tool) is None:
                raise Unavailable(f"port mapping needs the tool {tool} (package {package})")
        self.machine = machine
        self.client = new_machine(stack, CLIENT)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._lines: tuple[str, ...] = ()
        stack.callback(self.stop)
        for where, command in (
            (machine, f"link add lan type veth peer name eth0 netns {self.client.pid}"),
            (machine, f"address add {GATEWAY}/24 dev lan"),
            (machine, "link set lan up"),
            (self.client, "link set lo up"),
            (self.client, f"address add {CLIENT}/24 dev eth0"),
            (self.client, "link set eth0 up"),
            (self.client, f"route add default via {GATEWAY}"),
        ):
            where.run("ip", *command.split())
        machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._rules()

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
        lines = (line for line in listed.splitlines() if CLIENT in line)
        ports = (re.search(r"(?:tcp|th) dport (\S+)", line) for line in lines)
        return {int(found[1]) for found in ports if found is not None}
