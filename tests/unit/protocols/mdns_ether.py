"""Segments in memory, with mDNS services on them: who sends what, and when, is all counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.net.own_addresses import OwnAddresses
from p2pfwd.net.refusals import Refusals
from p2pfwd.net.swarm import Swarm
from p2pfwd.peers.store import Peerstore
from p2pfwd.protocols.mdns import Mdns
from p2pfwd.system.interfaces import Interface, Interfaces
from p2pfwd.wire import dns_message

Heard = Callable[[bytes, str], None]


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram."""

    at: float
    host: str
    data: bytes

    @property
    def is_answer(self) -> bool:
        message = dns_message.decode(self.data)
        assert message is not None
        return message.is_response


class FakeGroup:
    """A `GroupSocket` on the ether."""

    def __init__(self, ether: Ether, host: str, heard: Heard) -> None:
        self.ether = ether
        self.host = host
        self.heard = heard

    def send(self, data: bytes) -> None:
        self.ether.send(self.host, data)

    def send_from_all(self, data: bytes, hosts: Iterable[str]) -> None:
        assert self.host in hosts
        self.send(data)

    def close(self) -> None:
        self.ether.members.remove(self)


class Ether:
    """One segment: what one sends, all hear, the sender too."""

    def __init__(self) -> None:
        self.members: list[FakeGroup] = []
        self.sent: list[Sent] = []
        self.refuse: OSError | None = None

    def send(self, host: str, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.sent.append(Sent(loop.time(), host, data))
        for member in tuple(self.members):
            loop.call_soon(member.heard, data, host)

    def join(self, interface: Interface, group: str, port: int, max_bytes: int, heard: Heard) -> FakeGroup:
        """What a service takes for `open_group`."""
        if self.refuse is not None:
            raise self.refuse
        (host,) = [host for host in interface.hosts if ("." in host) == ("." in group)]
        self.members.append(FakeGroup(self, host, heard))
        return self.members[-1]

    def answers(self, host: str | None = None) -> list[Sent]:
        """Those sent so far, by one or by all."""
        return [one for one in self.sent if one.is_answer and host in (None, one.host)]

    def questions(self, host: str | None = None) -> list[Sent]:
        """Likewise."""
        return [one for one in self.sent if not one.is_answer and host in (None, one.host)]


class FakeSwarm:
    """As much of a swarm as mDNS needs."""

    def __init__(self, number: int, listen: Sequence[str]) -> None:
        self.peer_id = PeerId.from_bytes(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))
        self.listen = [Multiaddr.parse(text) for text in listen]
        self.peerstore = Peerstore(asyncio.get_running_loop().time)
        self.refusals = Refusals(asyncio.get_running_loop().time)
        self.own_addresses = OwnAddresses(Interfaces(tuple))

    def listen_addrs(self) -> list[Multiaddr]:
        return self.listen


class Node:
    """One service with a machine around it, 10.0.0.<number>; `interfaces` may be changed."""

    def __init__(self, ether: Ether, number: int, *, host: str | None = None) -> None:
        self.host = host or f"10.0.{number // 250}.{number % 250}"
        self.swarm = FakeSwarm(number, [f"/ip4/{self.host}/tcp/{4000 + number}", "/ip4/127.0.0.1/tcp/4000"])
        self.peer_id = self.swarm.peer_id
        self.interfaces = [Interface("eth0", 2, frozenset({self.host}))]
        self.mdns = Mdns(
            cast("Swarm", self.swarm), usable=lambda _listing: list(self.interfaces), open_group=ether.join
        )

    @property
    def addr(self) -> Multiaddr:
        """Where it is on the segment."""
        return self.swarm.listen[0]
