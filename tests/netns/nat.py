"""Routers for a `Segment`: each kind of NAT that people have, from namespaces and nftables (words: RFC 4787).

| kind | who sees which port | who gets in through it |
| --- | --- | --- |
| cone | all the same, the inside one | who was sent to, from that very port |
| address-restricted | all the same | any port of an address that was sent to |
| full-cone | all the same | anybody |
| symmetric | each another one, at random | who was sent to |
| sequential | each the next one, from 20000 | who was sent to |
| firewall | all the same: nothing is translated | who was sent to |

What is not asked for is dropped, never rejected. Needs `nft`, beside what `two_machines` needs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from tests.netns.lab import Segment
from tests.netns.two_machines import Machine, Unavailable, new_machine

_MASQUERADE: Final = {
    "cone": "masquerade",
    "address-restricted": "masquerade",
    "full-cone": "masquerade",
    "symmetric": "masquerade random",
    "sequential": (
        "meta l4proto { tcp, udp } masquerade to :numgen inc mod 2000 map { "
        + ", ".join(f"{n} : {20000 + n}" for n in range(2000))
        + " }"
    ),
    "firewall": "",
}
KINDS: Final = tuple(_MASQUERADE)

_FORGET: Final = (
    "import socket, struct; s = socket.socket(16, 3, 12);"
    "s.send(struct.pack('=IHHIIBBH', 20, 258, 5, 1, 0, 0, 0, 0)); s.recv(99)"
)
"""IPCTNL_MSG_CT_DELETE without a tuple: every connection the router knows."""

_ADMITTED: Final = {"full-cone": "", "address-restricted": "meta l4proto . th dport . ip saddr @peers"}


class Router:
    """One router, its outside on a segment or behind another router; `host` adds machines behind it.

    Without `udp` it lets no datagram through, as some companies' do.
    """

    def __init__(self, outside: Segment | Router, kind: str, *, udp: bool = True) -> None:
        if shutil.which("nft") is None:
            raise Unavailable("the kinds of NAT need the tool nft (package nftables)")
        self.kind = kind
        self._udp = udp
        self.segment: Segment = outside if isinstance(outside, Segment) else outside.segment
        self.machine = self.segment.add() if isinstance(outside, Segment) else outside.host()
        self._number = len(self.segment.machines) + len(self.segment.routers)
        self.segment.routers.append(self)
        self._forwards: list[str] = []
        self._hosts = 0
        self.gateway = f"10.{self._number}.0.254"
        run = self.machine.run
        run("ip", "link", "add", "lan", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        run("ip", "address", "add", f"{self.gateway}/24", "dev", "lan")
        run("ip", "link", "set", "lan", "up")
        proxy_arp = int(kind == "firewall")
        run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", f"net.ipv4.conf.eth0.proxy_arp={proxy_arp}")
        run("sysctl", "-q", "-w", "net.ipv4.neigh.eth0.proxy_delay=0")  # else up to 0.8 s, at random
        for one in ("all", "eth0", "lan"):
            run("sysctl", "-q", "-w", f"net.ipv4.conf.{one}.rp_filter=0")
        self.set(kind)

    def host(self) -> Machine:
        """A machine behind the router."""
        machine = new_machine(self.segment.stack, "")
        machine.run("ip", "link", "set", "lo", "up")
        self.plug(machine)
        return machine

    def plug(self, machine: Machine) -> None:
        """Behind this router from now on, and nowhere else, with an address of its network."""
        self._hosts += 1
        number, firewall = self._hosts, self.kind == "firewall"
        address = f"11.78.{self._number + 100}.{number}" if firewall else f"10.{self._number}.0.{number}"
        if machine.address:
            machine.run("ip", "link", "delete", "eth0")
        machine.address = address
        port = f"lan{number}"
        pair = f"ip link add eth0 type veth peer name {port} netns {self.machine.pid}"
        machine.run(*pair.split())
        self.machine.run("ip", "link", "set", port, "master", "lan", "up")
        machine.run("ip", "link", "set", "eth0", "up")
        machine.run("ip", "address", "add", f"{address}/{32 if firewall else 24}", "dev", "eth0")
        machine.run("ip", "route", "add", "default", "via", self.gateway, "dev", "eth0", "onlink")
        if firewall:
            self.machine.run("ip", "route", "add", address, "dev", "lan")

    def power(self, on: bool) -> None:
        """Off: no line to those behind it. On again: nothing is known of what was before."""
        if on:
            self.forget()
        for port in range(1, self._hosts + 1):
            self.machine.run("ip", "link", "set", f"lan{port}", "up" if on else "down")

    def forget(self) -> None:
        """Every connection and mapping; what goes on as if there were one is not let through."""
        settings = "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"
        self.machine.run("sh", "-c", settings)
        forget_connections(self.machine)
        self.set(self.kind)

    def forward(self, port: int, machine: Machine) -> None:
        """What comes to a TCP port of the outside goes to that of a machine."""
        self._forwards.append(f"tcp dport {port} dnat to {machine.address}:{port}")
        self.set(self.kind)

    def set(self, kind: str) -> None:
        """Become a router of this kind; what already has a mapping keeps it."""
        self.kind = kind
        masquerade, admitted = _MASQUERADE[kind], _ADMITTED.get(kind)
        learn = "update @ports { meta l4proto . th sport timeout 5m :"
        egress = "oifname eth0 meta l4proto { tcp, udp }"
        learns = [
            f"{egress} update @peers {{ meta l4proto . th sport . ip daddr timeout 5m }}",
            f"{egress} ct direction original {learn} ct original ip saddr . ct original proto-src }}",
        ]
        let_in = "dnat ip to meta l4proto . th dport map @ports"
        rules = f"""
            table ip nat
            delete table ip nat
            table ip nat {{
                map ports {{
                    type inet_proto . inet_service : ipv4_addr . inet_service
                    flags dynamic,timeout
                }}
                set peers {{
                    type inet_proto . inet_service . ipv4_addr
                    flags dynamic,timeout
                }}
                chain pre {{
                    type nat hook prerouting priority -100
                    {_lines(f"iifname eth0 {rule}" for rule in self._forwards)}
                    {f"iifname eth0 {admitted} {let_in}" if admitted is not None else ""}
                }}
                chain learn {{
                    type filter hook postrouting priority 101
                    {_lines(learns) if admitted is not None else ""}
                }}
                chain post {{
                    type nat hook postrouting priority 100
                    {f"oifname eth0 {masquerade}" if masquerade else ""}
                }}
                # Accepted, an early packet would leave an entry that forces our mapping onto another port.
                chain input {{
                    type filter hook input priority 0; policy drop;
                    iifname != eth0 accept
                    ct state established,related accept
                }}
                chain forward {{
                    type filter hook forward priority 0; policy drop;
                    iifname lan oifname lan accept
                    {"" if self._udp else "meta l4proto udp drop"}
                    ct state invalid drop
                    ct state established,related accept
                    iifname lan oifname eth0 accept
                    ct status dnat accept
                }}
            }}
        """
        words = [*self.machine.within, "nft", "-f", "-"]
        done = subprocess.run(words, input=rules, text=True, capture_output=True, check=False)
        if done.returncode:
            raise Unavailable(f"nft: {done.stderr.strip()}")


def forget_connections(router: Machine) -> None:
    """What a NAT does that reboots."""
    router.run(sys.executable, "-c", _FORGET)


def _lines(rules: Iterable[str]) -> str:
    return "\n".join(rules)
