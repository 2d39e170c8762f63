"""The other protocols a stranger may speak: ping, probes, invites, AutoNAT."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Final

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.forwarding.probe import PREFIX
from p2pfwd.policy.service_bounds import PING
from p2pfwd.wire import autonat, identify, invite, ping
from p2pfwd.wire.yamux import frame as f
from tests.hostile import LAN_PROTOCOL
from tests.hostile.kinds import EVERY, each
from tests.hostile.stage import ADDRESS, NET24, ONE, Credit, Stage, draining
from tests.hostile.victim import ECHO
from tests.support.raw_peer import delimited, hello, opened

AT_ONCE: Final = 100


async def _echoes(stage: Stage, *, read: bool) -> None:
    """The ping protocol's echo as fast as its credit allows, two streams."""
    async with await stage.peer() as peer, asyncio.TaskGroup() as group:
        credit = Credit(peer)
        group.create_task(credit.run())
        ids = itertools.count(1, 2)

        async def one() -> None:
            while True:
                stream_id = next(ids)
                first = hello(ping.ID)
                credit.opened(stream_id, len(first))
                await stage.send(peer, opened(stream_id, first), 0)
                while n := await credit.take(stream_id, 32_000):
                    data = f.encode_header(f.DATA, 0, stream_id, n) + bytes(n)
                    grant = f.encode_header(f.WINDOW_UPDATE, 0, stream_id, n) if read else b""
                    await stage.send(peer, data + grant, n // ping.PAYLOAD_BYTES)

        for _ in range(PING.most.peer):
            group.create_task(one())


@each("ping-protocol", "the ping protocol as fast as it echoes", spreads=EVERY)
async def ping_protocol(stage: Stage) -> None:
    """Echoes are read."""
    await _echoes(stage, read=True)


@each("ping-protocol-unread", "the ping protocol, echoes not read")
async def ping_protocol_unread(stage: Stage) -> None:
    """No credit is given for them."""
    await _echoes(stage, read=False)


@each("ping-streams", "ping streams opened beyond their limit")
async def ping_streams(stage: Stage) -> None:
    """All but two are refused."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 2 * AT_ONCE):
            ids = range(start, start + 2 * AT_ONCE, 2)
            await stage.send(peer, b"".join(opened(n, hello(ping.ID) + bytes(32)) for n in ids), AT_ONCE)


@each("slow-messages", "pushes, DHT and AutoNAT requests, a byte a second: slowloris in the services")
async def slow_messages(stage: Stage) -> None:
    """A hundred streams of each."""
    protocols = (identify.PUSH, LAN_PROTOCOL, autonat.PROTOCOL)
    ids = range(1, 2 * AT_ONCE * len(protocols), 2)
    async with await stage.peer() as peer, draining(peer):
        for stream_id, protocol in zip(ids, protocols * AT_ONCE, strict=True):
            await stage.send(peer, opened(stream_id, hello(protocol) + b"\x7f"))
        while True:
            await asyncio.sleep(1)
            frames = (f.encode_header(f.DATA, 0, stream_id, 1) + b"\x00" for stream_id in ids)
            await stage.send(peer, b"".join(frames), len(ids))


@each("probes", "is the service there? as fast as it is answered", spreads=EVERY)
async def probes(stage: Stage) -> None:
    """p2pfwd's own protocol; each answer looks at the service."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 2 * AT_ONCE):
            ids = range(start, start + 2 * AT_ONCE, 2)
            await stage.send(
                peer, b"".join(opened(n, hello(PREFIX + ECHO), f.SYN | f.FIN) for n in ids), AT_ONCE
            )


@each("invite-guesses", "secrets of an invite guessed as fast as they are taken", spreads=EVERY)
async def invite_guesses(stage: Stage) -> None:
    """Hello and proof in one; the ID of the invite is guessed, too."""
    async with await stage.peer() as peer, draining(peer):
        for start in range(1, 1 << 31, 2 * AT_ONCE):
            ids = range(start, start + 2 * AT_ONCE, 2)
            guess = delimited(os.urandom(invite.MAX_REQUEST_BYTES)) + delimited(os.urandom(32))
            words = hello(invite.PROTOCOL) + guess
            await stage.send(peer, b"".join(opened(n, words) for n in ids), AT_ONCE)


@each("autonat", "dial me back, again and again", fault="F12", spreads=(ONE, ADDRESS, NET24), public=True)
async def autonat_asks(stage: Stage) -> None:
    """At an address where nobody listens."""
    async with await stage.peer() as peer, draining(peer):
        host = peer.sock.getsockname()[0]
        request = autonat.DialRequest(peer.peer_id, (Multiaddr.parse(f"/ip4/{host}/tcp/4001"),))
        words = hello(autonat.PROTOCOL) + delimited(autonat.encode_request(request))
        for start in range(1, 1 << 31, 2 * AT_ONCE):
            ids = range(start, start + 2 * AT_ONCE, 2)
            await stage.send(peer, b"".join(opened(n, words, f.SYN | f.FIN) for n in ids), AT_ONCE)
