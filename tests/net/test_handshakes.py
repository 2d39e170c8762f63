"""Pins what strangers can do before their handshake is done: nothing that lasts, and not too many at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest

from p2pfwd.core.keys import PrivateKey
from p2pfwd.core.multiaddrs import AddressClass, Multiaddr, tcp_endpoint
from p2pfwd.errors import DialFailed
from p2pfwd.net import upgrader as upgrader_module
from p2pfwd.net.conduit import tcp
from p2pfwd.net.conduit.tcp import SPARE_READ_BYTES
from p2pfwd.net.services import Service
from p2pfwd.net.swarm import Swarm
from p2pfwd.net.transport import porch
from p2pfwd.policy import dial_plan
from p2pfwd.system import syn_filter
from p2pfwd.wire.multistream import HEADER, encode_token
from p2pfwd.wire.noise.handshake import NoiseHandshake
from p2pfwd.wire.noise.xx import ENTROPY_BYTES
from tests.net.swarm_rig import ECHO, echo, next_conn, read_all, swarm
from tests.support.loops import on_loop, turns, until
from tests.support.raw_peer import RawListener, RawPeer, dial_tcp

NOISE = HEADER + encode_token("/noise")
TLS = HEADER + encode_token("/tls/1.0.0")
MESSAGE_1 = NoiseHandshake(
    initiator=True,
    identity=PrivateKey.generate(),
    expected_peer=None,
    muxers=(),
    entropy=os.urandom(ENTROPY_BYTES),
).start()


async def read_to_end(sock: socket.socket) -> bytes:
    """What the host sends until it closes, by FIN or RST."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
            got += data
    return got


async def serves(victim: Swarm) -> None:
    """An honest peer gets through."""
    async with swarm() as honest:
        await honest.connect(victim.peer_id, victim.listen_addrs())
        stream = await honest.open_stream(victim.peer_id, [ECHO])
        await stream.write(b"ok")
        stream.close_write()
        assert await read_all(stream) == b"ok"


UNFINISHED = {
    "nothing": b"",
    "half a header": HEADER[:9],
    "no proposal": HEADER,
    "half a proposal": NOISE[:-2],
    "noise and nothing": NOISE,
    "a length and nothing": NOISE + b"\x00\x20",
    "message 1 and nothing": NOISE + MESSAGE_1,
    "tls and nothing": TLS,
    "half a client hello": TLS + bytes.fromhex("16030100c8010000c40303"),
    "refused proposals": HEADER + encode_token("/plaintext/2.0.0") * 5,
}


@pytest.mark.parametrize("wire", UNFINISHED.values(), ids=list(UNFINISHED))
@on_loop
async def test_a_handshake_that_does_not_go_on_is_closed_at_its_deadline(wire: bytes) -> None:
    async with swarm(upgrade_timeout_s=0.1) as victim:
        victim.services.serve(Service(name=ECHO, handler=echo))
        sock = await dial_tcp(victim.listen_addrs()[0])
        with contextlib.closing(sock):
            await asyncio.get_running_loop().sock_sendall(sock, wire)
            await read_to_end(sock)
        assert victim.conns() == []
    assert not victim.handshakes


@on_loop
async def test_a_byte_at_a_time_does_not_move_the_deadline() -> None:
    async with swarm(upgrade_timeout_s=0.2) as victim:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        sock = await dial_tcp(victim.listen_addrs()[0])
        with contextlib.closing(sock):
            reading = loop.create_task(read_to_end(sock))
            wire = iter((NOISE + MESSAGE_1) * 1000)
            with contextlib.suppress(ConnectionError):
                while not reading.done():
                    await loop.sock_sendall(sock, bytes([next(wire)]))
                    await asyncio.wait([reading], timeout=0.01)
            await reading
        assert loop.time() - begin < 5


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "another multistream": b"\x13/multistream/9.0.0\n",
    "a giant token": HEADER + b"\xff\xff\xff\xff\x0f",
    "a giant noise message": NOISE + b"\xff\xff" + bytes(1000),
    "a short message 1": NOISE + b"\x00\x01x",
    "a long message 1": NOISE + b"\x01\x00" + bytes(256),
    "message 1 twice": NOISE + MESSAGE_1 + MESSAGE_1,
    "no tls": TLS + b"hello, this is no TLS record at all",
    "an old tls": TLS + bytes.fromhex("15030100020228"),
    "too many proposals": HEADER + encode_token("/nobody") * 1001,
}


