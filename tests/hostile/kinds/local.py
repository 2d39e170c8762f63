"""On this machine and its network: the control socket and mDNS, each fed by one program."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.wire import mdns
from tests.hostile import ground
from tests.hostile.kinds import whole
from tests.hostile.stage import Stage

PER_S: Final = 50
GROUP: Final = (mdns.GROUP_IP4, mdns.PORT)


@whole("mdns-fill", "50 made-up peers a second announced by mDNS", fault="F11", segment=True)
async def mdns_fill(stage: Stage) -> None:
    """They all say that they listen at the attacker's machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(ground.SEGMENT))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        sock.bind((ground.SEGMENT, 0))
        for _ in itertools.count():
            peer = PeerId.from_public_key(stage.identity().public_key)
            address = Multiaddr.parse(f"/ip4/{ground.SEGMENT}/tcp/4999/p2p/{peer}")
            sock.sendto(mdns.answer(mdns.instance_name(peer.to_bytes()[-16:]), peer, [address]), GROUP)
            stage.counts["things"] += 1
            await asyncio.sleep(1 / PER_S)


@whole("control-socket", "empty lines to the owner's control socket, answers not read", fault="F14")
async def control_socket(stage: Stage) -> None:
    """By a program of the owner's own: nobody else gets there."""
    loop = asyncio.get_running_loop()

    async def body() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, str(stage.control))
            while True:
                await stage.send_raw(sock, b"\n" * 65536, 65536)

    await stage.lines(body, count=4)
