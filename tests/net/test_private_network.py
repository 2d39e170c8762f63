"""Pins private networks between two hosts on real sockets: the same key, another key, and none."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterable

import pytest

from p2pfwd.core.multiaddrs import Multiaddr
from p2pfwd.core.peer_id import PeerId
from p2pfwd.errors import DialFailed
from p2pfwd.net.link.stream import Stream
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.noise import NOISE
from p2pfwd.wire.pnet import NONCE_BYTES, KeyStream
from p2pfwd.wire.tls import TLS
from tests.net.swarm_rig import ECHO, echo, host, read_all, stream_pair, swarm
from tests.support.loops import on_both_loops, on_loop
from tests.support.raw_peer import RawListener

PSK = bytes(range(32))
OTHER = bytes(range(1, 33))
BULK = random.Random(3).randbytes(3 << 20)

securities = pytest.mark.parametrize("security", [NOISE, TLS])


@securities
@pytest.mark.parametrize("early", [True, False])
@on_both_loops
async def test_with_the_same_key_3_MB_go_both_ways(security: str, early: bool) -> None:
    async with stream_pair(security=(security,), early_muxer=early, psk=PSK) as (near, far):

        async def send(stream: Stream) -> None:
            await stream.write(BULK)
            stream.close_write()

        _, _, at_far, at_near = await asyncio.gather(send(near), send(far), read_all(far), read_all(near))
        assert at_far == BULK and at_near == BULK


@on_loop
async def test_hosts_identify_and_ping_each_other() -> None:
    async with host(psk=PSK) as near, host(psk=PSK) as far:
        outcome = await near.ping(far.peer_id, far.swarm.listen_addrs())
        assert outcome.rtt_s > 0
        await outcome.conn.identified
        assert near.swarm.peerstore.agent(far.peer_id) == far.settings.agent_version


@securities
@pytest.mark.parametrize(
    ("near", "far"),
    [(PSK, OTHER), (PSK, None), (None, PSK)],
    ids=["another key", "they have none", "we have none"],
)
@on_loop
async def test_without_the_same_key_neither_side_gets_a_connection_and_both_know_at_once(
    security: str, near: bytes | None, far: bytes | None
) -> None:
    async with (
        swarm(security=(security,), psk=near) as dialer,
        swarm(security=(security,), psk=far) as listener,
    ):
        began = asyncio.get_running_loop().time()
        await failed(dialer, listener.peer_id, listener.listen_addrs())
        assert asyncio.get_running_loop().time() - began < 5, "not at a deadline of 15 s"
        assert dialer.conns() == listener.conns() == []


FIRST_WORDS = HEADER + encode_token("/noise")


def coded(psk: bytes, data: bytes) -> bytes:
    """What a node of the network `psk` sends when it says `data`."""
    nonce = bytes(range(100, 100 + NONCE_BYTES))
    return nonce + KeyStream(psk, nonce).xor(data)


@pytest.mark.parametrize(
    ("psk", "answer", "reason"),
    [
        (PSK, coded(OTHER, FIRST_WORDS), "the peer is not in this private network, or has another swarm.key"),
        (PSK, HEADER, "the peer has no swarm.key, and this network is private"),
        (PSK, b"SSH-2.0-OpenSSH_9.6 or something like it", "the peer is not in this private network"),
        (PSK, None, "the handshake: it may be outside this private network, or have another swarm.key"),
        (
            None,
            coded(PSK, FIRST_WORDS),
            "the peer is no libp2p node, or one of a private network (multistream: the peer opened with",
        ),
        (None, None, "the peer closed the connection during the handshake"),
    ],
    ids=["another key", "no key", "no libp2p", "hangs up", "private", "hangs up on plain"],
)
@on_loop
async def test_the_dialer_says_what_it_met(psk: bytes | None, answer: bytes | None, reason: str) -> None:
    """`answer` is what the other end says first, and None hangs up."""
    async with swarm(psk=psk) as dialer:
        with RawListener() as raw:
            dial = asyncio.ensure_future(failed(dialer, raw.peer_id, [raw.addr]))
            with await raw.accept_tcp() as sock:
                loop = asyncio.get_running_loop()
                while len(await loop.sock_recv(sock, 1000)) < len(FIRST_WORDS):
                    pass
                if answer is None:
                    sock.shutdown(socket.SHUT_WR)
                else:
                    await loop.sock_sendall(sock, answer)
                assert reason in await dial


@on_loop
async def test_nothing_goes_out_in_the_clear() -> None:
    """The first write: a nonce, then what a node without a key says, XORed."""
    async with swarm(psk=PSK, security=(NOISE,)) as dialer:
        with RawListener() as raw:
            dial = asyncio.ensure_future(failed(dialer, raw.peer_id, [raw.addr]))
            with await raw.accept_tcp() as sock:
                wire = await asyncio.get_running_loop().sock_recv(sock, 1000)
            await dial
    assert b"multistream" not in wire
    assert KeyStream(PSK, wire[:NONCE_BYTES]).xor(wire[NONCE_BYTES:]) == FIRST_WORDS


@on_loop
async def test_a_listener_serves_its_network_while_strangers_knock() -> None:
    async with swarm(psk=PSK) as listener, swarm(psk=PSK) as friend, swarm() as stranger:
        listener.services.serve(Service(name=ECHO, handler=echo))
        knocking = [failed(stranger, listener.peer_id, listener.listen_addrs()) for _ in range(3)]
        await friend.connect(listener.peer_id, listener.listen_addrs())
        stream = await friend.open_stream(listener.peer_id, [ECHO])
        await asyncio.gather(*knocking)
        await stream.write(b"hello")
        stream.close_write()
        assert await read_all(stream) == b"hello"
        assert [conn.remote_peer for conn in listener.conns()] == [friend.peer_id]


async def failed(dialer: Swarm, peer_id: PeerId, addrs: Iterable[Multiaddr]) -> str:
    """Why a dial that cannot work does not."""
    with pytest.raises(DialFailed) as caught:
        await dialer.connect(peer_id, addrs)
    return caught.value.message