@pytest.mark.parametrize("wire", GARBAGE.values(), ids=list(GARBAGE))
@on_loop
async def test_garbage_is_closed_at_once_and_others_are_served(wire: bytes) -> None:
    async with swarm() as victim:
        victim.services.serve(Service(name=ECHO, handler=echo))
        sock = await dial_tcp(victim.listen_addrs()[0])
        with contextlib.closing(sock):
            await asyncio.get_running_loop().sock_sendall(sock, wire)
            answer = await read_to_end(sock)
        assert len(answer) < 10_000
        assert not [conn for conn in victim.conns()]
        await serves(victim)


@on_loop
async def test_more_than_a_handshake_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrader_module, "MAX_BUFFERED_BYTES", 1000)
    most = 0
    received = upgrader_module._Inbox.data_received

    def watched(inbox: upgrader_module._Inbox, view: memoryview) -> int:
        nonlocal most
        most = max(most, len(inbox._buffer) + len(view))
        return received(inbox, view)

    monkeypatch.setattr(upgrader_module._Inbox, "data_received", watched)
    async with swarm() as victim:
        sock = await dial_tcp(victim.listen_addrs()[0])
        with contextlib.closing(sock), contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(sock, NOISE + MESSAGE_1 + bytes(1 << 20))
            await read_to_end(sock)
        assert victim.conns() == []
    assert most < 2 * SPARE_READ_BYTES, "the rest waited in the kernel"


@on_loop
async def test_half_open_connections_are_gone_with_their_socket() -> None:
    async with swarm() as victim:
        for hard in (True, False):
            sock = await dial_tcp(victim.listen_addrs()[0])
            await asyncio.get_running_loop().sock_sendall(sock, NOISE)
            await until(lambda: len(victim.handshakes) == 1)
            if hard:
                sock.close()
            else:
                sock.shutdown(socket.SHUT_WR)
                await read_to_end(sock)
                sock.close()
            await until(lambda: not victim.handshakes)


@on_loop
async def test_silent_handshakes_never_shut_the_door() -> None:
    # FAULTS F3: 72 silent connections, and nobody else got in for as long as they liked.
    async with swarm(max_pending_inbound=3) as victim:
        victim.services.serve(Service(name=ECHO, handler=echo))
        silent = [await dial_tcp(victim.listen_addrs()[0]) for _ in range(3)]
        await until(lambda: len(victim.handshakes) == 3)
        await serves(victim)
        assert await read_to_end(silent[0]) in (b"", HEADER), "the oldest gave way"
        for sock in silent:
            sock.close()
        await until(lambda: not victim.handshakes)
        assert victim.refusals.counts["handshake-gave-way"]


