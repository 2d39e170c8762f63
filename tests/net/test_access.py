"""Access against a stranger that speaks byte by byte: a denied name answers as one that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.core.terms import ListenTerms
from p2pfwd.forwarding import probe
from p2pfwd.forwarding.service import Forwarding
from p2pfwd.host.host import Host
from p2pfwd.policy.access import Access, Rule
from p2pfwd.policy.blocks import Blocks
from p2pfwd.wire import identify
from p2pfwd.wire.yamux import frame as f
from tests.net.swarm_rig import host
from tests.support.loops import on_loop, until
from tests.support.raw_peer import RawPeer, hello, opened

TARGET = Multiaddr.parse("/ip4/127.0.0.1/tcp/9")
DENIED, ABSENT = "/x/denied", "/x/absent"


@asynccontextmanager
async def offering(allowed: PeerId | None = None) -> AsyncIterator[tuple[Host, Forwarding]]:
    """A host with a listen below /x/ and one outside, for this peer alone."""
    async with host() as node:
        service = Forwarding(node)
        rule = Rule("listed", frozenset({allowed} if allowed else ()))
        await service.listen(DENIED, TARGET)
        await service.listen("/own", TARGET, ListenTerms(custom_protocol=True))
        service.set_access(Access("any", {DENIED: rule, "/own": rule}))
        try:
            yield node, service
        finally:
            await service.aclose()


async def answers(peer: RawPeer, stream_id: int, name: str) -> list[tuple[int, int, bytes]]:
    """Type, flags and body of the frames on a stream that asks for this name, up to its refusal."""
    await peer.send(opened(stream_id, hello(name)))
    frames: list[tuple[int, int, bytes]] = []
    while not any(body.endswith(b"na\n") for _, _, body in frames):
        frame = await peer.next()
        if frame.stream_id == stream_id:
            frames.append((frame.type, frame.flags, frame.body))
    return frames


@on_loop
async def test_who_is_told_hears_of_the_probe_alone_and_others_hear_nothing() -> None:
    """The tunnel itself stays as one that is not there."""
    async with offering() as (node, service), await RawPeer.dial(node.swarm.listen_addrs()[0]) as peer:
        rule = Rule("listed", told=frozenset({peer.peer_id}))
        service.set_access(Access("any", {DENIED: rule}))
        assert await answers(peer, 1, DENIED) == await answers(peer, 3, ABSENT)
        await peer.send(opened(5, hello(probe.PREFIX + DENIED)))
        said = b""
        while b"not-allowed" not in said:
            frame = await peer.next()
            said += frame.body if frame.stream_id == 5 else b""
    async with offering() as (node, service), await RawPeer.dial(node.swarm.listen_addrs()[0]) as peer:
        service.set_access(Access("any", {DENIED: rule}))
        prefixed = probe.PREFIX + DENIED, probe.PREFIX + ABSENT
        assert await answers(peer, 1, prefixed[0]) == await answers(peer, 3, prefixed[1])


@on_loop
async def test_a_stranger_sees_the_same_bytes_for_a_denied_name_and_for_none() -> None:
    async with offering() as (node, service), await RawPeer.dial(node.swarm.listen_addrs()[0]) as peer:
        for number, prefix in enumerate(("", probe.PREFIX)):
            denied = await answers(peer, 1 + 4 * number, prefix + DENIED)
            absent = await answers(peer, 3 + 4 * number, prefix + ABSENT)
            assert denied == absent
        own, none = await answers(peer, 9, "/own"), await answers(peer, 11, "/owl")
        assert own == none
        await until(lambda: len(service.access.requests.all()) == 2)
        assert {it.protocol for it in service.access.requests.all()} == {DENIED, "/own"}
        assert not service.streams()


async def listed(peer: RawPeer, stream_id: int) -> tuple[str, ...]:
    """What identify tells the peer."""
    await peer.open(stream_id, identify.ID)
    data = b""
    while True:
        frame = await peer.next()
        if frame.stream_id == stream_id:
            data += frame.body
            if frame.flags & f.FIN:
                break
    size = data[0] & 0x7F | data[1] << 7
    return identify.decode(data[2 : 2 + size]).protocols


@on_loop
async def test_identify_lists_a_name_to_those_who_may_use_it() -> None:
    friend = PrivateKey.generate()
    async with offering(PeerId.from_public_key(friend.public_key)) as (node, _):
        addr = node.swarm.listen_addrs()[0]
        async with await RawPeer.dial(addr) as stranger, await RawPeer.dial(addr, identity=friend) as known:
            told, all_of_it = await listed(stranger, 1), await listed(known, 1)
        assert set(all_of_it) - set(told) == {"/own"} and "/x/" in told


@on_loop
async def test_a_blocked_stranger_is_put_out_after_its_handshake() -> None:
    identity = PrivateKey.generate()
    async with host() as node:
        node.swarm.block(Blocks([PeerId.from_public_key(identity.public_key)]))
        async with await RawPeer.dial(node.swarm.listen_addrs()[0], identity=identity) as peer:
            await peer.to_the_end()
        assert not node.swarm.conns() and node.swarm.refusals.counts == {"blocked": 1}
        async with await RawPeer.dial(node.swarm.listen_addrs()[0]):
            await until(lambda: len(node.swarm.conns()) == 1)


@on_loop
async def test_a_flood_of_denied_streams_holds_nothing_and_keeps_nobody_out() -> None:
    friend = PrivateKey.generate()
    async with offering(PeerId.from_public_key(friend.public_key)) as (node, service):
        addr = node.swarm.listen_addrs()[0]
        async with await RawPeer.dial(addr) as stranger, await RawPeer.dial(addr, identity=friend) as known:
            reading = asyncio.ensure_future(stranger.to_the_end())
            for batch in range(20):
                ids = range(1 + 100 * batch, 101 + 100 * batch, 2)
                await stranger.send(b"".join(opened(n, hello(DENIED), f.SYN | f.FIN) for n in ids))
            await known.open(1, probe.PREFIX + DENIED)
            await until(lambda: bool(service.access.requests.all()))
            assert len(service.access._denied) <= 1 and not service.streams()
            (request,) = service.access.requests.all()
            assert request.party.peer == stranger.peer_id
            assert node.swarm.refusals.counts["tunnel-denied"] <= 20, "once for each moment, not for each"
            reading.cancel()
            await asyncio.wait([reading])