@pytest.fixture
def loopback_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback has shares of its own; here it is an address of the internet."""
    monkeypatch.setattr(dial_plan, "address_class", lambda _addr: AddressClass.PUBLIC)


@on_loop
async def test_one_address_gets_few_handshakes_at_once(loopback_counts: None) -> None:
    async with swarm(max_pending_inbound_per_ip=2) as victim:
        silent = [await dial_tcp(victim.listen_addrs()[0]) for _ in range(5)]
        for sock in silent[:3]:
            assert await read_to_end(sock) in (b"", HEADER), "older ones gave way"
        assert len(victim.handshakes) == 2
        for sock in silent:
            sock.close()


@pytest.mark.parametrize("limit", ["max_connections_per_ip", "max_connections"])
@on_loop
async def test_a_full_table_replaces_the_longest_idle(limit: str, loopback_counts: None) -> None:
    # FAULTS F4: 512 made-up peers kept everybody out.
    async with swarm(**{limit: 2}) as victim:
        addr = victim.listen_addrs()[0]
        async with await RawPeer.dial(addr) as first, await RawPeer.dial(addr) as second:
            await until(lambda: len(victim.conns()) == 2)
            async with await RawPeer.dial(addr) as third:
                await first.to_the_end()
                await until(lambda: third.peer_id in {conn.remote_peer for conn in victim.conns()})
                assert {conn.remote_peer for conn in victim.conns()} == {second.peer_id, third.peer_id}
        assert victim.refusals.counts["connection-replaced"] == 1


@on_loop
async def test_where_all_are_of_use_the_newcomer_is_refused(loopback_counts: None) -> None:
    async with swarm(max_connections=1) as victim:
        addr = victim.listen_addrs()[0]
        async with await RawPeer.dial(addr) as first:
            victim.connmgr.protect(first.peer_id, "kept")
            await until(lambda: len(victim.conns()) == 1)
            async with await RawPeer.dial(addr) as second:
                await second.to_the_end()
            assert [conn.remote_peer for conn in victim.conns()] == [first.peer_id]


@on_loop
async def test_one_identity_gets_few_connections() -> None:
    identity = PrivateKey.generate()
    async with swarm(max_connections_per_peer=2) as victim:
        addr = victim.listen_addrs()[0]
        async with (
            await RawPeer.dial(addr, identity=identity),
            await RawPeer.dial(addr, identity=identity),
            await RawPeer.dial(addr, identity=identity) as third,
        ):
            assert [frame.type for frame in await third.to_the_end()] in ([], [2]), "at most its first ping"
            assert len(victim.conns(third.peer_id)) == 2


@pytest.mark.parametrize("muxers", [("/yamux/1.0.0",), (), ("/mplex/6.7.0",)])
@on_loop
async def test_what_follows_the_handshake_in_the_same_segment_is_not_lost(muxers: tuple[str, ...]) -> None:
    async with swarm() as victim:
        victim.services.serve(Service(name=ECHO, handler=echo))
        arrived = next_conn(victim)
        async with await RawPeer.dial(victim.listen_addrs()[0], muxers=muxers) as peer:
            await peer.open(1, ECHO)
            assert (await arrived).remote_peer == peer.peer_id


@pytest.mark.parametrize(
    ("muxers", "said"),
    [
        (("/mplex/6.7.0",), 'no common muxer with the peer: it offers "/mplex/6.7.0", this node /yamux'),
        ((), "the connection ended during the handshake|the peer closed the connection"),
    ],
)
@on_loop
async def test_a_peer_that_hangs_up_for_want_of_a_common_muxer(muxers: tuple[str, ...], said: str) -> None:
    # A js-libp2p with mplex alone: it says so in the handshake, and resets.
    async with swarm() as node:
        with RawListener() as listener:
            dialing = asyncio.get_running_loop().create_task(node.connect(listener.peer_id, [listener.addr]))
            async with RawPeer(await listener.accept_tcp(), listener.identity) as peer:
                await peer.shake_hands(dialing=False, muxers=muxers)
                peer.reset()
            with pytest.raises(DialFailed, match=said):
                await dialing


@on_loop
async def test_this_node_itself_is_not_a_peer() -> None:
    async with swarm() as victim:
        async with await RawPeer.dial(victim.listen_addrs()[0], identity=victim.identity) as mirror:
            await mirror.to_the_end()
        assert victim.conns() == []


@on_loop
async def test_a_swarm_that_ends_leaves_no_connection_in_any_stage() -> None:
    loop = asyncio.get_running_loop()
    stages = [b"", HEADER, NOISE, NOISE + MESSAGE_1, TLS]
    async with swarm() as victim:
        addr = victim.listen_addrs()[0]
        socks = [await dial_tcp(addr) for _ in stages]
        for sock, wire in zip(socks, stages, strict=True):
            await loop.sock_sendall(sock, wire)
        await until(lambda: len(victim.handshakes) == len(stages))
        late = await dial_tcp(addr)  # accepted, or not even that, when the end comes
        closing = loop.create_task(victim.close())
        for sock in (*socks, late):
            await read_to_end(sock)
            sock.close()
        await closing
    assert not victim.handshakes


@on_loop
async def test_who_is_turned_away_is_closed_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async with swarm() as victim:
        away: list[str] = []

        def turns_away(host: str) -> bool:
            away.append(host)
            return True

        monkeypatch.setattr(victim.handshakes, "turns_away", turns_away)
        monkeypatch.setattr(victim.handshakes, "begin", lambda *_: pytest.fail("a place was asked for"))
        monkeypatch.setattr(porch, "STAY_S", 0.05)
        endpoint = tcp_endpoint(victim.listen_addrs()[0])
        assert endpoint is not None
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        assert await reader.read() == b"" and away == ["127.0.0.1"]
        writer.close()
        monkeypatch.setattr(porch, "STAY_S", 1000.0)
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        await until(lambda: len(away) == 2)
        assert len(victim._transports[0]._porch) == 1, "it stays, and is not read"
    assert await reader.read() == b"", "closed with what listens"
    writer.close()


@pytest.mark.skipif(not syn_filter.IS_HERE, reason="socket filters of this kind are Linux's")
@on_loop
async def test_who_is_shut_out_is_not_even_accepted_until_the_moment_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five thousand connections a second, accepted to be closed, were a fifth of what the node did."""
    async with swarm() as victim:
        away: list[str] = []
        out = frozenset({"127.9.8.0/24"})
        monkeypatch.setattr(victim.handshakes, "turns_away", lambda host: away.append(host) or True)
        monkeypatch.setattr(victim.handshakes, "shut_out", lambda: out)
        (addr,) = victim.listen_addrs()
        first = await dial_tcp(addr, source="127.9.8.1")
        await until(lambda: len(away) == 1)
        kept_out = asyncio.ensure_future(dial_tcp(addr, source="127.9.8.2"))
        neighbour = await dial_tcp(addr, source="127.9.9.1")
        await until(lambda: len(away) == 2)
        assert away == ["127.9.8.1", "127.9.9.1"] and not kept_out.done()
        out = frozenset()
        second = await kept_out
        await until(lambda: len(away) == 3)
        for sock in (first, neighbour, second):
            sock.close()


@pytest.mark.skipif(not syn_filter.IS_HERE, reason="socket filters of this kind are Linux's")
@on_loop
async def test_who_is_let_in_meanwhile_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may name the peer's own network by then, and would drop the SYN of its return after a crash."""
    so_get_filter, accepted, tune = 26, [], tcp.tune
    monkeypatch.setattr(tcp, "tune", lambda sock: (accepted.append(sock), tune(sock)))
    async with swarm() as victim:
        monkeypatch.setattr(victim.handshakes, "turns_away", lambda host: host == "127.9.8.1")
        monkeypatch.setattr(victim.handshakes, "shut_out", lambda: frozenset({"127.9.8.0/24"}))
        (addr,) = victim.listen_addrs()
        first = await dial_tcp(addr, source="127.9.8.1")
        await until(lambda: victim._transports[0]._shutters._out)
        neighbour = await dial_tcp(addr, source="127.9.9.1")
        await until(lambda: accepted)
        assert accepted[0].getsockopt(socket.SOL_SOCKET, so_get_filter, 1024) == b""
        for sock in (first, neighbour):
            sock.close()


@on_loop
async def test_all_listening_addresses_together_keep_no_more_than_may_be_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each had as many places as descriptors were set aside for; there may be a dozen addresses."""
    monkeypatch.setattr(porch, "STAY_S", 1000.0)
    async with swarm(max_turned_away=2) as victim:
        for _ in range(2):
            await victim.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        monkeypatch.setattr(victim.handshakes, "turns_away", lambda _host: True)
        socks = [await dial_tcp(addr) for addr in victim.listen_addrs() for _ in range(2)]
        ended = [asyncio.ensure_future(read_to_end(sock)) for sock in socks]
        await until(lambda: sum(task.done() for task in ended) == len(socks) - 2)
    await asyncio.gather(*ended)
    for sock in socks:
        sock.close()


@on_loop
async def test_a_connection_accepted_in_the_turn_of_the_end_is_closed() -> None:
    # Its task is cancelled before its first step: nobody but the swarm can close the socket.
    async with swarm() as victim:
        ours, theirs = socket.socketpair()
        ours.close()
        theirs.close()
        listener = socket.create_server(("127.0.0.1", 0))
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        far.setblocking(False)
        near.setblocking(False)
        victim._transports[0]._accepted(far, victim)
        await victim.close()
        await turns()
        assert far.fileno() == -1, "closed"
        assert not victim.handshakes
        near.close()
        listener.close()
